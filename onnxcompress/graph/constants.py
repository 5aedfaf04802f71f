"""Reading constants, also those that are moved, cast or dequantized before they are used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ..errors import PassError
from .nodes import int_attribute, ints_attribute, op_of, required

Array = npt.NDArray[Any]

MAPPED = "onnxcompress.mapped"
"""Marks, in `meta`, a tensor that is computed from a mapped one, or took its place: written into a data file, one after
the other, such tensors take the memory of the largest; in a protobuf, of all of them, three times."""


def is_mapped(tensor: ir.TensorProtocol) -> bool:
    """Tell whether a tensor's values are in a data file, or are computed from such when they are read."""
    return isinstance(tensor, ir.ExternalTensor) or bool(tensor.meta.get(MAPPED))


def constant(value: ir.Value | None) -> ir.TensorProtocol | None:
    """Return the tensor of an initializer or of a Constant node's output, else None.

    An initializer that is also an input of the model is no constant: whoever runs the model may give another.
    """
    if value is None or (value.const_value is not None and value.is_graph_input()):
        return None
    if value.const_value is not None:
        return value.const_value
    node = value.producer()
    if node is None or node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
        return None
    # Read here and not through ir.convenience, which renames the tensor and so changes the model by looking at it.
    attribute = node.attributes.get("value")
    if attribute is not None and attribute.type == ir.AttributeType.TENSOR:
        given: ir.TensorProtocol = attribute.value  # `as_tensor` asks for a protocol, which takes half a millisecond
        return given
    return _from_attribute(node)


def stored(graph: ir.Graph) -> dict[str, ir.Value]:
    """Return what holds constants of a graph, by name: initializers, and outputs of Constant nodes."""
    nodes = (node.outputs[0] for node in graph if node.op_type == "Constant")
    held = {str(value.name): value for value in nodes if constant(value) is not None}
    return dict(graph.initializers) | held


def stored_in(value: ir.Value | None) -> ir.TensorProtocol | None:
    """Return the tensor of what `stored` found, also of an initializer that is an input of the model."""
    return None if value is None else value.const_value or constant(value)


CONSTANT_ATTRIBUTES = {
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
}


def _from_attribute(node: ir.Node) -> ir.TensorProtocol | None:
    """Return the number or list of a Constant node; None for text and sparse tensors, which hold no weights."""
    for name, dtype in CONSTANT_ATTRIBUTES.items():
        if name in node.attributes:
            return ir.tensor(np.asarray(node.attributes[name].value, dtype))
    return None


def tensor(value: ir.Value | None) -> ir.TensorProtocol:
    """Return the tensor of a constant.

    Raises
    ------
    PassError
        It is no constant.
    """
    found = constant(value)
    if found is None:
        name = "an input that is left out" if value is None else f"'{value.name}'"
        raise PassError(f"{name} is not a constant, and has to be one here; fold-constants may make it one")
    return found


def array(value: ir.Value | None) -> Array:
    """Return what a constant holds; raises `PassError` with its name where it is none.

    The array is the constant's own memory wherever possible: never write to it.
    """
    return tensor(value).numpy()


Read: TypeAlias = Callable[[ir.Value | None], "Array | None"]
"""Returns the array that a value always holds, or None."""


def held(value: ir.Value | None) -> Array | None:
    """Return what a constant holds, or None."""
    found = constant(value)
    return None if found is None else found.numpy()


def _operand(node: ir.Node, index: int, attribute: str, read: Read) -> Array | None:
    """Return a list of numbers, which old opsets have as an attribute; None where it is not known."""
    given = ints_attribute(node, attribute)
    if given is not None:
        return np.array(given, np.int64)
    return read(node.inputs[index]) if index < len(node.inputs) else None


def _transpose(node: ir.Node, array: Array, read: Read) -> Array:
    return np.transpose(array, ints_attribute(node, "perm"))


def _cast(node: ir.Node, array: Array, read: Read) -> Array | None:
    kind = ir.DataType(int_attribute(node, "to", ir.DataType.FLOAT))
    if kind == ir.DataType.STRING or array.dtype.kind == "O":
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        cast: Array = array.astype(kind.numpy())
    return cast


