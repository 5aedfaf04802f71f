"""Counts of the values of each index of an axis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .histogram import POSITIONS, Histogram, positions, round_bits, to_float32

if TYPE_CHECKING:
    from ..runtime.session import Array

MOST_CHANNELS = 1 << 11
"""How many channels are counted in one pass over the samples; a channel's code must fit 16 bits."""

_PENDING = 1 << 18


@dataclass(frozen=True)
class ChannelHistogram:
    """A `Histogram` for each channel, in one sorted list of the bins that hold a value; merging is exact in any order.

    Attributes
    ----------
    codes : ndarray of uint32, shape (bins,)
        The channel in the upper 16 bits, the bit pattern of the bfloat16 value in the lower ones; ascending.
    counts : ndarray of int64, shape (bins,)
    """

    codes: npt.NDArray[np.uint32]
    counts: npt.NDArray[np.int64]

    @classmethod
    def of(cls, codes: npt.NDArray[np.uint32]) -> ChannelHistogram:
        """Count codes."""
        return cls(*np.unique(codes, return_counts=True))

    def merge(self, other: ChannelHistogram) -> ChannelHistogram:
        """Return the histogram of both."""
        codes = np.concatenate([self.codes, other.codes])
        order = np.argsort(codes, kind="stable")  # numpy's stable sort is fast at two sorted runs
        codes = codes[order]
        starts = np.flatnonzero(np.concatenate([np.ones(min(len(codes), 1), bool), codes[1:] != codes[:-1]]))
        counts = np.concatenate([self.counts, other.counts])[order]
        return ChannelHistogram(codes[starts], np.add.reduceat(counts, starts) if len(starts) else counts)

    def split(self, channels: int) -> list[Histogram]:
        """Return the histogram of each channel."""
        inner = np.searchsorted(self.codes, np.arange(1, channels, dtype=np.uint32) << np.uint32(16))
        parts = zip(np.split(self.codes, inner), np.split(self.counts, inner), strict=True)
        return [Histogram(codes.astype(np.uint16), counts) for codes, counts in parts]


class ChannelCounter:
    """Counts the values of each channel, sample by sample, as `Counter` would count each channel alone."""

    def __init__(self) -> None:
        self._pending: list[npt.NDArray[np.uint32]] = []
        self._size = 0
        self._counted = ChannelHistogram.of(np.empty(0, np.uint32))

    def add(self, cube: Array) -> None:
        """Count a sample of shape (outer, channels, inner), of finite numbers."""
        outer, channels, inner = cube.shape
        index = np.arange(channels, dtype=np.uint32) << np.uint32(16)
        if outer * inner <= POSITIONS:
            values, codes = cube, index[:, None]
        else:
            before, behind = np.divmod(positions(outer * inner), inner)
            values, codes = cube[before, :, behind], index  # (positions, channels)
        self._pending.append((codes | round_bits(to_float32(values).view(np.uint32))).reshape(-1))
        self._size += values.size
        # Not more often than the bins grow, or merging would take most of the time.
        if self._size > max(_PENDING, len(self._counted.codes)):
            self._flush()

    def _flush(self) -> None:
        if self._pending:
            self._counted = self._counted.merge(ChannelHistogram.of(np.concatenate(self._pending)))
        self._pending, self._size = [], 0

    @property
    def histogram(self) -> ChannelHistogram:
        """What was counted so far."""
        self._flush()
        return self._counted
