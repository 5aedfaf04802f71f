"""NNCF's weight compression."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nncf
import onnx


def quantize(
    model: Path, feeds: list[dict[str, Any]], output: Path, *, mode: str, ratio: float = 1.0, **more: Any
) -> None:
    """Store weights in 4 bits, in groups of 32; `more` are AWQ, scale estimation, gptq."""
    samples = nncf.Dataset(feeds) if more else None
    made = nncf.compress_weights(
        onnx.load(model),
        mode=nncf.CompressWeightsMode(mode),
        group_size=32,
        ratio=ratio,
        all_layers=False,
        dataset=samples,
        **more,
    )
    onnx.save(made, output)
