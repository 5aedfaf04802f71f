"""Ours, as a user calls it: with the evidence for the report, scores on all samples and two models timed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from onnxcompress import apply
from onnxcompress.passes import Quantize


def quantize(model: Path, feeds: list[dict[str, Any]], output: Path, **options: Any) -> None:
    """Quantize by `apply`."""
    apply(model, [Quantize(**options)], data=feeds, evaluate_on=feeds, output=output, overwrite=True)
