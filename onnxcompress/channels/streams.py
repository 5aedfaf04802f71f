"""Streams whose channels may be rotated: whatever touches them is linear in them, or sees lengths only.

The weights that write such a stream can be multiplied by an orthogonal matrix and those that read it by its transpose,
and the model computes what it did (Ashkboos et al., SliceGPT, arXiv:2401.15024, and QuaRot, arXiv:2404.00456).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ..graph import edit, operators
from ..graph.layer import Layer
from .groups import Groups
from .movement import MOVES
from .norms import NORMS

Vector = npt.NDArray[np.float64]
Place = tuple[ir.Node, int]
"""A node and one of its inputs, a constant."""

SUMS = ("Add", "Sub", "Sum")
POOLS = ("ReduceMean", "ReduceSum")
SCALINGS = ("Mul", "Div")
BLIND = ("Shape", "Size")
ZEROS = 0.01
"""A weight with more zeros has a mask; the row of a padding token is none."""


class StaysError(Exception):
    """A stream cannot be rotated: which node is at fault, and why."""

    def __init__(self, node: ir.Node, reason: str) -> None:
        super().__init__(reason)
        self.subject = edit.label(node)
        self.stream = ""


class Stream:
    """The tensors whose axis has the same labels, and what a rotation of that axis is folded into.

    Attributes
    ----------
    name : str
        That of its group, or of its first tensor.
    places : dict of onnx_ir.Value to int
        Each tensor with its axis.
    labels : (width,) int array
        The label of each channel.
    residual : bool
        Tensors that are computed are added up in it, and something is normalised over it.
    mean : onnx_ir.Node, optional
        What takes the mean over the channels, or adds one number to all: the rotation must map the vector of ones to
        itself.
    turned : dict of Place to tuple of int
        Constants to multiply by the rotation, along which axes; that which reads the stream first.
    factors : dict of Place to ndarray
        What they are multiplied by before that, along the first of these axes.
    ones : list of Place
        Factors of normalisations that become 1.
    read : dict
        Tensor that weights multiply → where one does: first output of a node, input, axis.
    """

    def __init__(self, name: str, places: dict[ir.Value, int], groups: Groups, labels: npt.NDArray[np.int64]) -> None:
        self.name, self.places, self.labels, self._groups = name, places, labels, groups
        self.residual = False
        self.mean: ir.Node | None = None
        self.turned: dict[Place, tuple[int, ...]] = {}
        self.factors: dict[Place, Vector] = {}
        self.ones: list[Place] = []
        self.read: dict[ir.Value, tuple[str, int, int]] = {}
        self._squares: set[ir.Value] = set()

    @property
    def width(self) -> int:
        """How many channels it has."""
        return len(self.labels)

    def prove(self, nodes: list[ir.Node]) -> None:
        """Visit every node that touches it.

        Raises
        ------
        StaysError
            One of them is neither linear in the stream nor indifferent to a rotation.
        """
        for node in nodes:
            if edit.op_of(node) in BLIND or edit.constant(node.outputs[0]) is not None:
                continue
            if node.graph is not self._groups.engine.model.graph:
                raise StaysError(node, "it stands in an inner graph")
            for value in node.inputs:
                if value is not None and value in self.places and edit.constant(value) is None:
                    self._check(node, value)
            RULES.get(edit.op_of(node), _other)(self, node)
            for value in node.outputs:
                if value in self.places and value.is_graph_output():
                    raise StaysError(node, f"it gives the graph output '{value.name}'")
        for node, index in self.turned:
            value = edit.required(node, index)
            kinds = {self.change(user, at) for user, at in value.uses()}
            if len(kinds) > 1 and len(self._groups.engine.shape(value)) > 1:
                others = [edit.label(user) for user in {user: None for user, _ in value.uses()} if user is not node]
                who = ", ".join(others) or "it"
                raise StaysError(node, f"its weight '{value.name}' is tied: {who} reads it too, and would need another")

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

    def turn(self, node: ir.Node, index: int, *axes: int) -> None:
        """Note a constant to rotate."""
        value = node.inputs[index]
        tensor = edit.constant(value)
        if value is None or tensor is None:
            raise StaysError(node, f"'{'' if value is None else value.name}' is computed")
        if not tensor.dtype.is_floating_point():
            raise StaysError(node, f"'{value.name}' is stored as {tensor.dtype.name.lower()}")
        if value.is_graph_output():
            raise StaysError(node, f"'{value.name}' is a graph output")
        if len(tensor.shape) > 1 and 0 < np.count_nonzero(tensor.numpy()) < (1 - ZEROS) * tensor.size:
            raise StaysError(node, f"'{value.name}' has a mask of zeros, which a rotation would fill")
        self.turned[node, index] = axes

    def change(self, node: ir.Node, index: int) -> tuple[tuple[int, ...], bytes] | str:
        """Return what is to be done to a constant, so that two of them can be compared."""
        place = node, index
        if place not in self.turned:
            return "one" if place in self.ones else "none"
        return self.turned[place], self.factors.get(place, np.zeros(0)).tobytes()

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

    def _scales(self, node: ir.Node, index: int) -> bool:
        """Tell whether a node multiplies what it reads there by what is the same for all channels."""
        other = node.inputs[1 - index]
        return not self.inside(other) and self.inside(node.outputs[0]) and self.alike(node, other)

    def _readers(self, norm: ir.Node, value: ir.Value) -> Iterator[tuple[Place, bool]]:
        """Yield the weights that read a value, and, marked, the constants that are added to it before."""
        for node, index in value.uses():
            op = edit.op_of(node)
            layer = Layer.of(node)
            if op in BLIND:
                continue
            if layer is not None and index != layer.index and edit.constant(layer.value) is not None:
                yield (node, layer.index), False
            elif (op in MOVES and op != "Concat" and index == 0) or (op in SCALINGS and self._scales(node, index)):
                for out in node.outputs:
                    yield from self._readers(norm, out)
            elif op == "Add" and edit.constant(node.inputs[1 - index]) is not None:
                yield (node, 1 - index), True
                yield from self._readers(norm, node.outputs[0])
            elif layer is not None and index != layer.index:
                raise StaysError(node, f"its weight '{layer.value.name}' is computed; is it tied to a table?")
            else:
                raise StaysError(norm, f"its factors cannot be folded into what reads it, as {edit.label(node)} does")


def find_streams(groups: Groups) -> tuple[list[Stream], list[StaysError]]:
    """Return the streams that can be rotated, and why other residual ones cannot.

    Parameters
    ----------
    groups : Groups
        Of a model with its constants folded.

    Notes
    -----
    The tensors of a stream are those whose axis has the same labels in the group engine, position by position.
    """
    nodes = {node: number for number, node in enumerate(groups.engine.model.graph)}
    classes: dict[int, dict[ir.Value, list[int]]] = {}
    rows = {}
    for value, axes in groups.axes.items():
        for axis, labels in enumerate(axes):
            if labels is not None:
                classes.setdefault(id(labels), {}).setdefault(value, []).append(axis)
                rows[id(labels)] = labels
    residual = {id(r) for node in nodes for r in [_residual(groups, node)] if r is not None}
    residual &= {id(r) for node in nodes for r in [_normalised(groups, node)] if r is not None}
    names = {group.labels.tobytes(): group.name for group in groups.prunable}
    found, stay = [], []
    for key, labels in rows.items():
        name = names.get(np.sort(labels[0]).tobytes()) if _apart(labels) else None
        if key not in residual and name is None:
            continue
        places = {value: axes[0] for value, axes in classes[key].items()}
        stream = Stream(name or str(next(iter(places)).name), places, groups, labels[0])
        stream.residual = key in residual
        try:
            touching = _touching(nodes, places)
            _prove_whole(groups, classes, key, labels, touching[0])
            stream.prove(touching)
            found.append(stream)
        except StaysError as error:
            error.stream = stream.name
            stay += [error] if stream.residual else []
    return found, stay


def _apart(labels: npt.NDArray[np.int64]) -> bool:
    """Tell whether each position of an axis is a channel of its own, and there are several."""
    return len(labels) == 1 and labels.size > 1 and bool(labels.all()) and len(np.unique(labels)) == labels.size


def _residual(groups: Groups, node: ir.Node) -> npt.NDArray[np.int64] | None:
    """Return the labels of the last axis of a sum of tensors that are computed."""
    op = edit.op_of(node)
    read = node.inputs[:2] if op in NORMS and len(NORMS[op].data) > 1 else node.inputs
    if op not in SUMS and read is node.inputs:
        return None
    lines = [groups.axes.get(v, [None])[-1:] for v in read if v is not None and edit.constant(v) is None]
    first: list[Any] = [line[0] for line in lines if line]
    same = len(first) > 1 and first[0] is not None and all(line is first[0] for line in first)
    # channels that are added to others of the same tensor, as by RoPE, are no residual stream
    return first[0] if same and _apart(first[0]) else None


def _normalised(groups: Groups, node: ir.Node) -> npt.NDArray[np.int64] | None:
    """Return the labels of the last axis of what a node normalises, or pools over that axis."""
    op, read = edit.op_of(node), groups.axes.get(node.inputs[0], [None]) if node.inputs and node.inputs[0] else [None]
    made = groups.axes.get(node.outputs[0], [None]) if node.outputs else [None]
    pools = op in (*POOLS, "ReduceL2", "ReduceSumSquare") and not any(line is read[-1] for line in made)
    return read[-1] if read and (op in NORMS or pools) else None


def _touching(nodes: dict[ir.Node, int], places: dict[ir.Value, int]) -> list[ir.Node]:
    """Return the nodes that make or read tensors, in their order."""
    met = {node: None for value in places for node in (value.producer(), *(user for user, _ in value.uses()))}
    return sorted((node for node in met if node is not None), key=lambda node: nodes.get(node, len(nodes)))


def _prove_whole(
    groups: Groups,
    classes: dict[int, dict[ir.Value, list[int]]],
    key: int,
    labels: npt.NDArray[np.int64],
    first: ir.Node,
) -> None:
    """Prove that all channels of the stream stand in one order wherever they stand."""
    inside = groups.table(labels[0].tolist())
    for value, axes in classes[key].items():
        makes = Layer.of(next((user for user, _ in value.uses()), first)) if edit.constant(value) is not None else None
        if len(axes) > 1 and (makes is None or makes.value is not value):
            raise StaysError(value.producer() or first, f"two axes of '{value.name}' count the same channels")
    for other, places in classes.items():
        value, axes = next(iter(places.items()))
        row = groups.axes[value][axes[0]]
        if other != key and row is not None and inside[row].any():
            node = next((n for n in (value.producer(), *(user for user, _ in value.uses())) if n is not None), first)
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
    made = [v for v in node.outputs if v.uses() or v.is_graph_output()]
    whole = all(stream.inside(v) for v in (*moved, *made) if v is not None)
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
    if reads:
        at = list(node.inputs).index(layer.data)
        stream.read.setdefault(layer.data, (edit.output_name(node), at, stream.places[layer.data]))
    axes = layer.axes
    stream.turn(node, layer.index, *([axes.summed] if reads else []), *([axes.output] if writes else []))
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
            stream.mean = node
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
    stream.mean = stream.mean if squares or other_axes else node


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
    stream.mean = node if known.centred else stream.mean
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
