"""Reverse-mode differentiation: gradients of a loss, written behind it as operators of the same graph."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from ..graph import edit
from .rules import CONSTANT_RESULT, RULES
from .rules.step import Step
from .rules.tape import Tape, Tensor


def differentiate(
    graph: ir.Graph, loss: ir.Value, weights: Sequence[ir.Value], kernels: frozenset[str] = frozenset()
) -> list[ir.Value]:
    """Append the gradients of a scalar by `weights` to its graph.

    Each node that lies between a weight and the loss is handled by the rule of its operator, once, from the loss
    backward; gradients of a value that several nodes read are summed. Linear in the size of the graph.

    Parameters
    ----------
    graph : onnx_ir.Graph
        Sorted topologically, with shapes inferred; changed in place.
    loss : onnx_ir.Value
        A scalar that `graph` computes.
    weights : sequence of onnx_ir.Value
        Initializers or inputs, which gradients reach (`gradients.find_trainable` has found them).
    kernels : frozenset of str
        Training operators that the engine has, which some rules prefer.

    Returns
    -------
    list of onnx_ir.Value
        The gradient of each weight, with its shape.
    """
    between = _between(graph, loss, weights)
    tape = Tape(graph, int(graph.opset_imports[""]), kernels)
    parts: dict[ir.Value, list[Tensor]] = {loss: [tape.of(1.0).reshape([])]}
    targets = set(weights)
    for node in reversed(between):
        gradients = [_total(tape, parts.pop(output, [])) for output in node.outputs]
        if not any(gradient is not None for gradient in gradients):
            continue
        rule = RULES[edit.op_of(node)]
        varies = {
            index
            for index, value in enumerate(node.inputs)
            if value is not None and rule.carries(index) and (value in targets or value.producer() in between)
        }
        for index, gradient in rule.write(Step(node, tape, gradients, varies)).items():
            if index in varies:
                parts.setdefault(node.inputs[index], []).append(gradient)  # type: ignore[arg-type]
    return [_finished(tape, weight, parts) for weight in weights]


def _between(graph: ir.Graph, loss: ir.Value, weights: Sequence[ir.Value]) -> dict[ir.Node, None]:
    """Return the nodes through which weights move the loss, in the graph's order."""
    reached = set(weights)
    forward: dict[ir.Node, None] = {}
    for node in graph:
        op = edit.op_of(node)
        if op not in CONSTANT_RESULT and any(v in reached and _carries(op, i) for i, v in enumerate(node.inputs)):
            forward[node] = None
            reached.update(node.outputs)
    needed: set[ir.Value] = {loss}
    kept = []
    for node in reversed(forward):
        if any(output in needed for output in node.outputs):
            kept.append(node)
            needed.update(value for value in node.inputs if value is not None)
    return dict.fromkeys(reversed(kept))


def _carries(op: str, index: int) -> bool:
    """Tell whether a gradient would flow back; what has no rule is not passed over, but ends in an error."""
    return op not in RULES or RULES[op].carries(index)


def _total(tape: Tape, parts: list[Tensor]) -> Tensor | None:
    return None if not parts else parts[0] if len(parts) == 1 else tape.op("Sum", *parts)


def _finished(tape: Tape, weight: ir.Value, parts: dict[ir.Value, list[Tensor]]) -> ir.Value:
    total = _total(tape, parts.get(weight, []))
    gradient = (tape.of(weight) * 0.0 if total is None else tape.op("Identity", total)).value
    gradient.name, gradient.shape = f"{weight.name}_grad", weight.shape
    gradient.type = ir.TensorType(ir.DataType.FLOAT)
    return gradient
