"""NNCF, ONNX backend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nncf
import onnx
import opsets


def quantize(
    model: Path,
    feeds: list[dict[str, Any]],
    output: Path,
    fast_bias_correction: bool = True,
    transformer: bool = False,
    opset: int | None = None,
) -> None:
    """Quantize with all samples."""
    quantized = nncf.quantize(
        opsets.load(model, opset),
        nncf.Dataset(feeds),
        subset_size=len(feeds),
        fast_bias_correction=fast_bias_correction,
        model_type=nncf.ModelType.TRANSFORMER if transformer else None,
    )
    onnx.save(quantized, output)
