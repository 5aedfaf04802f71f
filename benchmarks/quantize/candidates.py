"""Who takes part: models, environments and candidates, as tables."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

MODELS = {
    "resnet20_cifar10": 240,
    "resnet56_cifar10": 240,
    "vit_cifar10": 240,
    "mobilenet_v1_025_imagenet": 200,
    "minilm_l6_v2": 200,
    "ppocr_rec": 120,
    "ppocr_cls": 240,
    "digits": 240,
}
"""Model → number of calibration samples, the same ones for everybody. `digits` is the demonstration's own model."""

KIT = [name for name in MODELS if name != "digits"]
EMBEDDINGS = ("minilm_l6_v2",)
"""Models whose output decides nothing: the cosine tells."""

TRANSFORMERS = ("vit_cifar10", "minilm_l6_v2")
OLD = ("vit_cifar10", "ppocr_cls", "ppocr_rec")
"""Opset below 13, the first one with a scale for each channel."""

ENVIRONMENTS = {
    "onnxruntime": ("onnxruntime==1.32.0", "onnx==1.23.2", "sympy==1.14.0"),
    "nncf": ("nncf==3.4.0", "onnx==1.23.2", "onnxruntime==1.32.0"),
    "quark": ("amd-quark==0.13", "torch==2.14.1", "onnxruntime==1.28.0", "onnxruntime-extensions==0.15.2"),
    "aimet": ("aimet-onnx==2.42.0",),
    # onnx-neural-compressor imports more than it asks for
    "neural_compressor": (
        "onnx-neural-compressor==1.0",
        "onnxruntime==1.19.2",
        "onnx==1.16.2",
        "numpy<2",
        "scipy<1.15",
        "setuptools<81",
        "transformers<4.50",
        "prettytable",
        "psutil",
        "pydantic",
        "py-cpuinfo",
    ),
    "onnxruntime_blocks": ("onnxruntime==1.32.0", "onnx==1.23.2", "onnx-ir==1.1.0", "torch==2.13.0"),
    "modelopt": ("nvidia-modelopt[onnx]==0.47.0", "onnxruntime==1.32.0", "torch==2.13.0"),
    "olive": ("olive-ai", "onnxruntime==1.32.0", "torch==2.13.0", "requests"),
}
"""Environment → what pip installs there. Ours, and plain inference, run where this command runs."""


@dataclass(frozen=True)
class Candidate:
    """One way to quantize.

    Attributes
    ----------
    peer : str
        A file in ``peers/``, with a function ``quantize(model, feeds, output, **options)``.
    options : dict of str to Any
    environment : str or None
        None is the interpreter that runs this command.
    only : tuple of str
        Models that it is for; all if empty.
    """

    peer: str
    options: dict[str, Any] = field(default_factory=dict)
    environment: str | None = None
    only: tuple[str, ...] = ()


PLAIN = "plain inference"

_TEXTBOOK = {"correct": False, "rounding": "nearest"}
_ORT, _NNCF, _QUARK, _AIMET, _INC, *_ = ENVIRONMENTS

CANDIDATES: dict[str, Candidate] = {
    PLAIN: Candidate("plain"),
    "ours": Candidate("ours"),
    "ours, plain": Candidate("ours", _TEXTBOOK),
    "ours, plain, percentile": Candidate("ours", {**_TEXTBOOK, "calibration": "percentile"}),
    "ours, plain, entropy": Candidate("ours", {**_TEXTBOOK, "calibration": "entropy"}),
    "ours, corrected": Candidate("ours", {"correct": True, "rounding": "nearest"}),
    "ours, moving average": Candidate("ours", {"calibration": "moving_average"}),
    "ours, percentile": Candidate("ours", {"calibration": "percentile"}),
    "ours, entropy": Candidate("ours", {"calibration": "entropy"}),
    "ours, mse": Candidate("ours", {"calibration": "mse"}),
    "ours, max_drop .003": Candidate("ours", {"max_drop": 0.003}),
    "onnxruntime, min-max": Candidate("onnxruntime_static", {"method": "MinMax"}, _ORT),
    "onnxruntime, min-max, raised": Candidate("onnxruntime_static", {"method": "MinMax", "opset": 17}, _ORT, OLD),
    "onnxruntime, percentile": Candidate("onnxruntime_static", {"method": "Percentile"}, _ORT),
    "onnxruntime, percentile, raised": Candidate(
        "onnxruntime_static", {"method": "Percentile", "opset": 17}, _ORT, OLD
    ),
    "onnxruntime, entropy": Candidate("onnxruntime_static", {"method": "Entropy"}, _ORT),
    "onnxruntime, entropy, raised": Candidate("onnxruntime_static", {"method": "Entropy", "opset": 17}, _ORT, OLD),
    "onnxruntime, int8": Candidate("onnxruntime_static", {"method": "MinMax", "activations": "QInt8"}, _ORT),
    "nncf": Candidate("nncf_quantize", {}, _NNCF),
    "nncf, raised": Candidate("nncf_quantize", {"opset": 17}, _NNCF, OLD),
    "nncf, transformer": Candidate("nncf_quantize", {"transformer": True, "opset": 17}, _NNCF, TRANSFORMERS),
    "nncf, exact bias": Candidate("nncf_quantize", {"fast_bias_correction": False, "opset": 17}, _NNCF),
    "quark": Candidate("quark_quantize", {}, _QUARK),
    "quark, cle": Candidate("quark_quantize", {"algorithms": ["CLEConfig"]}, _QUARK),
    "quark, adaround": Candidate("quark_quantize", {"algorithms": ["AdaRoundConfig"]}, _QUARK),
    "aimet": Candidate("aimet_quantize", {}, _AIMET),
    "aimet, cle": Candidate("aimet_quantize", {"equalise": True}, _AIMET),
    "aimet, adaround": Candidate("aimet_quantize", {"adaround": True}, _AIMET),
    "neural compressor": Candidate("neural_compressor_quantize", {}, _INC),
    "neural compressor, smooth": Candidate("neural_compressor_quantize", {"smooth": True}, _INC, TRANSFORMERS),
}
