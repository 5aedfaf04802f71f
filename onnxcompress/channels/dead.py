"""Which channels provably contribute nothing, and what their constant values add to those that read them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ..graph import edit
from .constants import Constants, layout_of, padded
from .engine import Sink
from .groups import Groups


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
    """Per position of a sink's data axis: is it alive, and its constant (NaN: none, or not foldable)."""

    sink: Sink
    alive: npt.NDArray[np.bool_]
    bordered: npt.NDArray[np.bool_]
    constant: npt.NDArray[np.float64]


def find_dead(groups: Groups) -> Dead:
    """Find every channel whose removal provably leaves the outputs as they are.

    A position of a sink (Conv, Gemm, MatMul, …) is dead when the weights that read it are all zero, or when its value
    is the same for every input and can be folded into a bias. A channel is dead when each position it stands at is.
    """
    constants = Constants(groups.engine)
    uses = [use_of(groups, constants, sink) for sink in groups.sinks]
    count = groups.engine.labels.count
    alive, bordered, summed = np.zeros(count, bool), np.zeros(count, bool), np.zeros(count, bool)
    for use in uses:
        rows = groups.engine.labels.resolve(use.sink.rows)
        summed[rows] = True
        alive[rows[:, use.alive]] = True
        bordered[rows[:, use.bordered]] = True
    prunable = groups.table(label for group in groups.prunable for label in group.labels.tolist())
    gone = prunable & summed & ~alive
    gone[0] = False
    _keep_one(groups, gone)
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


def use_of(groups: Groups, constants: Constants, sink: Sink) -> Use:
    """Tell what a sink makes of each position of its data."""
    channel = constants.along(sink.data, sink.axis)
    layout = layout_of(groups.engine, sink.node) if sink.weight is not None else None
    if layout is None:
        other = np.zeros(0) if sink.weight is None else constants.along(sink.weight, sink.in_axis)
        dead = (channel == 0) | ((other == 0) if other.shape == channel.shape else False)
        return Use(sink, ~dead, np.zeros(len(channel), bool), np.full(len(channel), np.nan))
    read = layout[2].any.any(0)
    known = ~np.isnan(channel)
    bordered = read & known & (channel != 0) & padded(sink.node)
    return Use(sink, read & (~known | bordered), bordered, np.where(read & (channel != 0), channel, np.nan))


def _keep_one(groups: Groups, gone: npt.NDArray[np.bool_]) -> None:
    """Keep the first position of every axis that would be left with nothing."""
    changed = True
    while changed:
        changed = False
        for axes in groups.axes.values():
            for rows in axes:
                if rows is not None and gone[rows].any(0).all():
                    gone[rows[:, 0]] = False
                    changed = True


def _add_folds(groups: Groups, uses: list[Use], gone: npt.NDArray[np.bool_], dead: Dead) -> None:
    for use in uses:
        layout = layout_of(groups.engine, use.sink.node) if use.sink.weight is not None else None
        axes = groups.axes[use.sink.data][use.sink.axis]
        if layout is None or axes is None:
            continue
        where = gone[axes].any(0) & ~np.isnan(use.constant)
        if where.any():
            name = edit.output_name(use.sink.node)
            dead.folds[name] = layout[2].sum[:, where] @ use.constant[where]
