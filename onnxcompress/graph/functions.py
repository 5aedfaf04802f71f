"""Local functions, put in where they are called."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

from ..errors import ModelError


def inline(model: ir.Model) -> None:
    """Put the local functions in where they are called; `ModelError` where one is written for another opset."""
    try:
        common.InlinePass()(model)
    except ValueError as error:
        raise ModelError(f"its local functions cannot be put in where they are called: {error}") from error
