"""Operators that compute each element by itself: arithmetic, elementary functions, choices between two."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from ...graph import edit
from .step import Gradients, Rule, Step, first
from .tape import Tensor


def _binary(step: Step, left: Tensor | None, right: Tensor | None) -> Gradients:
    """Sum the gradients of two operands over what was broadcast."""
    return {i: step.fit(g, i) for i, g in ((0, left), (1, right)) if g is not None}


def _add(step: Step) -> Gradients:
    return {i: step.fit(step.g, i) for i in range(len(step.node.inputs)) if step.wants(i)}


def _sub(step: Step) -> Gradients:
    return _binary(step, step.g, -step.g if step.wants(1) else None)


def _mul(step: Step) -> Gradients:
    left = step.g * step.input(1) if step.wants(0) else None
    return _binary(step, left, step.g * step.x if step.wants(1) else None)


def _div(step: Step) -> Gradients:
    quotient = step.g / step.input(1)
    return _binary(step, quotient, -(quotient * step.y) if step.wants(1) else None)


def _mean(step: Step) -> Gradients:
    share = step.g / float(len(step.node.inputs))
    return {i: step.fit(share, i) for i in range(len(step.node.inputs)) if step.wants(i)}


def _pow(step: Step) -> Gradients:
    exponent = step.input(1)
    held = step.constant(1)
    if held is not None and held.dtype.kind in "iu":
        exponent = step.tape.of(held.astype(np.float32))
    base = None
    if step.wants(0):
        steep = held is None or bool((held < 1).any())
        g, x = _without_poles(step.g, step.x) if steep else (step.g, step.x)
        base = g * exponent * step.tape.op("Pow", x, exponent - 1.0)
    if not step.wants(1):
        return _binary(step, base, None)
    positive = step.x > 0.0
    logarithm = step.tape.op("Log", step.tape.op("Where", positive, step.x, step.tape.of(1.0)))
    return _binary(step, base, step.g * step.y * logarithm)


def _without_poles(gradient: Tensor, divisor: Tensor) -> tuple[Tensor, Tensor]:
    """Take 0 for a slope that is infinite at 0, as that of a root: a Relu before it could not make 0 of infinity."""
    zero = divisor.equals(0.0)
    return gradient.only(gradient.tape.op("Not", zero)), divisor + zero.number()


def _sqrt(step: Step) -> Tensor:
    gradient, root = _without_poles(step.g, step.y)
    return gradient * 0.5 / root


def _extreme(step: Step) -> Gradients:
    """Give the gradient of Max and Min to the operand that was chosen, to the first one of equals."""
    found: Gradients = {}
    left = step.g
    for index in range(len(step.node.inputs)):
        chosen = step.input(index).equals(step.y)
        if step.wants(index):
            found[index] = step.fit(left.only(chosen), index)
        left = left.only(step.tape.op("Not", chosen))
    return found


def _where(step: Step) -> Gradients:
    condition, found = step.input(0), Gradients()
    if step.wants(1):
        found[1] = step.fit(step.g.only(condition), 1)
    if step.wants(2):
        found[2] = step.fit(step.g.only(step.tape.op("Not", condition)), 2)
    return found


def _clip(step: Step) -> Tensor:
    """Let through what was not clipped."""
    return step.g.only(step.x.equals(step.y))


def _cast(step: Step) -> Tensor:
    kind = step.node.inputs[0].dtype if step.node.inputs[0] is not None else None
    return step.tape.op("Cast", step.g, to=int(kind or ir.DataType.FLOAT))


def _casts_to_integers(node: ir.Node) -> str:
    return "" if ir.DataType(node.attributes.get_int("to", 1)).is_floating_point() else "to a type of integers"


def _is_like_integers(node: ir.Node) -> str:
    like = node.inputs[1].dtype if node.inputs[1] is not None else None
    return "" if like is not None and like.is_floating_point() else "to a type that is not floating-point"


def _in_training_mode(node: ir.Node) -> str:
    tensor = edit.constant(node.inputs[2]) if len(node.inputs) > 2 else None
    given = len(node.inputs) > 2 and node.inputs[2] is not None
    evaluates = not given or (tensor is not None and not tensor.numpy().any())
    return "" if evaluates else "in training mode"


def _unary(op_type: str, step: Step) -> Tensor:
    return step.tape.op(op_type, step.x)


def _root(step: Step, square: Tensor) -> Tensor:
    return step.tape.op("Sqrt", square)


RULES: dict[str, Rule] = {
    "Abs": first(lambda s: s.g * _unary("Sign", s)),
    "Acos": first(lambda s: -(s.g / _root(s, 1.0 - s.x * s.x))),
    "Acosh": first(lambda s: s.g / _root(s, s.x * s.x - 1.0)),
    "Add": Rule(_add),
    "Asin": first(lambda s: s.g / _root(s, 1.0 - s.x * s.x)),
    "Asinh": first(lambda s: s.g / _root(s, s.x * s.x + 1.0)),
    "Atan": first(lambda s: s.g / (s.x * s.x + 1.0)),
    "Atanh": first(lambda s: s.g / (1.0 - s.x * s.x)),
    "Cast": first(_cast, _casts_to_integers),
    "CastLike": first(_cast, _is_like_integers),
    "Clip": first(_clip),
    "Cos": first(lambda s: -(s.g * _unary("Sin", s))),
    "Cosh": first(lambda s: s.g * _unary("Sinh", s)),
    "Div": Rule(_div),
    "Dropout": first(lambda s: s.g, _in_training_mode),
    "Erf": first(lambda s: s.g * s.tape.op("Exp", -(s.x * s.x)) * (2 / math.sqrt(math.pi))),
    "Exp": first(lambda s: s.g * s.y),
    "Identity": first(lambda s: s.g),
    "Log": first(lambda s: s.g / s.x),
    "Max": Rule(_extreme),
    "Min": Rule(_extreme),
    "Mul": Rule(_mul),
    "Mean": Rule(_mean),
    "Neg": first(lambda s: -s.g),
    "Pow": Rule(_pow),
    "Reciprocal": first(lambda s: -(s.g * s.y * s.y)),
    "Sin": first(lambda s: s.g * _unary("Cos", s)),
    "Sinh": first(lambda s: s.g * _unary("Cosh", s)),
    "Sqrt": first(_sqrt),
    "Sub": Rule(_sub),
    "Sum": Rule(_add),
    "Tan": first(lambda s: s.g * (s.y * s.y + 1.0)),
    "Where": Rule(_where, frozenset({1, 2})),
}
