"""Counts of a tensor's values in bins whose width grows with the value."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from ..runtime.session import Array

POSITIONS = 1 << 11
"""How many values of a sample's tensor are counted; all of them, if there are no more."""

_BINS = 1 << 16
_BUFFER = 16 * POSITIONS
_FLOAT32 = np.finfo(np.float32)


@dataclass(frozen=True)
class Histogram:
    """How often each value came, each rounded to bfloat16: an error of at most 2^-9 of the value.

    The bins are the same for all tensors, so nothing needs to be known before the first value is counted, and two
    histograms merge by adding integers, which is exact in any order. Only bins that hold a value are kept.

    Attributes
    ----------
    keys : ndarray of uint16, shape (bins,)
        The bit patterns of the bfloat16 values, ascending.
    counts : ndarray of int64, shape (bins,)
    """

    keys: npt.NDArray[np.uint16]
    counts: npt.NDArray[np.int64]

    @classmethod
    def of(cls, values: npt.NDArray[np.float32]) -> Histogram:
        """Count finite values."""
        return cls._of_bits(values.reshape(-1).view(np.uint32))

    @classmethod
    def _of_bits(cls, bits: npt.NDArray[np.uint32]) -> Histogram:
        return cls._of_bins(np.bincount(round_bits(bits), minlength=_BINS))

    @classmethod
    def _of_bins(cls, bins: npt.NDArray[np.int64]) -> Histogram:
        keys = np.flatnonzero(bins != 0)  # of booleans, which numpy is fast at
        return cls(keys.astype(np.uint16), bins[keys])

    def merge(self, other: Histogram) -> Histogram:
        """Return the histogram of both."""
        if not self.keys.size:
            return other
        bins = np.zeros(_BINS, np.int64)
        bins[self.keys] = self.counts
        bins[other.keys] += other.counts
        return self._of_bins(bins)

    @property
    def values(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """The values, ascending, float64, shape (bins,), and how often each came."""
        values = (self.keys.astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)
        values[np.isinf(values)] = np.copysign(float(_FLOAT32.max), values[np.isinf(values)])
        order = np.argsort(values, kind="stable")
        return values[order], self.counts[order]


EMPTY = Histogram(np.zeros(0, np.uint16), np.zeros(0, np.int64))


class Counter:
    """Counts the values of one tensor, sample by sample.

    Of a tensor of more than `POSITIONS` values only so many are counted, at positions that are drawn once for each
    size: the same for each sample, so that what is counted of a sample depends on nothing but the sample. One
    position is drawn from each of `POSITIONS` equal stretches, so that no channel and no place is favoured.
    """

    def __init__(self) -> None:
        self._buffer = np.empty(_BUFFER, np.uint32)
        self._used = 0
        self._counted = EMPTY

    def add(self, array: Array) -> None:
        """Count a sample's tensor of finite numbers."""
        bits = to_float32(array).reshape(-1).view(np.uint32)
        size = min(bits.size, POSITIONS)
        if self._used + size > _BUFFER:
            self._flush()
        target = self._buffer[self._used : self._used + size]
        if bits.size <= POSITIONS:
            target[:] = bits
        else:
            # With mode "raise" numpy would go through a buffer of its own.
            bits.take(positions(bits.size), out=target, mode="clip")
        self._used += size

    def _flush(self) -> None:
        if self._used:
            self._counted = self._counted.merge(Histogram._of_bits(self._buffer[: self._used]))
        self._used = 0

    @property
    def histogram(self) -> Histogram:
        """What was counted so far."""
        self._flush()
        return self._counted


def round_bits(bits: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """Return the bit patterns of float32 values as those of the nearest bfloat16 ones."""
    # Half of a last bit is added, then the lower 16 bits fall off.
    rounded: npt.NDArray[np.uint32] = (bits + np.uint32(1 << 15)) >> np.uint32(16)
    return rounded


def to_float32(array: Array) -> npt.NDArray[np.float32]:
    """Return numbers of any type as contiguous float32; what is beyond its range becomes its largest."""
    if array.dtype == np.float64:
        array = array.clip(float(_FLOAT32.min), float(_FLOAT32.max))
    return np.ascontiguousarray(array, np.float32)


@lru_cache(maxsize=128)
def positions(size: int) -> npt.NDArray[np.int64]:
    """Return `POSITIONS` of `size` places, ascending, int64; one at random from each of as many equal stretches."""
    drawn = np.random.default_rng(0).random(POSITIONS)
    return np.floor((np.arange(POSITIONS) + drawn) * (size / POSITIONS)).astype(np.int64).clip(0, size - 1)