def _reshape(node: ir.Node, array: Array, read: Read) -> Array | None:
    target = _operand(node, 1, "shape", read)
    if target is None or int_attribute(node, "allowzero", 0):
        return None
    sizes = [array.shape[i] if size == 0 else int(size) for i, size in enumerate(target.tolist())]
    return array.reshape(sizes)


def _unsqueeze(node: ir.Node, array: Array, read: Read) -> Array | None:
    axes = _operand(node, 1, "axes", read)
    return None if axes is None else np.expand_dims(array, tuple(axes.tolist()))


def _squeeze(node: ir.Node, array: Array, read: Read) -> Array | None:
    if len(node.inputs) < 2 and "axes" not in node.attributes:
        return np.squeeze(array)
    axes = _operand(node, 1, "axes", read)
    return None if axes is None else np.squeeze(array, tuple(axes.tolist()))


def _dequantize(node: ir.Node, array: Array, read: Read) -> Array | None:
    scale = read(required(node, 1))
    point = read(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else np.zeros((), array.dtype)
    if scale is None or point is None:
        return None
    wide = scale.astype(np.float64), point.astype(np.float64)
    factors, zeros = (_spread(node, array, each) for each in wide)
    dequantized: Array = ((array.astype(np.float64) - zeros) * factors).astype(scale.dtype)
    return dequantized


def _spread(node: ir.Node, array: Array, each: Array) -> Array:
    """Return the scales, or zero points, of a DequantizeLinear as they broadcast to what it reads."""
    axis, block = int_attribute(node, "axis", 1) % max(array.ndim, 1), int_attribute(node, "block_size", 0)
    if each.size == 1:
        return each.reshape(())
    if block:
        return np.repeat(each, block, axis).take(np.arange(array.shape[axis]), axis)
    return each.reshape([-1 if a == axis else 1 for a in range(array.ndim)])


Move: TypeAlias = Callable[[ir.Node, Array, Read], "Array | None"]

MOVES: dict[str, Move] = {
    "Cast": _cast,
    "Identity": lambda _node, array, _read: array,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
"""What may stand between a constant and its reader: it keeps the elements."""


def _move_of(node: ir.Node | None, *, dequantized: bool) -> Move | None:
    """Return how a node moves a constant; with `dequantized`, also where it dequantizes it so that zeros stay zeros."""
    if node is None:
        return None
    op = op_of(node)
    return _dequantize if dequantized and op == "DequantizeLinear" and _is_symmetric(node) else MOVES.get(op)


def _is_symmetric(node: ir.Node) -> bool:
    """Tell whether a node dequantizes with a zero point of 0."""
    point = node.inputs[2] if len(node.inputs) > 2 else None
    known = held(point)
    return point is None or (known is not None and not known.any())


def root(value: ir.Value | None, *, dequantized: bool = False) -> ir.Value | None:
    """Return the constant that a value is, or is moved from by operators that keep its elements; else None.

    With `dequantized`, dequantizing counts as such where the zero point is 0: what is zero before is zero after.
    """
    while value is not None and constant(value) is None:
        node = value.producer()
        if node is None or _move_of(node, dequantized=dequantized) is None:
            return None
        value = node.inputs[0]
    return value


def is_constant(value: ir.Value | None) -> bool:
    """Tell whether a value is a constant or moved from one, without reading it."""
    return root(value) is not None


def find(value: ir.Value | None, *, dequantized: bool = False, read: Read = held) -> Array | None:
    """Return the array that a value always holds, or None; follows what `root` does back to a constant.

    The array is the constant's own memory wherever possible: never write to it. `read` tells what the sizes and axes
    are that the moves read.
    """
    path: list[ir.Node] = []
    while value is not None and constant(value) is None:
        node = value.producer()
        if node is None or _move_of(node, dequantized=dequantized) is None:
            return None
        path.append(node)
        value = node.inputs[0]
    result = held(value)
    for node in reversed(path):
        move = _move_of(node, dequantized=dequantized)
        result = None if result is None or move is None else move(node, result, read)
    return result


def found(value: ir.Value | None) -> Array:
    """Return what `find` does; raises `PassError` where that is nothing."""
    result = find(value)
    return array(value) if result is None else result
