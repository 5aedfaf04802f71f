"""Everything that a search has tried, in one drawing: what it costs against what it loses."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from . import units
from .frame import Frame, Tick, range_ticks, ticks

if TYPE_CHECKING:
    from ..evidence import Evidence, Trial


class Axis(NamedTuple):
    """What is drawn to the right: in words, of a trial, and how a number of it is shown."""

    what: str
    value: Callable[[Trial], float | None]
    show: Callable[[float], str]


BYTES = Axis("bytes", lambda trial: trial.bytes, units.round_size)
AXES = {
    "latency": Axis("time over the original's", lambda trial: trial.ratio, lambda value: f"{value:g}"),
    "zipped": Axis("bytes, zipped", lambda trial: trial.zipped, units.round_size),
    "macs": Axis("MACs", lambda trial: trial.macs, lambda value: units.count(int(value)).replace(".0 ", " ")),
}
"""By objective; all others are drawn by bytes."""

STATES = {
    "winner": "chosen",
    "front": "beaten by none in both",
    "dominated": "beaten by another",
    "stopped": "stopped early",
    "failed": "failed",
}


@dataclass(frozen=True)
class Mark:
    """A trial in the drawing; `low` and `high` are the ends of its standard error."""

    x: float
    y: float
    low: float
    high: float
    state: str
    title: str


@dataclass(frozen=True)
class Plot:
    """The drawing."""

    what: str
    frame: Frame
    marks: list[Mark]
    front: list[Mark]
    across: list[Tick]
    up: list[Tick]
    states: list[tuple[str, str]]


def plot(report: Evidence) -> Plot | None:
    """Place the trials that were measured, the less is lost the higher; None without any."""
    axis = AXES.get(report.objective or "", BYTES)
    placed = [
        (cost, trial.drop, trial)
        for trial in report.trials
        if (cost := axis.value(trial)) is not None
        and trial.drop is not None
        and math.isfinite(cost)
        and math.isfinite(trial.drop)
    ]
    if not placed:
        return None
    across = ticks(0, max(cost for cost, _, _ in placed))
    up = range_ticks([-drop + side * _error(trial) for _, drop, trial in placed for side in (-1, 1)])
    frame = Frame(560, 280, 66, 542, 14, 246, most=across[-1] or 1.0, low=up[0], high=up[-1])
    marks = [_mark(frame, axis, *each) for each in placed]
    front = sorted((mark for mark in marks if mark.state in ("winner", "front")), key=lambda mark: mark.x)
    return Plot(
        axis.what,
        frame,
        sorted(marks, key=lambda mark: list(STATES)[::-1].index(mark.state)),
        front,
        [Tick(frame.x(value), axis.show(value)) for value in across],
        [Tick(frame.y(value), f"{-value + 0.0:.6g}") for value in up],
        [(state, meaning) for state, meaning in STATES.items() if any(mark.state == state for mark in marks)],
    )


def _error(trial: Trial) -> float:
    return trial.error if trial.error is not None and math.isfinite(trial.error) else 0.0


def _mark(frame: Frame, axis: Axis, cost: float, drop: float, trial: Trial) -> Mark:
    low, high = (frame.y(-drop + side * _error(trial)) for side in (-1, 1))
    title = f"{trial.number}: {trial.recipe}; {units.number(drop)} lost, {axis.what} {axis.show(cost)}"
    return Mark(frame.x(cost), frame.y(-drop), low, high, trial.state, title)
