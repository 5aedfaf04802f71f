"""Ours: one pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from onnxcompress import apply
from onnxcompress.passes import Quantize


def quantize(model: Path, feeds: list[dict[str, Any]], output: Path, **options: Any) -> dict[str, Any]:
    """Quantize; the report that `apply` makes of every run (two models scored and timed) is in the cost."""
    _, report = apply(model, [Quantize(**options)], data=feeds, output=output, overwrite=True, evaluate_on=feeds[0])
    return {"refused": len(report.steps[-1].refused), "notes": [change.what for change in report.steps[-1].done][:3]}
