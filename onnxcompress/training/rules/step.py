"""What a rule sees of the node that it differentiates."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import onnx_ir as ir

from ...graph import edit
from .tape import Dim, Operand, Tape, Tensor


class Step:
    """One node on the way back: its inputs and outputs, the gradients of its outputs, and a tape to write on.

    Attributes
    ----------
    node : onnx_ir.Node
    tape : Tape
    gradients : list of Tensor or None
        One for each output; None where the loss does not vary with it.
    """

    def __init__(self, node: ir.Node, tape: Tape, gradients: list[Tensor | None], wanted: Collection[int]) -> None:
        self.node, self.tape, self.gradients, self._wanted = node, tape, gradients, wanted

    def wants(self, index: int) -> bool:
        """Tell whether the gradient of an input is asked for."""
        return index in self._wanted

    @property
    def x(self) -> Tensor:
        """The first input."""
        return self.input(0)

    @property
    def y(self) -> Tensor:
        """The first output."""
        return self.tape.of(self.node.outputs[0])

    @property
    def g(self) -> Tensor:
        """The gradient of the first output; only for rules of nodes with one output."""
        found = self.gradients[0]
        assert found is not None, "a node is differentiated because the loss varies with its output"
        return found

    def has(self, index: int) -> bool:
        """Tell whether the node has such an input."""
        return index < len(self.node.inputs) and self.node.inputs[index] is not None

    def input(self, index: int) -> Tensor:
        """Return an input that is there."""
        value = self.node.inputs[index]
        assert value is not None, "rules ask for inputs that the operator must have, or ask `has` first"
        return self.tape.of(value)

    def constant(self, index: int) -> npt.NDArray[Any] | None:
        """Return what a constant input holds; None where it is missing or computed."""
        value = self.node.inputs[index] if index < len(self.node.inputs) else None
        tensor = edit.constant(value)
        return None if tensor is None else tensor.numpy()

    def dims(self, value: ir.Value | Tensor | None) -> tuple[Dim, ...] | None:
        """Return the extents of a value of the model; None where its rank is not known."""
        return dims(value.value if isinstance(value, Tensor) else value)

    def rank(self, index: int = 0) -> int:
        """Return how many axes an input has, which `Rule.refuses` has made sure is known."""
        return len(self.dims(self.node.inputs[index]) or ())

    def fit(self, gradient: Tensor, index: int) -> Tensor:
        """Sum a gradient of the output's shape over the axes along which an input was broadcast."""
        return unbroadcast(gradient, self.dims(self.node.outputs[0]), self.input(index), self.dims(self.input(index)))

    def number(self, name: str, default: float) -> float:
        """Return an attribute that is a number."""
        return float(self.node.attributes.get_float(name, default))

    def integer(self, name: str, default: int) -> int:
        """Return an attribute that is an integer."""
        return int(self.node.attributes.get_int(name, default))


Gradients = dict[int, Tensor]
"""Input to its gradient."""


def unknown_rank(node: ir.Node) -> str:
    """Refuse a node where nobody knows how many axes its first input has."""
    data = node.inputs[0]
    return "" if data is not None and data.shape is not None else "where the rank of its input is not known"


def _refuses_nothing(_: ir.Node) -> str:
    return ""


@dataclass(frozen=True)
class Rule:
    """How to differentiate an operator.

    Attributes
    ----------
    write : callable
        Writes the gradients of the inputs that the step `wants` (others are ignored).
    inputs : frozenset of int, optional
        Those that a gradient flows back through; None: all. Others are shapes, axes, indices, conditions.
    refuses : callable
        Why there is no gradient for this form of the operator, as the end of a sentence about the node; empty if
        there is one.
    """

    write: Callable[[Step], Gradients]
    inputs: frozenset[int] | None = None
    refuses: Callable[[ir.Node], str] = _refuses_nothing

    def carries(self, index: int) -> bool:
        """Tell whether a gradient flows back through an input."""
        return self.inputs is None or index in self.inputs


def first(write: Callable[[Step], Operand], refuses: Callable[[ir.Node], str] = _refuses_nothing) -> Rule:
    """Return a rule that knows the gradient of the first input alone."""
    return Rule(lambda step: {0: step.tape.of(write(step))}, frozenset({0}), refuses)


def dims(value: ir.Value | None) -> tuple[Dim, ...] | None:
    """Return the extents of a value; None where its rank is not known."""
    if value is None or value.shape is None:
        return None
    return tuple(dim if isinstance(dim, int) else dim.value for dim in value.shape)


def unbroadcast(gradient: Tensor, made: tuple[Dim, ...] | None, operand: Tensor, has: tuple[Dim, ...] | None) -> Tensor:
    """Sum a gradient of extents `made` to those of an operand that was broadcast to them."""
    if made is not None and has is not None and made == has and None not in has:
        return gradient
    if made is None or has is None:
        return _unbroadcast_unknown(gradient, operand)
    lead = len(made) - len(has)
    if any(dim is None or (isinstance(dim, str) and dim != other) for dim, other in zip(has, made[lead:], strict=True)):
        return _unbroadcast_unknown(gradient, operand)
    summed = [lead + axis for axis, dim in enumerate(has) if dim == 1 and made[lead + axis] != 1]
    if summed:
        gradient = gradient.sum(summed)
    return gradient.sum(range(lead), keepdims=False) if lead else gradient


def _unbroadcast_unknown(gradient: Tensor, operand: Tensor) -> Tensor:
    """Sum over the axes that turn out to be broadcast when it runs."""
    tape, wanted = gradient.tape, operand.shape()
    missing = tape.op("Shape", gradient.shape()) - tape.op("Shape", wanted)
    padded = tape.op("Concat", tape.op("Expand", tape.ints(1), missing), wanted, axis=0)
    return sum_where_one(gradient, operand.reshape(padded, allowzero=True)).reshape(wanted, allowzero=True)


def sum_where_one(gradient: Tensor, operand: Tensor) -> Tensor:
    """Sum over the axes along which an operand of the same rank turns out to have one position."""
    tape = gradient.tape
    axes = tape.op("NonZero", operand.shape().equals(tape.ints(1))).reshape([-1]) + tape.ints(1)
    # One axis more, so that it is never a sum over none: onnxruntime 1.19.2 takes that for all.
    one_more = tape.op("Concat", tape.ints(0), axes, axis=0)
    return gradient.unsqueeze(0).sum(one_more).reshape(operand.shape(), allowzero=True)
