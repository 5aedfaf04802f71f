"""Which weights gradients reach, and what stops the others."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import onnx_ir as ir

from ..graph import edit, operators
from .composites import COMPOSITES
from .rules import CONSTANT_RESULT, RULES, quantize
from .rules.tape import PREFIX

WEIGHT_INPUTS: dict[str, frozenset[int]] = {
    **{op: frozenset(known.parameters) for op, known in operators.OPERATORS.items()},
    "Add": frozenset({0, 1}),
    "Einsum": frozenset(range(9)),
    "Mul": frozenset({0, 1}),
    "PRelu": frozenset({1}),
    "SimplifiedLayerNormalization": frozenset({1}),
}
"""Inputs at which an initializer is a weight. Not Sub and Div: there it is nearly always the mean and the standard
deviation that the images are normalised with."""

FACTOR = "/onnxcompress.factor"
"""What the names of constants end with that are trained whatever reads them: factors of scales."""

KEEP_WEIGHTS = operators.KEEP_ELEMENTS | quantize.RULES.keys() | {"Concat", "Expand", "Max", "Min", "Slice", "Split"}
"""What may stand between a weight and the operator that it is one of: moved, clipped, rounded."""

ADVICE = {
    "is not known": "simpler shapes help: give samples of one size, or put fold-constants before distill",
    "are not known": "simpler shapes help: give samples of one size, or put fold-constants before distill",
    "computed": "fold-constants before distill may make it a constant",
    "in training mode": "export the model for inference",
    "with sequences of different lengths": "give samples of one length",
}
"""What a reason says → what could be done about it."""


INSIDE = "is not trained: export the model without"


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
    known: dict[ir.Value, bool] = {}
    free: list[str] = []
    stopped: dict[str, str] = {}
    for name, value in graph.initializers.items():
        if not _is_weight(value, known):
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
    """Return why no gradient flows through `node`, and what could be done; an empty string where one does."""
    op = edit.op_of(node)
    rule, composite = RULES.get(op), COMPOSITES.get(op)
    what = rule.refuses(node) if rule is not None else composite.refuses(node) if composite is not None else ""
    if rule is not None and not what:
        return ""
    advice = _advice(node, what)
    return f"node '{node.name or node.outputs[0].name}' ({node.op_type}) has no gradient {what}".rstrip() + advice


def _advice(node: ir.Node, what: str) -> str:
    if edit.inner_graphs(node):
        return f"; what it runs {INSIDE}"
    if edit.op_of(node) in operators.INTEGER_OPERATORS:
        return "; put distill before quantization in the recipe"
    advice = next((advice for known, advice in ADVICE.items() if known in what), "")
    return f"; {advice}" if advice else ""


def _what_stops(graph: ir.Graph, read: Collection[ir.Value]) -> dict[ir.Node, str]:
    """For each node that the loss varies with: why no gradient gets from the loss to its inputs, or ''."""
    stops: dict[ir.Node, str] = {}
    for node in reversed(graph):
        if edit.op_of(node) in CONSTANT_RESULT or _casts_to_integers(node):
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
            reader = f"node '{node.name}' ({node.op_type})"
            reasons.append(f"{reader} is inside an If, a Loop or a Scan, which {INSIDE}")
        elif node in stops and _carries(node, index):
            reasons.append(stops[node])
    return reasons


def _carries(node: ir.Node, index: int) -> bool:
    rule = RULES.get(edit.op_of(node))
    return rule is None or rule.carries(index)


def _casts_to_integers(node: ir.Node) -> bool:
    return node.op_type == "Cast" and not ir.DataType(node.attributes.get_int("to", 1)).is_floating_point()


def _is_weight(value: ir.Value, known: dict[ir.Value, bool]) -> bool:
    """A floating-point initializer of more than one element that some node uses as a weight."""
    array = value.const_value
    if str(value.name).endswith(FACTOR):
        return True
    if array is None or not array.dtype.is_floating_point() or array.size < 2 or str(value.name).startswith(PREFIX):
        return False
    return _reaches_weight_input(value, known)


def _reaches_weight_input(value: ir.Value, known: dict[ir.Value, bool]) -> bool:
    """Look through what moves elements: directions of an LSTM, positions up to a length, a token put in front."""
    if value not in known:
        known[value] = False
        known[value] = any(
            index in WEIGHT_INPUTS.get(edit.op_of(node), ())
            or (_moves(node, index, value) and any(_reaches_weight_input(moved, known) for moved in node.outputs))
            for node, index in value.uses()
        )
    return known[value]


def _moves(node: ir.Node, index: int, value: ir.Value) -> bool:
    if node.op_type == "Concat":  # zeros that widen a tensor are no weight
        return value.const_value is None or bool(value.const_value.numpy().any())
    return edit.op_of(node) in KEEP_WEIGHTS and index == 0
