"""Constants behind data-movement nodes, as arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.graph import edit

Array = npt.NDArray[Any]

LIMIT = 8
"""How many nodes a weight may stand behind."""


def _transpose(node: ir.Node, array: Array) -> Array:
    return np.transpose(array, edit.ints_attribute(node, "perm"))


def _cast(node: ir.Node, array: Array) -> Array:
    cast: Array = array.astype(ir.DataType(edit.int_attribute(node, "to", 1)).numpy())
    return cast


def _reshape(node: ir.Node, array: Array) -> Array | None:
    target = edit.constant(node.inputs[1])
    if target is None or edit.int_attribute(node, "allowzero", 0):
        return None
    sizes = [array.shape[i] if size == 0 else int(size) for i, size in enumerate(target.numpy().tolist())]
    return array.reshape(sizes)


def _unsqueeze(node: ir.Node, array: Array) -> Array | None:
    axes = edit.constant(node.inputs[1])
    return None if axes is None else np.expand_dims(array, tuple(axes.numpy().tolist()))


def _squeeze(node: ir.Node, array: Array) -> Array | None:
    if len(node.inputs) < 2:
        return np.squeeze(array)
    axes = edit.constant(node.inputs[1])
    return None if axes is None else np.squeeze(array, tuple(axes.numpy().tolist()))


MOVES: dict[str, Callable[[ir.Node, Array], Array | None]] = {
    "Cast": _cast,
    "Identity": lambda _node, array: array,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
"""What may stand between a constant and its reader (opset 13 and later, where axes are inputs)."""


def find(value: ir.Value | None) -> Array | None:
    """Return the array that a value always holds, or None; follows data movement back to a constant.

    The array is the constant's own memory wherever possible: never write to it.
    """
    path: list[ir.Node] = []
    while value is not None and len(path) <= LIMIT:
        tensor = edit.constant(value)
        if tensor is not None:
            return _follow(tensor.numpy(), path)
        node = value.producer()
        if node is None or edit.op_of(node) not in MOVES:
            return None
        path.append(node)
        value = node.inputs[0]
    return None


def is_constant(value: ir.Value | None) -> bool:
    """Tell whether `find` would look for an array, without reading it."""
    return root(value) is not None


def root(value: ir.Value | None) -> ir.Value | None:
    """Return the constant that `find` would read, or None."""
    steps = 0
    while value is not None and steps <= LIMIT:
        if edit.constant(value) is not None:
            return value
        node = value.producer()
        if node is None or edit.op_of(node) not in MOVES:
            return None
        value, steps = node.inputs[0], steps + 1
    return None


def _follow(array: Array, path: list[ir.Node]) -> Array | None:
    result: Array | None = array
    for node in reversed(path):
        if result is None:
            return None
        result = MOVES[node.op_type](node, result)
    return result
