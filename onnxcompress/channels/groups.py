"""Groups: the labels of an analysed graph gathered into atoms, with what each one touches."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ..graph import constants, edit, operators
from ..graph.interface import Interface
from ..graph.layer import Layer, axes_of
from .analysis import analyse
from .engine import Axes, Engine, Sink
from .labels import Rows

ValueAxis = tuple[ir.Value, int]
"""A tensor and one of its axes."""


class Line:
    """The resolved labels of an axis, and where each of them stands; all axes with the same labels share one."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    @cached_property
    def _order(self) -> npt.NDArray[np.int64]:
        return np.argsort(self.rows[0], kind="stable")

    @cached_property
    def _sorted(self) -> npt.NDArray[np.int64]:
        return np.sort(self.rows[0])

    def places(self, labels: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return positions and, for each of them, which of these labels (in rising order) stands there; the last wins.

        A wide axis has many labels, and a group few of them: what this costs grows with what it finds.
        """
        if len(self.rows) > 1:
            found = np.searchsorted(labels, self.rows).clip(max=len(labels) - 1)
            index = np.where(labels[found] == self.rows, found, -1).max(0)
            positions = np.flatnonzero(index >= 0)
            return positions, index[positions]
        start, end = (np.searchsorted(self._sorted, labels, side) for side in ("left", "right"))
        counts = end - start
        channels = np.repeat(np.arange(len(labels)), counts)
        nth = np.arange(len(channels)) - np.repeat(np.cumsum(counts) - counts, counts)
        return self._order[start[channels] + nth], channels


class Member:
    """An axis of a tensor that a group runs along.

    Attributes
    ----------
    value, axis :
        The tensor and the axis.
    role : str
        "out" for a weight's output axis, "in" for its input axis, "parameter" for any other constant,
        "activation" for what a node computes.
    line : Line
        The labels of the axis.
    labels : (size,) int array
        Those of the group, in rising order.
    """

    __slots__ = ("axis", "labels", "line", "role", "value")  # there are many

    def __init__(self, value: ir.Value, axis: int, role: str, line: Line, labels: npt.NDArray[np.int64]) -> None:
        self.value, self.axis, self.role, self.line, self.labels = value, axis, role, line, labels

    @property
    def places(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The positions of the axis that belong to the group, and the channel that each belongs to."""
        return self.line.places(self.labels)

    @property
    def index(self) -> npt.NDArray[np.int64]:
        """For each position of the axis, which channel of the group it belongs to; -1 for none."""
        index = np.full(self.line.rows.shape[1], -1, np.int64)
        positions, channels = self.places
        index[positions] = channels
        return index


@dataclass(frozen=True)
class Group:
    """Channels that can be removed one by one, each with everything that must go with it.

    The smallest example, ``x = Conv(image, W1, b1); y = Relu(x); z = Conv(y, W2)``, has one group of W1's output
    channels. Its members are W1 axis 0, b1 axis 0, x axis 1, y axis 1 and W2 axis 1.

    Attributes
    ----------
    name : str
        The first weight whose output channels these are; ``#2``, … where several groups share one.
    labels : (size,) int array
        The engine's label of each channel, in the order of the channels.
    members : tuple of Member
    strata : (size,) int array
        Channels with the same number touch the same tensors; the two halves of a Split differ. A pruner that takes
        its share of each stratum thins all tensors out alike. Strata too small to choose from are one.
    frozen : str
        Why nothing of it can be removed; empty when it can.
    """

    name: str
    labels: npt.NDArray[np.int64]
    members: tuple[Member, ...]
    strata: npt.NDArray[np.int64]
    frozen: str = ""

    @property
    def size(self) -> int:
        """How many channels."""
        return len(self.labels)

    def constants(self) -> list[Member]:
        """The members that are weights, biases or other constants."""
        return [m for m in self.members if m.role != "activation"]


@dataclass
class Groups:
    """All groups of a model.

    Attributes
    ----------
    prunable, frozen : list of Group
        Groups that can lose channels, and those that cannot, with the reason.
    sinks : list of Sink
        Every place where channels are summed over.
    """

    engine: Engine
    prunable: list[Group] = field(default_factory=list)
    frozen: list[Group] = field(default_factory=list)

    @property
    def sinks(self) -> list[Sink]:
        """Every place where channels are summed over."""
        return self.engine.sinks

    @cached_property
    def axes(self) -> dict[ir.Value, Axes]:
        """The resolved label rows of every value; equal ones are one array."""
        rows = {id(r): r for _, axes in self.engine.known_axes() for r in axes if r is not None}
        resolved = {key: self.engine.labels.resolve(r) for key, r in rows.items()}
        once: dict[tuple[int, bytes], Rows] = {}
        resolved = {key: once.setdefault((len(r), r.tobytes()), r) for key, r in resolved.items()}
        return {v: [None if r is None else resolved[id(r)] for r in axes] for v, axes in self.engine.known_axes()}

    @cached_property
    def roles(self) -> dict[ValueAxis, str]:
        """The axes of weights: "in" for those summed over, "out" for those that become output channels."""
        return dict.fromkeys(_output_axes(self), "out") | dict.fromkeys(_input_axes(self), "in")

    @cached_property
    def readers(self) -> dict[ir.Value, list[Sink]]:
        """The constants that operators multiply channels by, each with the sinks where they do."""
        found: dict[ir.Value, list[Sink]] = {}
        for sink in self.sinks:
            weight = constants.root(sink.weight, dequantized=True)
            if weight is not None:
                found.setdefault(weight, []).append(sink)
        return found

    @cached_property
    def summed_data(self) -> set[ValueAxis]:
        """The axes of activations that operators sum over."""
        return {(sink.data, sink.axis) for sink in self.sinks if edit.constant(sink.data) is None}

    @cached_property
    def divisors(self) -> npt.NDArray[np.bool_]:
        """The labels of values that are divided by, as a lookup table."""
        return _labels_in([self.engine.labels.resolve(rows) for rows in self.engine.divisors], self.engine.labels.count)

    def removed(self, rows: Rows, gone: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Tell for each position of an axis whether it goes when the labels in `gone` (a lookup table) go."""
        return np.asarray(gone[self.engine.labels.resolve(rows)].any(0))

    def table(self, labels: Iterable[int]) -> npt.NDArray[np.bool_]:
        """Turn labels into a lookup table for `removed`."""
        gone = np.zeros(self.engine.labels.count, bool)
        gone[list(labels)] = True
        return gone


def find_groups(model: ir.Model, interface: Interface = "stays") -> Groups:
    """Analyse a model; linear in the size of the graph.

    Parameters
    ----------
    model : onnx_ir.Model
        Not changed.
    interface : str
        Whether heads may go together with their inputs and outputs, a cache; see `analyse`.

    Returns
    -------
    Groups
    """
    engine = analyse(model, interface)
    groups = Groups(engine)
    reasons = engine.labels.frozen()
    consumed = _labels_in([engine.labels.resolve(s.rows) for s in engine.sinks], engine.labels.count)
    families = _families(_owners(groups, consumed), reasons)
    members, kinds = _members(groups, families)
    taken: dict[str, int] = {}
    for labels, found in zip(families, members, strict=True):
        frozen = reasons.get(int(labels[0])) or ("" if consumed[labels].any() else NOT_SUMMED)
        group = Group(_name(found, taken), labels, found, _strata(found, kinds[labels]), frozen)
        (groups.frozen if frozen else groups.prunable).append(group)
    return groups


NOT_SUMMED = "nothing sums over it, so nothing shows that a channel can go"


def _owners(groups: Groups, consumed: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Give each label to the first axis that introduces it: a weight's output axis where there is one.

    Channels of one weight stay one group even where a shuffle or a split sends them different ways.
    """
    owner = np.zeros(groups.engine.labels.count, np.int64)
    produced = _output_axes(groups)
    code = 0
    for place in produced:
        for row in _rows(groups, place):
            code += 1
            owner[row[(owner[row] == 0) & (row > 0)]] = code
    every = {id(rows): rows for axes in groups.axes.values() for rows in axes if rows is not None}
    for rows in every.values():  # many values share the rows of an axis
        for row in rows:
            code += 1
            owner[row[(owner[row] == 0) & (row > 0) & consumed[row]]] = code
    return owner


def _rows(groups: Groups, place: ValueAxis) -> Rows:
    value, axis = place
    rows = groups.axes[value][axis] if value in groups.axes else None
    return rows if rows is not None else np.zeros((0, 0), np.int64)


def _families(owner: npt.NDArray[np.int64], reasons: dict[int, str]) -> list[npt.NDArray[np.int64]]:
    """Cut the labels into groups: same owner, same frozenness; in the order of the owners."""
    names = np.flatnonzero(owner)
    families: dict[tuple[int, str], list[int]] = {}
    for name, code in zip(names.tolist(), owner[names].tolist(), strict=True):
        families.setdefault((code, reasons.get(name, "")), []).append(name)
    return [np.array(labels, np.int64) for _, labels in sorted(families.items())]


def _labels_in(rows: list[Rows], count: int) -> npt.NDArray[np.bool_]:
    table = np.zeros(count, bool)
    for row in rows:
        table[row] = True
    table[0] = False
    return table


SMALLEST_STRATUM = 4


def _strata(members: tuple[Member, ...], kinds: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Number the channels by the set of members they appear in; `kinds` differ where these sets do."""
    size = len(kinds)
    if (kinds == kinds[0]).all():
        return np.full(size, 0 if size >= SMALLEST_STRATUM else 1, np.int64)
    lines = list({id(member.line): member for member in members}.values())
    touched = np.zeros((size, len(lines)), bool)
    for number, member in enumerate(lines):
        touched[member.places[1], number] = True
    packed = np.packbits(touched, axis=1)
    keys = packed.view(f"V{packed.shape[1]}") if packed.size else np.zeros(size)
    _, strata, counts = np.unique(keys, return_inverse=True, return_counts=True)
    strata = strata.reshape(size).astype(np.int64)
    strata[counts[strata] < SMALLEST_STRATUM] = len(counts)
    return strata


def _input_axes(groups: Groups) -> set[ValueAxis]:
    """The axes of weights that operators sum over, also of weights that are moved before use."""
    found = [_root(groups, s.weight, s.in_axis) for s in groups.sinks if s.weight is not None]
    found += [(s.data, s.axis) for s in groups.sinks if edit.constant(s.data) is not None]
    return {place for place in found if place is not None}


def _root(groups: Groups, value: ir.Value, axis: int) -> ValueAxis | None:
    """Return the constant, and its axis with the same labels, that an axis of a weight comes from."""
    constant = constants.root(value, dequantized=True)
    if constant is None or constant is value:
        return None if constant is None else (value, axis)
    labels = np.unique(_rows(groups, (value, axis)))
    rank = len(groups.axes.get(constant, ()))
    same = [d for d in range(rank) if np.array_equal(np.unique(_rows(groups, (constant, d))), labels)]
    return (constant, same[0]) if same else None


def _output_axes(groups: Groups) -> list[ValueAxis]:
    """The output axes of weights, in the order of the graph."""
    found = []
    for node in groups.engine.model.graph:
        layer = Layer.of(node, among=MAKERS)
        if layer is not None and layer.value in groups.axes:
            rank = len(groups.axes[layer.value])
            place = _root(groups, layer.value, axes_of(node, layer.index, rank).output)
            if place is not None:
                found.append(place)
    return found


MAKERS = operators.LAYERS
"""Operators whose weights make channels."""


def _members(
    groups: Groups, families: list[npt.NDArray[np.int64]]
) -> tuple[list[tuple[Member, ...]], npt.NDArray[np.uint64]]:
    """Return the members of each family, and for each label a number that tells by which axes it runs.

    The number is the sum of random ones, one for each line: two labels with the same sum run along the same lines.
    """
    family = np.full(groups.engine.labels.count, -1, np.int64)
    for number, labels in enumerate(families):
        family[labels] = number
    members: list[list[Member]] = [[] for _ in families]
    kinds = np.zeros(groups.engine.labels.count, np.uint64)
    random = np.random.default_rng(0)
    met: dict[int, tuple[Line, list[int]]] = {}
    for value, axes in groups.axes.items():
        constant = edit.constant(value) is not None
        for axis, rows in enumerate(axes):
            if rows is None:
                continue
            if id(rows) not in met:
                labels = np.unique(rows)
                kinds[labels] += random.integers(1 << 63, dtype=np.uint64)
                met[id(rows)] = Line(rows), np.unique(family[labels]).tolist()
            line, numbers = met[id(rows)]
            role = groups.roles.get((value, axis), "parameter") if constant else "activation"
            for number in numbers:
                if number >= 0:
                    members[number].append(Member(value, axis, role, line, families[number]))
    return [tuple(found) for found in members], kinds


def _name(members: tuple[Member, ...], taken: dict[str, int]) -> str:
    outs = [m.value.name for m in members if m.role == "out"]
    name = str((outs or [m.value.name for m in members] or ["?"])[0])
    taken[name] = taken.get(name, 0) + 1
    return name if taken[name] == 1 else f"{name}#{taken[name]}"
