"""Which operators have a gradient in onnxruntime-training 1.19.2 on a CPU, and which weights can be trained.

The table was measured, not copied: `tests/training/test_training.py` differentiates a small model for every operator
in it in the training interpreter and compares with finite differences.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import onnx_ir as ir

from ..graph import edit, operators
from ..graph.windows import asks_for_same

_DIFFERENTIABLE = """
    Abs Add BatchNormalization Cast Clip Concat Conv Cos Div Dropout Erf Exp Expand Flatten Gather
    GatherElements GatherND Gelu Gemm GlobalAveragePool Identity LayerNormalization LeakyRelu Log LogSoftmax MatMul
    Max MaxPool Min Mul Neg Pad Pow Reciprocal ReduceL2 ReduceLogSumExp ReduceMean ReduceSum Relu Reshape
    ScatterElements ScatterND Sigmoid Sin Slice Softmax Split Sqrt Squeeze Sub Tanh Tile Transpose Trilu Unsqueeze
    Where
"""
DIFFERENTIABLE = frozenset(_DIFFERENTIABLE.split())
"""Operators of the standard domain that gradients flow through."""

_NO_GRADIENT_NEEDED = """
    And ArgMax ArgMin ConstantOfShape Equal EyeLike Greater GreaterOrEqual IsInf IsNaN Less LessOrEqual NonZero Not
    OneHot Or Shape Size Xor
