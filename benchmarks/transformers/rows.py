"""Who takes part, as tables: our commands, and the peers with their options."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

DATA = ["--data", "SAMPLES"]
QUARTER = ["-p", "prune-channels sparsity=0.25 compensate=true", "-p", "shrink"]


TIDY = ["-p", "merge-nodes", "-p", "shorten-names names=all"]
DISTILL = ["-p", "distill"]


def _weights(options: str, *before: str) -> list[str]:
    return ["apply", *before, "-p", f"quantize-weights {options}", *DATA]


OURS: dict[str, list[str]] = {
    "4 bits, no samples": ["apply", "-p", "quantize-weights dtype=uint4"],
    "4 bits": _weights("dtype=uint4"),
    "bytes=1.1MB": _weights("bytes=1.1MB", *TIDY),
    "bytes=0.8MB": _weights("bytes=0.8MB", *TIDY),
    "bytes=0.6MB": _weights("bytes=0.6MB", *TIDY),
    "a quarter pruned": ["apply", *QUARTER, *DATA],
    "a quarter pruned, 4 bits": _weights("dtype=uint4", *QUARTER),
    "a quarter pruned, distilled": ["apply", *QUARTER, *DISTILL, *DATA],
    "a quarter pruned, distilled, 4 bits": _weights("dtype=uint4", *QUARTER, *DISTILL),
}
"""Row → a command without its model and output; SAMPLES stands for the windows."""

GENAI: dict[str, list[str]] = {
    "genai folder, 4 bits": _weights("dtype=uint4"),
    "genai folder, bytes=1MB": _weights("bytes=1MB"),
    "genai folder, float16": ["apply", "-p", "convert-float"],
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
