"""ONNX's checker, which is told of the operators that onnxruntime has beside ONNX's own."""

from __future__ import annotations

import onnx

from . import contrib

contrib.register()


def check_model(model: onnx.ModelProto | str, *, full: bool = False) -> None:
    """Run ONNX's checker over a model or a file; raises what that raises.

    An engine that is newer than the table of its operators may read more inputs and attributes than stand there: what
    uses those is as good as a model with operators that nobody knows.
    """
    try:
        onnx.checker.check_model(model, full_check=full)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        with contrib.unknown():
            onnx.checker.check_model(model, full_check=full)
