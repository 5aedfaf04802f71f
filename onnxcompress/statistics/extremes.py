"""The smallest and the largest value of many things at once, sample by sample, and the means of these over samples."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .summaries import ChannelMean, Range

Floats = npt.NDArray[np.float64]

_ROWS = 256
_BUFFER = 1 << 16  # numbers


@dataclass(frozen=True)
class Extremes:
    """What was seen of each column (a tensor, or an index of an axis); merging is exact in any order.

    Attributes
    ----------
    low, high : ndarray of float64, shape (columns,)
        ``(inf, -inf)`` where there was no value.
    limbs : ndarray of int64, shape (limbs, 2, columns)
        The sums of the single samples' smallest and largest values, as in `ChannelMean`.
    counts : ndarray of int64, shape (columns,)
        How many samples held a value.
    """

    low: Floats
    high: Floats
    limbs: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]

    def merge(self, other: Extremes) -> Extremes:
        """Return those of both."""
        low, high = np.minimum(self.low, other.low), np.maximum(self.high, other.high)
        return Extremes(low, high, self.limbs + other.limbs, self.counts + other.counts)

    def column(self, index: int) -> tuple[Range, ChannelMean]:
        """Return one column's extremes, and the means of its samples' extremes."""
        means = ChannelMean(self.limbs[:, :, index], int(self.counts[index]))
        return Range(float(self.low[index]), float(self.high[index])), means


class ExtremesCollector:
    """Collects `Extremes` row by row."""

    def __init__(self, columns: int) -> None:
        limbs = ChannelMean.of(np.zeros((0, 2 * columns)), 0).limbs.reshape(-1, 2, columns)
        none = np.full(columns, math.inf)
        self._seen = Extremes(none, -none, limbs, np.zeros(columns, np.int64))
        self._rows = np.empty((max(1, min(_ROWS, _BUFFER // max(columns, 1))), 2, columns))
        self._used = 0

    def row(self) -> Floats:
        """Return what a sample's smallest (row 0) and largest values (row 1) are to be written to before the next call.

        It holds ``(inf, -inf)``, for no value.
        """
        if self._used == len(self._rows):
            self._flush()
        row: Floats = self._rows[self._used]
        row[0], row[1] = math.inf, -math.inf
        self._used += 1
        return row

    def _flush(self) -> None:
        if not self._used:
            return
        rows = self._rows[: self._used]
        self._used = 0
        there = rows[:, 0] <= rows[:, 1]
        sums = np.where(there[:, None], rows, 0.0).reshape(len(rows), -1)
        limbs = ChannelMean.of(sums, 0).limbs.reshape(self._seen.limbs.shape)
        new = Extremes(rows[:, 0].min(axis=0), rows[:, 1].max(axis=0), limbs, there.sum(axis=0))
        self._seen = self._seen.merge(new)

    def result(self) -> Extremes:
        """Return what was seen so far."""
        self._flush()
        return self._seen
