"""What a user does when a tool wants a newer opset."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import version_converter


def load(path: Path, opset: int | None) -> onnx.ModelProto:
    """Load a model, raised to an opset by onnx's own converter."""
    model = onnx.load(path)
    here = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    return model if opset is None or here >= opset else version_converter.convert_version(model, opset)