"""
NO_GRADIENT_NEEDED = frozenset(_NO_GRADIENT_NEEDED.split())
"""Operators whose result does not vary with their inputs; a path through them trains nothing and stops nothing."""

STOPPED_INPUTS: dict[str, frozenset[int]] = {
    "BatchNormalization": frozenset({3, 4}),
    "Clip": frozenset({1, 2}),
    "Dropout": frozenset({1, 2}),
    "Expand": frozenset({1}),
    "Gather": frozenset({1}),
    "GatherElements": frozenset({1}),
    "GatherND": frozenset({1}),
    "Pad": frozenset({1, 2, 3}),
    "ReduceL2": frozenset({1}),
    "ReduceLogSumExp": frozenset({1}),
    "ReduceMean": frozenset({1}),
    "ReduceSum": frozenset({1}),
    "Reshape": frozenset({1}),
    "ScatterElements": frozenset({1}),
    "ScatterND": frozenset({1}),
    "Slice": frozenset({1, 2, 3, 4}),
    "Split": frozenset({1}),
    "Squeeze": frozenset({1}),
    "Tile": frozenset({1}),
    "Trilu": frozenset({1}),
    "Unsqueeze": frozenset({1}),
    "Where": frozenset({0}),
}
"""Inputs that no gradient flows back through: shapes, axes, indices, conditions."""

WEIGHT_INPUTS: dict[str, frozenset[int]] = {
    **{op: frozenset(known.parameters) for op, known in operators.OPERATORS.items() if op in DIFFERENTIABLE},
    "Add": frozenset({0, 1}),
    "Mul": frozenset({0, 1}),
}
"""Inputs at which an initializer is a weight. Not Sub and Div: there it is nearly always the mean and the standard
deviation that the images are normalised with."""


@dataclass(frozen=True)
class Trainable:
    """Which weights gradients reach, and what stops the others.

    Attributes
    ----------
    free : tuple of str
        Initializers that can be trained, in the order in which the graph holds them.
    stopped : dict of str to str
        Initializers that cannot, with the reason: names the node that stops the gradient and its operator.
    """

    free: tuple[str, ...]
    stopped: dict[str, str]


def find_trainable(graph: ir.Graph, read: Collection[ir.Value]) -> Trainable:
    """Find the float32 weights of `graph` that gradients of a loss reach.

    Only nodes between a weight and the loss count: a node without a gradient in the preprocessing stops nothing.

    Parameters
    ----------
    graph : ir.Graph
        The graph, sorted topologically.
    read : collection of ir.Value
        What the loss is computed from.
    """
    stops = _what_stops(graph, read)
    free: list[str] = []
    stopped: dict[str, str] = {}
    for name, value in graph.initializers.items():
        if not _is_weight(value):
            continue
        reasons = _onward(graph, value, stops)
        if not reasons:
            continue
        reason = next((r for r in reasons if r), "")
        if not reason and value.dtype != ir.DataType.FLOAT:
            reason = f"it is {value.dtype}, and only float32 weights are trained"
        if reason:
            stopped[name] = reason
        else:
            free.append(name)
    return Trainable(tuple(free), stopped)


def why_no_gradient(node: ir.Node) -> str:
    """Return why no gradient flows through `node`, or an empty string."""
    label = f"node '{node.name or node.outputs[0].name}' ({node.op_type})"
    if node.domain not in ("", "ai.onnx") or node.op_type not in DIFFERENTIABLE:
        return f"{label} has no gradient"
    lacking = LACKING.get(node.op_type)
    what = "" if lacking is None else lacking(node)
    return f"{label} has no right gradient {what}" if what else ""


def _auto_pad(node: ir.Node) -> str:
    # forms.write_out_padding has written out all that it could.
    return "with auto_pad where the size of its input is not known before it runs" if asks_for_same(node) else ""


def _dropout(node: ir.Node) -> str:
    mode = node.inputs[2] if len(node.inputs) > 2 else None
    tensor = edit.constant(mode)
    evaluates = mode is None or (tensor is not None and not tensor.numpy().any())
    return "" if evaluates else "in training mode"


def _layer_norm(node: ir.Node) -> str:
    data, scale = node.inputs[0], node.inputs[1]
    if data is None or scale is None or data.shape is None or scale.shape is None:
        return ""
    axis = node.attributes.get_int("axis", -1)
    normalised = data.shape[axis % len(data.shape) :]
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return "without a bias"
    return "" if len(scale.shape) == len(normalised) else "with a scale that is broadcast"


def _max_pool(node: ir.Node) -> str:
    columns_first = node.attributes.get_int("storage_order", 0)
    return "where it numbers the maxima column by column" if columns_first else _auto_pad(node)


def _pad(node: ir.Node) -> str:
    mode = node.attributes.get_string("mode", "constant")
    if mode != "constant":
        return f"in {mode} mode"
    return "with an input axes" if len(node.inputs) > 3 and node.inputs[3] is not None else ""


def _scatter(node: ir.Node) -> str:
    return "with a reduction" if node.attributes.get_string("reduction", "none") != "none" else ""


def _slice(node: ir.Node) -> str:
    steps = edit.constant(node.inputs[4]) if len(node.inputs) > 4 else None
    return "" if steps is None or (steps.numpy() > 0).all() else "with steps backward"


def _split(node: ir.Node) -> str:
    return "" if all(output.uses() for output in node.outputs) else "where an output of it is not used"


def _transpose(node: ir.Node) -> str:
    return "" if "perm" in node.attributes else "without perm where the rank of its input is not known"


LACKING: dict[str, Callable[[ir.Node], str]] = {
    "Conv": _auto_pad,
    "Dropout": _dropout,
    "LayerNormalization": _layer_norm,
    "MaxPool": _max_pool,
    "Pad": _pad,
    "ScatterElements": _scatter,
    "ScatterND": _scatter,
    "Slice": _slice,
    "Split": _split,
    "Transpose": _transpose,
}
"""Operator to what tells which of its forms have no right gradient."""


def _what_stops(graph: ir.Graph, read: Collection[ir.Value]) -> dict[ir.Node, str]:
    """For each node that the loss varies with: why no gradient gets from the loss to its inputs, or ''."""
    stops: dict[ir.Node, str] = {}
    for node in reversed(graph):
        if node.op_type in NO_GRADIENT_NEEDED or _casts_to_integers(node):
            continue
        ends_in_loss = any(output in read for output in node.outputs)
        onward = [reason for output in node.outputs for reason in _onward(graph, output, stops)]
        if ends_in_loss or onward:
            stops[node] = next((reason for reason in onward if reason), "") or why_no_gradient(node)
    return stops


def _onward(graph: ir.Graph, value: ir.Value, stops: dict[ir.Node, str]) -> list[str]:
    """What stops the gradient at each use of `value` that the loss varies with."""
    reasons = []
    for node, index in value.uses():
        if node.graph is not graph:
            reasons.append(f"node '{node.name}' ({node.op_type}) in an inner graph has no gradient")
        elif node in stops and _carries(node, index):
            reasons.append(stops[node] or _why_not_into(node, index))
    return reasons


def _why_not_into(node: ir.Node, index: int) -> str:
    """Return why no gradient flows back through one input of a node that has a gradient, or an empty string."""
    exponent = node.op_type == "Pow" and index == 1
    return f"node '{node.name or node.outputs[0].name}' (Pow) has no gradient for its exponent" if exponent else ""


def _carries(node: ir.Node, index: int) -> bool:
    return index not in STOPPED_INPUTS.get(node.op_type, ())


def _casts_to_integers(node: ir.Node) -> bool:
    return node.op_type == "Cast" and not ir.DataType(node.attributes.get_int("to", 1)).is_floating_point()


def _is_weight(value: ir.Value) -> bool:
    """A floating-point initializer of more than one element that some node uses as a weight."""
    array = value.const_value
    if array is None or not array.dtype.is_floating_point() or array.size < 2:
        return False
    return _reaches_weight_input(value)


def _reaches_weight_input(value: ir.Value) -> bool:
    for node, index in value.uses():
        if index in WEIGHT_INPUTS.get(node.op_type, ()):
            return True
        if node.op_type in operators.KEEP_ELEMENTS and index == 0 and _reaches_weight_input(node.outputs[0]):
            return True
    return False
