"""Mergeable summaries of a tensor's values over the samples.

Neither the order of the samples nor how they are split into batches changes them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ..errors import DataError, PassError
from ..machines.workers import Here, Workers
from ..progress import Progress
from ..samples.samples import Samples
from .taps import Tap, Tapper, find_values, measure_shapes, run_taps

if TYPE_CHECKING:
    from ..runtime.session import Array

LIMIT_BYTES = 1 << 30
"""How many bytes of tensors are tapped at once."""

_LIMB_BITS = 32
_EXPONENTS = range(96, -129, -_LIMB_BITS)
"""Sums are kept as whole multiples of 2^96, 2^64, … 2^-128: float32's range, exactly."""


@dataclass(frozen=True)
class Range:
    """The smallest and the largest value; ``(inf, -inf)`` of no values."""

    low: float
    high: float

    def merge(self, other: Range) -> Range:
        """Return the range of both."""
        return Range(min(self.low, other.low), max(self.high, other.high))


@dataclass(frozen=True)
class ChannelMean:
    """The sum of |x|, x² or x ≠ 0 for each index of an axis, kept so that adding up is exact in any order.

    Attributes
    ----------
    limbs : ndarray of int64, shape (limbs, channels)
        Each row counts multiples of one power of two; see `of`.
    count : int
        How many values each channel's sum is made of.
    """

    limbs: npt.NDArray[np.int64]
    count: int

    @classmethod
    def of(cls, sums: npt.NDArray[np.float64], count: int) -> ChannelMean:
        """Return the statistic of `sums` (samples, channels) for `count` values a channel.

        Each sum is rounded to 24 bits, since an engine's own order of adding may differ with the batch in the last of
        its 53, and split into limbs of 32 bits. Adding integers is exact, so that merging is associative; the
        smallest limb cuts off what is below 2^-128, the same for each sample wherever it stands.
        """
        limbs = np.zeros((len(_EXPONENTS), sums.shape[1]), np.int64)
        fraction, power = np.frexp(sums.astype(np.float64))
        rest = np.ldexp(np.round(np.ldexp(fraction, 24)), power - 24)
        for row, exponent in enumerate(_EXPONENTS):
            whole = np.trunc(np.ldexp(rest, -exponent))
            rest = rest - np.ldexp(whole, exponent)
            limbs[row] = whole.astype(np.int64).sum(axis=0)
        return cls(limbs, count)

    def merge(self, other: ChannelMean) -> ChannelMean:
        """Return the statistic of both."""
        return ChannelMean(self.limbs + other.limbs, self.count + other.count)

    @property
    def total(self) -> npt.NDArray[np.float64]:
        """The sum, float64, shape (channels,)."""
        columns = zip(*self.limbs.tolist(), strict=True)
        return np.array([math.fsum(map(math.ldexp, column, _EXPONENTS)) for column in columns], np.float64)

    @property
    def mean(self) -> npt.NDArray[np.float64]:
        """The mean, float64, shape (channels,); 0 of no values."""
        return self.total / max(self.count, 1)


Moment: TypeAlias = Literal["absolute", "square", "nonzero"]
"""What of each value is averaged: |x|, x², or 1 where x is not zero."""

LARGEST_SUM = 2.0**158
"""Above it the first limb would not fit 64 bits; only squares of values near the end of float32's range are."""


