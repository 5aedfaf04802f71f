"""Where a rotation of the residual stream cancels: whatever touches it is linear in it, or sees lengths only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.channels.analysis import analyse
from onnxcompress.channels.groups import Groups
from onnxcompress.channels.movement import MOVES
from onnxcompress.channels.norms import NORMS
from onnxcompress.graph import edit, operators
from onnxcompress.graph.layer import Layer

Vector = npt.NDArray[np.float64]
Place = tuple[ir.Node, int]
"""A node and one of its inputs, a constant."""

SUMS = ("Add", "Sub", "Sum")
POOLS = ("ReduceMean", "ReduceSum")
BLIND = ("Shape", "Size")


class StaysError(Exception):
    """A stream cannot be rotated: which node is at fault, and why."""

    def __init__(self, node: ir.Node, reason: str) -> None:
        super().__init__(reason)
        self.subject = edit.label(node)


class Stream:
    """The tensors whose axis has the same labels, and what a rotation of that axis is folded into.

    Attributes
    ----------
    places : dict of onnx_ir.Value to int
        Each tensor with its axis.
    width : int
    keeps_mean : bool
        Somewhere the mean over the axis is taken, or one number is added to all channels: the rotation must map the
        vector of ones to itself.
    turned : dict of Place to int
        Constants to multiply by the rotation, along which axis.
    factors : dict of Place to ndarray
        What they are multiplied by before that, along the same axis.
    ones : list of Place
        Factors of normalisations that become 1.
    """

    def __init__(self, places: dict[ir.Value, int], groups: Groups, width: int) -> None:
        self.places, self.width, self._groups = places, width, groups
        self.keeps_mean = False
        self.turned: dict[Place, int] = {}
        self.factors: dict[Place, Vector] = {}
        self.ones: list[Place] = []
        self._squares: set[ir.Value] = set()

    @property
    def name(self) -> str:
        """The first tensor."""
        return str(next(iter(self.places)).name)

    def prove(self, nodes: list[ir.Node]) -> None:
        """Visit every node that touches it.

        Raises
        ------
        StaysError
            One of them is neither linear in the stream nor indifferent to a rotation.
        """
        for node in nodes:
            if edit.op_of(node) in BLIND:
                continue
            for value in node.inputs:
                if value is not None and value in self.places and edit.constant(value) is None:
                    self._check(node, value)
            RULES.get(edit.op_of(node), _other)(self, node)
            for value in node.outputs:
                if value in self.places and value.is_graph_output():
                    raise StaysError(node, f"it gives the graph output '{value.name}'")

    def _check(self, node: ir.Node, value: ir.Value) -> None:
        if value.producer() is None:
            raise StaysError(node, f"it reads the graph input '{value.name}'")
        if value in self._squares and edit.op_of(node) not in POOLS:
            raise StaysError(node, "it reads squares of single channels")

    def inside(self, value: ir.Value | None) -> bool:
        """Tell whether a tensor is of the stream."""
        return value is not None and value in self.places

    def rank(self, value: ir.Value) -> int:
        """Return how many axes a tensor has."""
        return len(self._groups.engine.shape(value))

    def turn(self, node: ir.Node, index: int, axis: int) -> None:
        """Note a constant to rotate; one that is a matrix must not be read elsewhere too."""
        value = node.inputs[index]
        tensor = edit.constant(value)
        if value is None or tensor is None:
            raise StaysError(node, f"'{'' if value is None else value.name}' is computed")
        if not tensor.dtype.is_floating_point():
            raise StaysError(node, f"'{value.name}' is stored as {tensor.dtype.name.lower()}")
        if len(value.uses()) > 1 and len(tensor.shape) > 1:
            others = [edit.label(user) for user in {user: None for user, _ in value.uses()} if user is not node]
            who = ", ".join(others) or "it"
            raise StaysError(node, f"its weight '{value.name}' is tied: {who} reads it too, and would need another")
        self.turned[node, index] = axis

    def alike(self, node: ir.Node, value: ir.Value | None) -> bool:
        """Tell whether a value, outside of the stream, is the same for all channels of what a node gives."""
        out = node.outputs[0]
        behind = self.rank(out) - self.places[out]
        shape = self._groups.engine.shape(value) if value is not None else ()
        return len(shape) < behind or shape[-behind] == 1

    def square(self, value: ir.Value) -> None:
        """Note that a tensor holds squares, which only a reduction over the channels may read."""
        self._squares.add(value)

    def is_square(self, value: ir.Value | None) -> bool:
        """Tell whether a tensor holds squares."""
        return value in self._squares

    def fold(self, node: ir.Node, index: int, out: ir.Value, shift: int | None = None) -> None:
        """Fold the factors of a normalisation into all that read what it gives, and let them be 1."""
        tensor = edit.constant(node.inputs[index])
        if tensor is None:
            raise StaysError(node, "its factors are computed; fold-constants may make them constant")
        factors = tensor.numpy().astype(np.float64).ravel()
        if shift is not None and self.inside(node.inputs[shift]):
            self.turn(node, shift, 0)
        if (factors == factors[0]).all():  # it is a multiple of the identity, which commutes
            return
        self.ones.append((node, index))
        if shift is not None and self.inside(node.inputs[shift]):
            self._undo(node, shift, factors)
        for place, undone in self._readers(node, out):
            if undone:
                self._undo(*place, factors)
            else:
                before = self.factors.get(place)
                self.factors[place] = factors if before is None else before * factors

    def _undo(self, node: ir.Node, index: int, factors: Vector) -> None:
        """Divide what is added behind factors by them, as they will be applied behind it."""
        added = np.broadcast_to(edit.array(node.inputs[index]).astype(np.float64), (*(1,) * 8, self.width))
        if ((factors == 0) & (added != 0).reshape(-1, self.width).any(0)).any():
            raise StaysError(node, "it adds to channels whose factor is 0, so that the factors cannot be folded")
        self.factors[node, index] = 1 / np.where(factors == 0, 1, factors)

    def _readers(self, norm: ir.Node, value: ir.Value) -> Iterator[tuple[Place, bool]]:
        """Yield the weights that read a value, and, marked, the constants that are added to it before."""
        for node, index in value.uses():
            op = edit.op_of(node)
            layer = Layer.of(node)
            if op in BLIND:
                continue
            if layer is not None and index != layer.index and edit.constant(layer.value) is not None:
                yield (node, layer.index), False
            elif op in MOVES and op != "Concat" and index == 0:
                for out in node.outputs:
                    yield from self._readers(norm, out)
            elif op == "Add" and edit.constant(node.inputs[1 - index]) is not None:
                yield (node, 1 - index), True
                yield from self._readers(norm, node.outputs[0])
            else:
                raise StaysError(norm, f"its factors cannot be folded into what reads it, as {edit.label(node)} does")


def find_streams(model: ir.Model) -> tuple[list[Stream], list[StaysError]]:
    """Return the residual streams that can be rotated, and why others cannot.

    Parameters
    ----------
    model : onnx_ir.Model
        Constants folded. Not changed.

    Notes
    -----
    The tensors of a stream are those whose axis has the same labels in the group engine, position by position. That is
    residual where two computed tensors are added up, and something is normalised over the axis.
    """
    groups = Groups(analyse(model))
    classes: dict[int, dict[ir.Value, list[int]]] = {}
    rows = {}
    for value, axes in groups.axes.items():
        for axis, labels in enumerate(axes):
            if labels is not None:
                classes.setdefault(id(labels), {}).setdefault(value, []).append(axis)
                rows[id(labels)] = labels
    residual = {id(r) for node in model.graph for r in [_residual(groups, node)] if r is not None}
    residual &= {id(r) for node in model.graph for r in [_normalised(groups, node)] if r is not None}
    found, stay = [], []
    for key in (key for key in classes if key in residual):
        stream = Stream({value: axes[0] for value, axes in classes[key].items()}, groups, rows[key].shape[1])
        try:
            _prove_whole(model, groups, classes[key], rows[key])
            stream.prove(_touching(model, classes[key]))
            found.append(stream)
        except StaysError as error:
            stay.append(error)
    return found, stay


def _residual(groups: Groups, node: ir.Node) -> npt.NDArray[np.int64] | None:
    """Return the labels of the last axis of a sum of tensors that are computed."""
    op = edit.op_of(node)
    read = node.inputs[:2] if op in NORMS and len(NORMS[op].data) > 1 else node.inputs
    if op not in SUMS and read is node.inputs:
        return None
    lines = [groups.axes.get(v, [None])[-1:] for v in read if v is not None and edit.constant(v) is None]
    first: list[Any] = [line[0] for line in lines if line]
    same = len(first) > 1 and first[0] is not None and all(line is first[0] for line in first)
    apart = same and len(first[0]) == 1 and first[0].all() and len(np.unique(first[0])) == first[0].size
    return first[0] if apart else None  # channels that are added to others of the same tensor, as by RoPE, are none


def _normalised(groups: Groups, node: ir.Node) -> npt.NDArray[np.int64] | None:
    """Return the labels of the last axis of what a node normalises, or pools over that axis."""
    op, read = edit.op_of(node), groups.axes.get(node.inputs[0], [None]) if node.inputs and node.inputs[0] else [None]
    made = groups.axes.get(node.outputs[0], [None]) if node.outputs else [None]
    pools = op in (*POOLS, "ReduceL2", "ReduceSumSquare") and not any(line is read[-1] for line in made)
    return read[-1] if read and (op in NORMS or pools) else None


def _touching(model: ir.Model, places: dict[ir.Value, list[int]]) -> list[ir.Node]:
    return [node for node in model.graph if any(v in places for v in (*node.inputs, *node.outputs))]


def _prove_whole(
    model: ir.Model, groups: Groups, places: dict[ir.Value, list[int]], rows: npt.NDArray[np.int64]
) -> None:
    """Prove that all channels of the stream stand in one order wherever they stand."""
    first = next(node for node in _touching(model, places))
    inside = groups.table(rows[0].tolist())
    for value, axes in groups.axes.items():
        makers = [value.producer(), *(user for user, _ in value.uses())]
        node = next((maker for maker in makers if maker is not None), first)
        if len(places.get(value, ())) > 1:
            raise StaysError(node, f"two axes of '{value.name}' count the same channels")
        if any(r is not None and r is not rows and inside[r].any() for r in axes):
            raise StaysError(node, f"channels of the stream stand in another order, or some of them, in '{value.name}'")


def _other(stream: Stream, node: ir.Node) -> None:
    if edit.op_of(node) in MOVES:
        _move(stream, node)
        return
    raise StaysError(node, f"{node.op_type} works on single channels")


def _move(stream: Stream, node: ir.Node) -> None:
    """What moves whole rows of channels does not look at them; constants among them are rotated."""
    known = MOVES[edit.op_of(node)]
    moved = node.inputs if known.data is None else [node.inputs[known.data]]
    fill = node.inputs[2] if edit.op_of(node) == "Pad" and len(node.inputs) > 2 else None
    filled = fill is not None and (edit.constant(fill) is None or edit.array(fill).any())
    whole = all(stream.inside(v) for v in (*moved, *node.outputs) if v is not None)
    if not whole or filled:
        raise StaysError(node, "it does not move whole rows of channels")
    for index, value in enumerate(node.inputs):
        if value is not None and value in stream.places and edit.constant(value) is not None:
            stream.turn(node, index, stream.places[value])


def _layer(stream: Stream, node: ir.Node) -> None:
    """A weight is multiplied by the rotation, or its transpose, along the axis that reads or writes the stream."""
    layer = Layer(node, operators.facts(edit.op_of(node)).weights[0])
    out = node.outputs[0]
    if edit.constant(layer.value) is None:
        raise StaysError(node, "it multiplies tensors that are both computed")
    if layer.groups > 1 or layer.activation:
        raise StaysError(node, "it is a grouped convolution, or more than a product")
    reads, writes = stream.inside(layer.data), stream.inside(out)
    if reads and stream.places[layer.data] != layer.data_axis(stream.rank(layer.data)) % stream.rank(layer.data):
        raise StaysError(node, "it sums over another axis than that of the channels")
    if writes and stream.places[out] != layer.channel_axis(stream.rank(out)):
        raise StaysError(node, "its output channels stand on another axis")
    if reads and writes:
        raise StaysError(node, "it reads and writes the stream with one weight")
    axes = layer.axes
    stream.turn(node, layer.index, axes.summed if reads else axes.output)
    bias = layer.bias_value
    if writes and bias is not None and layer.known.bias is not None:
        if not stream.inside(bias):
            raise StaysError(node, "its bias is not one constant for each channel")
        stream.turn(node, layer.known.bias, stream.places[bias])


def _sum(stream: Stream, node: ir.Node) -> None:
    """Sums are linear; a number that is added to all channels stays that if the rotation keeps the vector of ones."""
    for index, value in enumerate(node.inputs):
        if value is None or not stream.inside(node.outputs[0]):
            raise StaysError(node, "it adds up what is no stream")
        if not stream.inside(value):
            if not stream.alike(node, value):
                raise StaysError(node, f"'{value.name}' is not of the stream")
            stream.keeps_mean = True
        elif edit.constant(value) is not None:
            stream.turn(node, index, stream.places[value])


def _product(stream: Stream, node: ir.Node) -> None:
    """A factor for all channels commutes with a rotation; one for each is folded; a square is left to a reduction."""
    a, b = node.inputs[:2]
    if a is b and edit.op_of(node) == "Mul":
        stream.square(node.outputs[0])
        return
    inside = [index for index, value in enumerate((a, b)) if stream.inside(value)]
    if not stream.inside(node.outputs[0]) or (edit.op_of(node) == "Div" and inside != [0]):
        raise StaysError(node, "it does more than to multiply the stream")
    constant = [index for index in inside if edit.constant(node.inputs[index]) is not None]
    if len(inside) == 2 and len(constant) == 1:
        stream.fold(node, constant[0], node.outputs[0])
    elif len(inside) != 1 or constant or not stream.alike(node, node.inputs[1 - inside[0]]):
        raise StaysError(node, "it multiplies channel by channel")


def _power(stream: Stream, node: ir.Node) -> None:
    exponent = edit.constant(node.inputs[1])
    if exponent is None or exponent.size != 1 or float(exponent.numpy().ravel()[0]) != 2:
        raise StaysError(node, "it is no square")
    stream.square(node.outputs[0])


def _pool(stream: Stream, node: ir.Node) -> None:
    """The sum of squares over all channels stays what it is; so does that of the channels, where the mean is kept."""
    squares, other_axes = stream.is_square(node.inputs[0]), stream.inside(node.outputs[0])
    if squares and other_axes:
        raise StaysError(node, "it sums squares of single channels")
    stream.keeps_mean |= not squares and not other_axes


def _norm_of(stream: Stream, node: ir.Node) -> None:
    """The length of each row of channels is what it was."""
    if stream.inside(node.outputs[0]):
        raise StaysError(node, "it sums squares of single channels")


def _normalisation(stream: Stream, node: ir.Node) -> None:
    """What is divided by the length of a row stays rotated; the factors behind that are folded."""
    known = NORMS[edit.op_of(node)]
    data, out = edit.required(node, 0), node.outputs[0]
    last = stream.rank(data) - 1
    alone = edit.int_attribute(node, "axis", -1) % max(last + 1, 1) == last == stream.places.get(data)
    if not alone or not all(stream.inside(node.inputs[index]) for index in known.data):
        raise StaysError(node, "it does not normalise over the channels of the stream alone")
    for index in (*known.data, known.bias):
        value = node.inputs[index] if index is not None and index < len(node.inputs) else None
        if value is not None and index is not None and edit.constant(value) is not None:
            stream.turn(node, index, stream.places[value])
    stream.keeps_mean |= known.centred
    shift = known.shift if known.shift is not None and known.shift < len(node.inputs) else None
    stream.fold(node, known.scale, out, shift if shift is not None and node.inputs[shift] is not None else None)


RULES: dict[str, Callable[[Stream, ir.Node], None]] = {
    **dict.fromkeys(operators.on_integers("layer"), _layer),
    **dict.fromkeys(NORMS, _normalisation),
    **dict.fromkeys(SUMS, _sum),
    **dict.fromkeys(POOLS, _pool),
    "Div": _product,
    "Mul": _product,
    "Pow": _power,
    "ReduceL2": _norm_of,
    "ReduceSumSquare": _norm_of,
}
