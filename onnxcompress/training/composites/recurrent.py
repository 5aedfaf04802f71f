"""LSTM, GRU and RNN, a step after the other: unrolled where the length of the sequence is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ...graph import edit, operators
from ..rules.step import Step
from ..rules.tape import Tensor
from .composite import Composite, Results, extents, given

LONGEST = 1024
"""Steps up to which it is written out: each takes some ten operators forward, and thirty back."""

ACTIVATIONS = ("Relu", "Sigmoid", "Tanh")
States = tuple[Tensor, ...]


class _Direction:
    """One direction of a recurrent operator, with weights that are matrices.

    Attributes
    ----------
    wide : list of Tensor
        What the input adds at each step, for all gates side by side.
    recurrent : Tensor
        Weights of the state, [gates · hidden, hidden].
    bias : Tensor or None
        Of the state, where it must be told apart from that of the input.
    """

    def __init__(self, step: Step, rows: Tensor, number: int, count: int, length: int) -> None:
        self.step, self.tape, self.hidden = step, step.tape, hidden_size(step.node)
        gates = operators.facts(edit.op_of(step.node)).gates
        split = {i: _direction(step, i, number, count) for i in (1, 2, 3, 5, 6) if step.has(i)}
        self.initial = [split.get(index) for index in (5, 6)]
        self.recurrent, self.bias = split[2], None
        bias = None
        if step.has(3):
            each = gates * self.hidden
            of_input, of_state = self.tape.ops("Split", split[3], self.tape.ints(each, each), axis=0, outputs=2)
            apart = edit.op_of(step.node) == "GRU"
            bias, self.bias = (of_input, of_state) if apart else (of_input + of_state, None)
        wide = self.tape.op("MatMul", rows, split[1].transpose(1, 0))
        wide = wide if bias is None else wide + bias
        ones = self.tape.ints(*[1] * length)
        parts = self.tape.ops("Split", wide, ones, axis=0, outputs=length) if length > 1 else [wide]
        self.wide = [part.squeeze(0) for part in parts]
        names = [str(name) for name in step.node.attributes.get_strings("activations", [])]
        usual = CELLS[step.node.op_type].activations
        self.activations = names[number * len(usual) : (number + 1) * len(usual)] or list(usual)

    def activate(self, number: int, tensor: Tensor) -> Tensor:
        return self.tape.op(self.activations[number], tensor)

    def state(self, number: int) -> Tensor:
        """Return the initial state; zeros where none is given."""
        found = self.initial[number]
        if found is not None:
            return found
        rows = self.tape.op("Shape", self.wide[0], start=0, end=1)
        return self.tape.op(
            "Expand", self.tape.of(0.0), self.tape.op("Concat", rows, self.tape.ints(self.hidden), axis=0)
        )

    def parts(self, tensor: Tensor, *gates: int) -> list[Tensor]:
        """Cut side by side into as many gates each."""
        sizes = self.tape.ints(*(count * self.hidden for count in gates))
        return self.tape.ops("Split", tensor, sizes, axis=1, outputs=len(gates))

    def product(self, state: Tensor, weight: Tensor, addend: Tensor | None) -> Tensor:
        return self.tape.op("Gemm", state, weight, addend, transB=1)


def _direction(step: Step, index: int, number: int, count: int) -> Tensor:
    """Return what one direction has of an input, without that axis."""
    tensor, axis = step.input(index), int(index > 3 and bool(step.integer("layout", 0)))
    if count > 1:
        tensor = step.tape.ops("Split", tensor, step.tape.ints(*[1] * count), axis=axis, outputs=count)[number]
    return tensor.squeeze(axis)


def _lstm(d: _Direction) -> Callable[[Tensor, States], States]:
    """S. Hochreiter, J. Schmidhuber, "Long Short-Term Memory", 1997."""

    def step(wide: Tensor, states: States) -> States:
        hidden, cell = states
        gates, candidate = d.parts(d.product(hidden, d.recurrent, wide), 3, 1)
        into, out, forget = d.parts(d.activate(0, gates), 1, 1, 1)
        cell = forget * cell + into * d.activate(1, candidate)
        return out * d.activate(2, cell), cell

    return step


def _gru(d: _Direction) -> Callable[[Tensor, States], States]:
    """K. Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder", arXiv:1406.1078."""
    sizes = d.tape.ints(2 * d.hidden, d.hidden)
    weights = d.tape.ops("Split", d.recurrent, sizes, axis=0, outputs=2)
    biases: list[Tensor | None] = [None, None]
    if d.bias is not None:
        biases = [*d.tape.ops("Split", d.bias, sizes, axis=0, outputs=2)]
    behind = bool(d.step.integer("linear_before_reset", 0))

    def step(wide: Tensor, states: States) -> States:
        hidden = states[0]
        of_gates, of_candidate = d.parts(wide, 2, 1)
        of_gates = of_gates if biases[0] is None else of_gates + biases[0]
        update, reset = d.parts(d.activate(0, d.product(hidden, weights[0], of_gates)), 1, 1)
        if behind:
            candidate = of_candidate + reset * d.product(hidden, weights[1], biases[1])
        else:
            of_candidate = of_candidate if biases[1] is None else of_candidate + biases[1]
            candidate = d.product(reset * hidden, weights[1], of_candidate)
        new = d.activate(1, candidate)
        return (new + update * (hidden - new),)

    return step


