"""How a training went, epoch by epoch: a line of blocks in the terminal, drawings on the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import units
from .frame import Frame, Tick, range_ticks

if TYPE_CHECKING:
    from ..contract import Epoch

HEIGHTS = "▁▂▃▄▅▆▇█"

LONGEST = 40
"""Blocks in a line; of more epochs some are left out."""

LINES = (
    ("score, held out", "score", "held"),
    ("loss, held out", "loss", "held"),
    ("loss, trained on", "trained", "trained"),
)
"""What is drawn: what it is called, the field of `Epoch`, and the class of its line."""

DRAWINGS = {"Score": ("score",), "Loss": ("loss", "trained")}
"""The drawings of the page, and the fields that each has."""


def summary(curve: Sequence[Epoch]) -> list[str]:
    """Return a line for each thing that was measured, from before training to its end."""
    found = []
    for name, key, _ in LINES:
        values = [value for _, value in _points(curve, key)]
        if len(values) > 1:
            found.append(f"{name}: {blocks(values)} {units.number(values[0])} → {units.number(values[-1])}")
    return found


def blocks(values: Sequence[float]) -> str:
    """Return blocks as high as the values, from the lowest to the highest.

    >>> blocks([1, 2, 3])
    '▁▅█'
    """
    low, high = min(values), max(values)
    step = max(1, math.ceil(len(values) / LONGEST))
    heights = ((value - low) / ((high - low) or 1.0) * len(HEIGHTS) for value in values[::step])
    return "".join(HEIGHTS[min(int(height), len(HEIGHTS) - 1)] for height in heights)


@dataclass(frozen=True)
class Line:
    """One line of a drawing: its name, class and points."""

    name: str
    style: str
    points: str


@dataclass(frozen=True)
class Drawing:
    """Something over epochs."""

    name: str
    frame: Frame
    lines: list[Line]
    across: list[Tick]
    up: list[Tick]


def drawings(curve: Sequence[Epoch]) -> list[Drawing]:
    """Return what the page draws of a training; nothing where there is no curve."""
    found = []
    for name, keys in DRAWINGS.items():
        points = {key: _points(curve, key) for key in keys}
        values = [value for each in points.values() for _, value in each]
        if len(curve) < 2 or len(values) < 2:
            continue
        up = range_ticks(values, 3)
        frame = Frame(300, 150, 46, 288, 12, 126, most=float(len(curve) - 1), low=up[0], high=up[-1])
        lines = [
            Line(
                label.partition(", ")[2],
                style,
                " ".join(f"{frame.x(epoch)},{frame.y(value)}" for epoch, value in points[key]),
            )
            for label, key, style in LINES
            if points.get(key)
        ]
        across = [Tick(frame.x(epoch), str(epoch)) for epoch in sorted({0, (len(curve) - 1) // 2, len(curve) - 1})]
        found.append(Drawing(name, frame, lines, across, [Tick(frame.y(value), f"{value:.4g}") for value in up]))
    return found


def _points(curve: Sequence[Epoch], key: str) -> list[tuple[int, float]]:
    """Return (epoch, value) where there is a number."""
    values = ((epoch, getattr(point, key)) for epoch, point in enumerate(curve))
    return [(epoch, value) for epoch, value in values if value is not None and math.isfinite(value)]
