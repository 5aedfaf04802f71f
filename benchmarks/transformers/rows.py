"""Who takes part, as tables: our commands, and the peers with their options."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

DATA = ["--data", "SAMPLES"]
QUARTER = ["-p", "prune-channels sparsity=0.25 compensate=true", "-p", "shrink"]

OURS: dict[str, list[str]] = {
    "4 bits, no samples": ["apply", "-p", "quantize-weights dtype=uint4"],
    "4 bits, gptq": ["apply", "-p", "quantize-weights dtype=uint4 rounding=gptq", *DATA],
}
"""Row → a command without its model and output; SAMPLES stands for the windows."""

GENAI: dict[str, list[str]] = {
    "genai folder, 4 bits, gptq": ["apply", "-p", "quantize-weights dtype=uint4 rounding=gptq", *DATA],
}
"""The same for a folder that onnxruntime-genai's builder wrote."""


@dataclass(frozen=True)
class Peer:
    """What another tool does.

    Attributes
    ----------
    file : str
        In ``peers/``, with a function ``quantize(model, feeds, output, **options)``.
    environment : str
    options : dict
    samples : int
        How many windows it is given.
    """

    file: str
    environment: str
    options: dict[str, Any] = field(default_factory=dict)
    samples: int = 128


def _blocks(algorithm: str) -> Peer:
    return Peer("onnxruntime_blocks", "onnxruntime_blocks", {"algorithm": algorithm}, samples=32)


PEERS: dict[str, Peer] = {
    "onnxruntime, RTN": _blocks("rtn"),
    "onnxruntime, HQQ": _blocks("hqq"),
    "onnxruntime, GPTQ": _blocks("gptq"),
    "onnxruntime, k-quant": _blocks("k_quant"),
    "NNCF, symmetric": Peer("nncf_weights", "nncf", {"mode": "int4_sym"}),
    "NNCF, AWQ and scale estimation": Peer(
        "nncf_weights", "nncf", {"mode": "int4_sym", "awq": True, "scale_estimation": True}
    ),
    "ModelOpt, RTN": Peer("modelopt_int4", "modelopt", {"method": "rtn_dq"}),
    "ModelOpt, AWQ": Peer("modelopt_int4", "modelopt", {"method": "awq_lite"}),
    "Olive, RTN": Peer(
        "olive_blocks", "olive", {"name": "olive.passes.onnx.rtn_quantization.OnnxBlockWiseRtnQuantization"}
    ),
    "Olive, HQQ": Peer("olive_blocks", "olive", {"name": "olive.passes.onnx.hqq_quantization.OnnxHqqQuantization"}),
}
"""Row → peer."""
