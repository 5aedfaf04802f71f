"""Constants as arrays, also those that are moved, cast or dequantized before they are used."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ..graph import edit
from ..graph.shapes import run_node
from ..graph.weights import constant_behind
from .engine import Engine


def array_of(engine: Engine, value: ir.Value | None) -> npt.NDArray[np.floating] | None:
    """Return the array of a constant, also of one that is moved or dequantized before use."""
    tensor = edit.constant(value)
    node = None if value is None else value.producer()
    if node is None or tensor is not None or constant_behind(value) is None:
        return None if tensor is None else tensor.numpy()
    source = array_of(engine, node.inputs[0])
    rest = [None if v is None else _known(engine, v) for v in node.inputs[1:]]
    if source is None or any(a is None and v is not None for a, v in zip(rest, node.inputs[1:], strict=True)):
        return None
    opset = max(engine.opset, OPSET_19) if node.op_type == "DequantizeLinear" else engine.opset
    moved = run_node(node, [source, *rest], opset)
    return None if moved is None else moved[0]


def _known(engine: Engine, value: ir.Value) -> npt.NDArray[np.generic] | None:
    tensor = edit.constant(value)
    return engine.constant(value) if tensor is None else tensor.numpy()


OPSET_19 = 19
"""From here on onnx's reference implementation knows DequantizeLinear, which was the same before."""
