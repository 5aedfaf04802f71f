"""The frame of a drawing: its edges, its grid, and round numbers for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Frame:
    """A drawing's size and edges in its own units, and the values that stand at the right, bottom and top edges.

    The left edge stands for 0.
    """

    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int
    most: float
    low: float
    high: float

    def x(self, value: float) -> float:
        """Return where a value stands from left to right."""
        return round(self.left + (self.right - self.left) * value / self.most, 1)

    def y(self, value: float) -> float:
        """Return where a value stands from top to bottom."""
        return round(self.bottom - (self.bottom - self.top) * (value - self.low) / (self.high - self.low), 1)


@dataclass(frozen=True)
class Tick:
    """A line of the drawing's grid."""

    at: float
    text: str


def ticks(low: float, high: float, wanted: int = 4) -> list[float]:
    """Return round numbers from below `low` to above `high`.

    >>> ticks(0, 672542)
    [0.0, 200000.0, 400000.0, 600000.0, 800000.0]
    """
    raw = (high - low) / wanted or 1.0
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(n * step, 12) for n in range(first, max(last, first + 1) + 1)]


def range_ticks(values: Sequence[float], wanted: int = 4) -> list[float]:
    """Return round numbers around values; where they hardly differ, around a hundredth of the largest."""
    spread = max(max(values) - min(values), abs(max(values)) * 0.01, 1e-6)
    return ticks(max(values) - spread, max(values), wanted)