def collect_channel_means(
    model: ir.Model,
    samples: Samples,
    channels: list[tuple[str, int]],
    *,
    progress: Progress,
    limit_bytes: int = LIMIT_BYTES,
    moment: Moment = "absolute",
    workers: Workers | None = None,
) -> dict[tuple[str, int], ChannelMean]:
    """Find the mean of |x|, x² or x ≠ 0 for each index of an axis, over the samples and all other axes.

    Parameters
    ----------
    model : onnx_ir.Model
        Not changed.
    samples : Samples
    channels : list of (str, int)
        Names of values of the outer graph, each with an axis (negative counts from the last).
    progress : callable
        Called as ``progress(what, done, total)``; `total` is 0 while it is not known.
    limit_bytes : int
        How many bytes of tensors are tapped at once; each lot takes one pass over the samples.
    moment : {"absolute", "square", "nonzero"}
        What of each value is averaged.
    workers : Workers, optional
        Who goes through the samples; this process by default.

    Returns
    -------
    dict of (str, int) to ChannelMean
        For a constant tensor, of the tensor itself.

    Raises
    ------
    PassError
        A tensor is not in the model, not numeric, lives inside an inner graph, or has no such axis.
    DataError
        A tensor holds NaN or infinity, or values too large to be squared, or the axis has different lengths for
        different samples.
    """
    constants, tapped = find_values(model, [name for name, _ in channels])
    shapes = measure_shapes(model, samples, tapped) if tapped else {}
    shapes |= {name: array.shape for name, array in constants.items()}
    axes = {key: check_axis(key, len(shapes[key[0]])) for key in channels}
    found = {
        key: _constant_mean(key, constants[key[0]], axis, moment) for key, axis in axes.items() if key[0] in constants
    }
    taps = [
        Tap((name, axis), name, partial(_reduce_sums, axis=axes[name, axis], rank=len(shapes[name]), moment=moment))
        for name, axis in axes
        if name not in constants
    ]
    for key, (sums, shape) in run_taps(
        model,
        samples,
        taps,
        shapes,
        what="channel means",
        progress=progress,
        limit_bytes=limit_bytes,
        workers=workers or Here(),
    ):
        new = _mean_of(key, sums, shape, axes[key])
        found[key] = _merged(key, found[key], new) if key in found else new
    return found


def _merged(key: tuple[str, int], old: ChannelMean, new: ChannelMean) -> ChannelMean:
    if old.limbs.shape != new.limbs.shape:
        lengths = f"{old.limbs.shape[1]} and {new.limbs.shape[1]}"
        raise DataError(f"tensor '{key[0]}': axis {key[1]} has different lengths for different samples: {lengths}")
    return old.merge(new)


def check_axis(key: tuple[str, int], rank: int) -> int:
    """Return the axis counted from the first; raises `PassError` where the tensor has none such."""
    if not -rank <= key[1] < rank:
        raise PassError(f"tensor '{key[0]}' has {rank} axes; it has no axis {key[1]}")
    return key[1] % rank


def _absolute(tapper: Tapper, double: ir.Value) -> ir.Value:
    return tapper.add("Abs", double)


def _square(tapper: Tapper, double: ir.Value) -> ir.Value:
    return tapper.add("Mul", double, double)


def _nonzero(tapper: Tapper, double: ir.Value) -> ir.Value:
    return tapper.add("Abs", tapper.add("Sign", double))  # the sign of NaN is NaN, so that NaN is still found


MOMENTS: dict[Moment, tuple[Callable[[Tapper, ir.Value], ir.Value], Callable[[Array], Array]]] = {
    "absolute": (_absolute, np.abs),
    "square": (_square, np.square),
    "nonzero": (_nonzero, lambda x: np.abs(np.sign(x))),
}
"""What each moment is: nodes for a graph, and the same in numpy."""


def _reduce_sums(tapper: Tapper, value: ir.Value, axis: int, rank: int, moment: Moment) -> list[ir.Value]:
    """Sum in float64 over all axes but `axis` and the samples, so that a sample's sum is the same in any batch."""
    double = MOMENTS[moment][0](tapper, tapper.cast(value, ir.DataType.DOUBLE))
    sums = tapper.reduce_sum(double, [other for other in range(rank) if other not in (0, axis)])
    return [sums, tapper.add("Shape", value)]


def _constant_mean(key: tuple[str, int], array: Array, axis: int, moment: Moment) -> ChannelMean:
    rows = np.moveaxis(MOMENTS[moment][1](array.astype(np.float64)), axis, 0)
    return _mean_of(key, rows.reshape(len(rows), -1).sum(axis=1), np.array(array.shape), axis)


def _mean_of(key: tuple[str, int], sums: Array, shape: Array, axis: int) -> ChannelMean:
    if not np.isfinite(sums).all():
        raise DataError(f"tensor '{key[0]}' holds NaN or infinity for some sample")
    if sums.size and sums.max() >= LARGEST_SUM:
        raise DataError(f"tensor '{key[0]}' holds values too large to be squared")
    length = int(shape[axis])
    return ChannelMean.of(sums.reshape(-1, length), math.prod(np.delete(shape, axis).tolist()))
