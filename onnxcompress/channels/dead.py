"""Which channels provably contribute nothing, and what their constant values add to those that read them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ..graph import edit
from ..graph.operators import RECURRENT
from ..graph.windows import differs_at_borders
from .bounds import Bounds
from .constant_channels import ConstantChannels
from .engine import Sink
from .groups import Groups
from .labels import Rows
from .propagate import propagate
from .weight_matrix import weight_matrix


@dataclass(frozen=True)
class Dead:
    """Channels that can go, by group, and what must then be added to a node's output channels.

    Attributes
    ----------
    channels : dict
        Group name → channel numbers.
    folds : dict
        Name of a node's output → what to add to each of its channels.
    kept : dict
        Group name → why channels that look dead stay.
    """

    channels: dict[str, list[int]] = field(default_factory=dict)
    folds: dict[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Use:
    """What a sink makes of each position of its data axis, with labels `rows`.

    `dead`: it contributes nothing whoever reads it. `bordered`: it is constant, and cannot be folded. `constant`: what
    is to be folded, else NaN. `read`: (outputs, positions in bits), who reads it; None where only `dead` counts.
    """

    sink: Sink
    rows: Rows
    dead: npt.NDArray[np.bool_]
    bordered: npt.NDArray[np.bool_]
    constant: npt.NDArray[np.float64]
    read: npt.NDArray[np.uint8] | None = None
    outputs: Rows | None = None

    def alive(self, gone: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Tell which positions still count when the labels in `gone` have left the outputs."""
        if self.read is None:
            return ~self.dead
        read = self.read if self.outputs is None else self.read[~gone[self.outputs].any(0)]
        any_read = np.bitwise_or.reduce(read, axis=0)
        return np.unpackbits(any_read, count=len(self.dead)).astype(bool) & ~self.dead


def uses_of(groups: Groups) -> list[Use]:
    """Tell what each sink makes of the positions of its data."""
    constants = propagate(groups.engine, Bounds(groups.engine).fixed)
    return [_use(groups, constants, sink) for sink in groups.sinks]


def find_dead(groups: Groups, uses: list[Use], spared: Iterable[int] = ()) -> Dead:
    """Find every channel whose removal provably leaves the outputs as they are.

    A position of a sink (Conv, Gemm, MatMul, …) is dead when the weights that read it for outputs that stay are all
    zero, or when its value is the same for every input and can be folded into a bias. A channel is dead when each
    position it stands at is.

    Parameters
    ----------
    groups : Groups
    uses : list of Use
        Those of `uses_of`.
    spared : iterable of int
        Labels of channels that stay, though they may contribute nothing.
    """
    prunable = groups.table(label for group in groups.prunable for label in group.labels.tolist())
    prunable &= _marked(groups, uses, [np.ones_like(use.dead) for use in uses])
    prunable[[0, *spared]] = False
    reading = Reading(uses, groups.engine.labels.count)
    gone, count = reading.gone, reading.count
    going = np.flatnonzero(prunable & (count == 0))
    while going.size:
        read = reading.change(going, gone=True)  # what is read for these alone is dead too
        going = read[prunable[read] & (count[read] == 0) & ~gone[read]]
    coming = _needed(groups, gone)
    while coming.size:
        read = reading.change(coming, gone=False)
        coming = read[gone[read] & (count[read] > 0)]
    bordered = _marked(groups, uses, [use.bordered for use in uses])
    dead = Dead()
    for group in groups.prunable:
        channels = np.flatnonzero(gone[group.labels]).tolist()
        if channels:
            dead.channels[group.name] = channels
        if (bordered[group.labels]).any():
            dead.kept[group.name] = (
                f"{int(bordered[group.labels].sum())} channels are constant but not zero, and padding makes the "
                "borders differ; they cannot be folded exactly"
            )
    _add_folds(groups, uses, gone, dead)
    return dead


def _marked(groups: Groups, uses: list[Use], marks: list[npt.NDArray[np.bool_]]) -> npt.NDArray[np.bool_]:
    """Return, as a table by label, which labels stand at some position that is marked."""
    table = np.zeros(groups.engine.labels.count, bool)
    for use, mark in zip(uses, marks, strict=True):
        table[use.rows[:, mark]] = True
    return table