def _rnn(d: _Direction) -> Callable[[Tensor, States], States]:
    return lambda wide, states: (d.activate(0, d.product(states[0], d.recurrent, wide)),)


@dataclass(frozen=True)
class Cell:
    """A recurrent operator.

    Attributes
    ----------
    begin : callable
        Returns, for a direction, what makes the next states of what the input adds and the states.
    activations : tuple of str
        The usual ones.
    states : int
        How many there are.
    """

    begin: Callable[[_Direction], Callable[[Tensor, States], States]]
    activations: tuple[str, ...]
    states: int = 1


CELLS = {
    "GRU": Cell(_gru, ("Sigmoid", "Tanh")),
    "LSTM": Cell(_lstm, ("Sigmoid", "Tanh", "Tanh"), 2),
    "RNN": Cell(_rnn, ("Tanh",)),
}


def _unroll(step: Step) -> Results:
    node, tape = step.node, step.tape
    batch_first = bool(step.integer("layout", 0))
    rows = step.x.transpose(1, 0, 2) if batch_first else step.x
    length, cell = _length(node) or 0, CELLS[node.op_type]
    names = _directions(node)
    sequences, lasts = [], []
    for number, backward in enumerate(names):
        one = _Direction(step, rows, number, len(names), length)
        advance = cell.begin(one)
        states: States = tuple(one.state(i) for i in range(cell.states))
        made: list[Tensor] = []
        for wide in reversed(one.wide) if backward else one.wide:
            states = advance(wide, states)
            made.append(states[0].unsqueeze(0, 1))
        sequences.append(tape.op("Concat", *(reversed(made) if backward else made), axis=0))
        lasts.append([state.unsqueeze(0) for state in states])
    whole = [tape.op("Concat", *sequences, axis=1)]
    whole += [tape.op("Concat", *(states[i] for states in lasts), axis=0) for i in range(len(lasts[0]))]
    if batch_first:
        return [whole[0].transpose(2, 0, 1, 3), *(state.transpose(1, 0, 2) for state in whole[1:])]
    return whole


def _directions(node: ir.Node) -> list[bool]:
    """Tell of each direction whether it runs backward."""
    return {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[
        node.attributes.get_string("direction", "forward")
    ]


def _length(node: ir.Node) -> int | None:
    shape = extents(node.inputs[0])
    return shape[edit.int_attribute(node, "layout", 0)] if len(shape) == 3 else None


def hidden_size(node: ir.Node) -> int:
    """Return how many numbers a state has; 0 where that is not known."""
    shape = extents(node.inputs[2])
    return int(shape[-1] or 0) if shape else 0


def _unfit(node: ir.Node) -> str:
    if given(node, 7):
        return "with peepholes"
    if "clip" in node.attributes or edit.int_attribute(node, "input_forget", 0):
        return "with clip or input_forget"
    names = [str(name) for name in node.attributes.get_strings("activations", [])]
    other = [name for name in names if name not in ACTIVATIONS]
    if other:
        return f"with the activation '{other[0]}'"
    if not hidden_size(node):
        return "where the shape of its weights is not known"
    length = _length(node)
    if length is None:
        return "where the length of its sequence is not known before it runs"
    if length > LONGEST:
        return f"over {length} steps, more than {LONGEST}"
    lengths = edit.constant(node.inputs[4]) if given(node, 4) else None
    if given(node, 4) and (lengths is None or not np.all(lengths.numpy() == length)):
        return "with sequences of different lengths"
    return ""


COMPOSITES: dict[str, Composite] = dict.fromkeys(operators.RECURRENT, Composite(_unroll, _unfit))