class Reading:
    """At how many positions each label still counts, kept up to date while labels go and come back.

    Only those that read for a label are looked at when it changes, so that a long chain of layers that die one after
    the other costs no more than its length.

    Attributes
    ----------
    gone : bool array
        The labels that have left, as a table.
    count : int array
        For each label, at how many positions of all uses it is alive.
    """

    def __init__(self, uses: list[Use], labels: int) -> None:
        self.gone, self.count = np.zeros(labels, bool), np.zeros(labels, np.int64)
        self._uses = uses
        self._alive = [np.zeros(use.rows.shape[1], bool) for use in uses]
        self._readers: dict[int, list[int]] = {}
        for number, use in enumerate(uses):
            for label in () if use.outputs is None else np.unique(use.outputs).tolist():
                self._readers.setdefault(label, []).append(number)
        self._look_at(range(len(uses)))

    def change(self, labels: npt.NDArray[np.int64], *, gone: bool) -> npt.NDArray[np.int64]:
        """Let labels leave the outputs, or return; gives those whose count changed."""
        self.gone[labels] = gone
        return self._look_at({number for label in labels.tolist() for number in self._readers.get(label, ())})

    def _look_at(self, numbers: Iterable[int]) -> npt.NDArray[np.int64]:
        changed = [np.zeros(0, np.int64)]
        for number in numbers:
            alive = self._uses[number].alive(self.gone)
            differs = alive != self._alive[number]
            if differs.any():
                for row in self._uses[number].rows[:, differs]:
                    np.add.at(self.count, row, np.where(alive[differs], 1, -1))
                    changed.append(row)
                self._alive[number] = alive
        return np.unique(np.concatenate(changed))


def _use(groups: Groups, constants: ConstantChannels, sink: Sink) -> Use:
    channel = constants.along(sink.data, sink.axis)
    matrix = weight_matrix(groups.engine, sink.node) if sink.weight is not None else None
    rows, nothing = groups.engine.labels.resolve(sink.rows), np.full(len(channel), np.nan)
    if matrix is None:
        other = np.zeros(0) if sink.weight is None else constants.along(sink.weight, sink.in_axis)
        dead = (channel == 0) | ((other == 0) if other.shape == channel.shape else False)
        return Use(sink, rows, dead, np.zeros(len(channel), bool), nothing, *_gates(groups, sink))
    read, known = matrix.any.any(0), ~np.isnan(channel)
    bordered = read & known & (channel != 0) & differs_at_borders(sink.node)
    folded = np.where(read & (channel != 0), channel, np.nan)
    readers = np.packbits(matrix.any, axis=1)  # in all as many as weights
    outputs = groups.axes[sink.node.outputs[0]][matrix.out_axis]
    return Use(sink, rows, known & ~bordered, bordered, folded, readers, outputs)


def _gates(groups: Groups, sink: Sink) -> tuple[npt.NDArray[np.uint8], Rows | None] | tuple[()]:
    """Return who reads the inputs of a recurrent operator."""
    tensor = edit.constant(sink.weight) if sink.node.op_type in RECURRENT else None
    if tensor is None or sink.weight is None:
        return ()
    return np.packbits((tensor.numpy() != 0).any(0), axis=1), groups.axes[sink.weight][sink.out_axis]


def _needed(groups: Groups, gone: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Return the labels of the first position of every axis that would be left with nothing."""
    left = gone.copy()
    for rows in {id(rows): rows for axes in groups.axes.values() for rows in axes if rows is not None}.values():
        if left[rows].any(0).all():
            left[rows[:, 0]] = False
    return np.flatnonzero(gone & ~left)


def _add_folds(groups: Groups, uses: list[Use], gone: npt.NDArray[np.bool_], dead: Dead) -> None:
    for use in uses:
        axes = groups.axes[use.sink.data][use.sink.axis]
        where = None if axes is None else gone[axes].any(0) & ~np.isnan(use.constant)
        matrix = weight_matrix(groups.engine, use.sink.node) if where is not None and where.any() else None
        if matrix is not None:
            dead.folds[edit.output_name(use.sink.node)] = matrix.sum[:, where] @ use.constant[where]
