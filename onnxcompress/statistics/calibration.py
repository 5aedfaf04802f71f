"""Where to clip a tensor that is to be quantized: one function for each method, from what was observed to a range."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from .histogram import Histogram
from .observation import Observation
from .summaries import Range

Method: TypeAlias = Literal["minmax", "moving_average", "percentile", "entropy", "mse"]
METHODS: tuple[Method, ...] = get_args(Method)
COUNTED: frozenset[Method] = frozenset({"percentile", "entropy", "mse"})
"""Methods that need a histogram."""

Floats = npt.NDArray[np.float64]

MASS = 0.99999
"""The share of the values that the percentile method keeps."""

ENTROPY_BINS = 2048
ENTROPY_STRIDE = 16

_FINE_BITS = 8  # bfloat16's
_COARSE_BITS = 6

FRACTIONS = np.geomspace(1.0, 0.05, 24)
"""The shares of the largest value at which the MSE method tries to clip; neighbours are 12 % apart."""

WIDER = np.geomspace(8.0, 0.25, 28)
"""Around the best that both ends share, for each end alone."""

FINE = np.linspace(1.09, 0.91, 7)
"""Around the best of them, closer."""


def clipped_range(seen: Observation, method: Method, *, symmetric: bool = False, levels: int = 256) -> Range:
    """Return the range that a tensor's scale is to be computed from.

    Parameters
    ----------
    seen : Observation
        With a histogram, for the methods in `COUNTED`.
    method : {"minmax", "moving_average", "percentile", "entropy", "mse"}
    symmetric : bool
        Return ``Range(-t, t)``.
    levels : int
        How many integers the quantized type has: 256 for 8 bits.

    Returns
    -------
    Range
        Never wider than the smallest and largest value (of |x|, if symmetric); ``Range(0, 0)`` of no values.
    """
    extremes = seen.extremes
    if extremes.low > extremes.high:
        return Range(0.0, 0.0)
    found = _METHODS[method](seen, symmetric, levels)
    if symmetric:
        limit = max(abs(found.low), abs(found.high))
        return Range(-limit, limit)
    return Range(*(float(np.clip(side, extremes.low, extremes.high)) for side in (found.low, found.high)))


def minmax(seen: Observation, symmetric: bool, levels: int) -> Range:
    """Keep everything."""
    return seen.extremes


def moving_average(seen: Observation, symmetric: bool, levels: int) -> Range:
    """Average each sample's smallest and largest value over the samples.

    PyTorch's ``MovingAverageMinMaxObserver`` and TensorFlow's ``FakeQuantWithMinMaxVars`` training (Jacob et al.,
    "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", 2018) take an
    exponential average over batches, for a network that is changing meanwhile. Here it is not, and such an average
    would depend on the order of the samples and on the batches; the plain mean over single samples does not.
    """
    low, high = seen.means.mean.tolist()
    return Range(low, high)


def percentile(seen: Observation, symmetric: bool, levels: int) -> Range:
    """Keep 99.999 % of the values; of each side half of the rest is cut, or all of it from |x| if symmetric.

    McKinstry et al., "Discovering Low-Precision Networks Close to Full-Precision Networks for Efficient Embedded
    Inference", 2018; the share is the default of onnxruntime's quantizer.
    """
    values, counts = _counted(seen)
    if symmetric:
        limit = _quantile(*_magnitudes(values, counts), MASS)
        return Range(-limit, min(limit, _largest(seen.extremes)))
    tail = (1 - MASS) / 2
    return Range(_quantile(values, counts, tail), _quantile(values, counts, 1 - tail))


def _quantile(values: Floats, counts: npt.NDArray[np.int64], share: float) -> float:
    cumulative = np.cumsum(counts)
    rank = np.ceil(share * cumulative[-1])
    return float(values[np.searchsorted(cumulative, max(rank, 1))])


def entropy(seen: Observation, symmetric: bool, levels: int) -> Range:
    """Clip |x| where the Kullback-Leibler divergence of the quantized from the true distribution is smallest.

    Migacz, "8-bit Inference with TensorRT", GTC 2017, over 2048 bins. Zeros are not counted, since they are exact
    wherever one clips, and after a Relu they are most of the values. With 2048 levels or more nothing is clipped.
    """
    low, high = seen.extremes.low, seen.extremes.high
    one_sided = not symmetric and (low >= 0 or high <= 0)
    groups = levels if one_sided else levels // 2
    magnitudes, counts = _magnitudes(*_counted(seen))
    nonzero = magnitudes > 0
    if groups >= ENTROPY_BINS or not nonzero.any():
        return seen.extremes
    limit = _entropy_limit(_linear_bins(magnitudes[nonzero], counts[nonzero]), groups)
    limit *= float(magnitudes[-1])
    return Range(max(low, -limit), min(high, limit))


def _linear_bins(magnitudes: Floats, counts: npt.NDArray[np.int64]) -> Floats:
    """Spread the counts of bins of growing width evenly over `ENTROPY_BINS` of equal width, up to the largest."""
    top = magnitudes[-1]
    half = _half_width(magnitudes)
    lower, upper = magnitudes - half, np.minimum(magnitudes + half, top)
    edges = np.stack([lower, upper], axis=1).reshape(-1)
    total = np.cumsum(counts)
    heights = np.stack([total - counts, total], axis=1).reshape(-1)
    at = np.linspace(0, top, ENTROPY_BINS + 1)
    return np.diff(np.interp(at, edges, heights))


def _entropy_limit(bins: Floats, groups: int) -> float:
    """Return the share of the bins to keep.

    Of each candidate the sums over `groups` groups of bins are enough: within a group the quantized distribution is
    flat over the bins that are not empty.
    """
    ends = np.arange(ENTROPY_BINS, groups - 1, -ENTROPY_STRIDE)
    total = bins.sum()
    outliers = total - np.concatenate([[0.0], np.cumsum(bins)])[ends]
    last = bins[ends - 1] + outliers
    edges = np.rint(np.linspace(0, 1, groups + 1) * ends[:, None]).astype(np.int64)
    mass = np.diff(_running(bins)[edges], axis=1)
    filled = np.diff(_running((bins > 0).astype(np.float64))[edges], axis=1)
    filled[:, -1] += (bins[ends - 1] == 0) & (outliers > 0)
    true = mass.copy()
    true[:, -1] += outliers
    with np.errstate(divide="ignore", invalid="ignore"):
        level = np.log(mass / filled / (total - outliers)[:, None])
        cross = np.where(true > 0, true * level, 0.0).sum(axis=1)
    own = _running(_xlogx(bins))[ends - 1] + _xlogx(last) - total * np.log(total)
    divergence = (own - cross) / total
    divergence[~np.isfinite(divergence)] = np.inf
    return float(ends[np.argmin(divergence)]) / ENTROPY_BINS


def _running(values: Floats) -> Floats:
    return np.concatenate([[0.0], np.cumsum(values)])


def _xlogx(values: Floats) -> Floats:
    return values * np.log(np.where(values > 0, values, 1.0))


def mse(seen: Observation, symmetric: bool, levels: int) -> Range:
    """Clip where the mean squared error of quantizing is smallest: of rounding inside, and of clipping outside.

    Choukroun et al., "Low-bit Quantization of Neural Networks for Efficient Inference", 2019; both ends are searched
    in turn where the range is not symmetric. Within a bin of the histogram values are taken as spread evenly.
    """
    fine = _Bins(*_counted(seen), _FINE_BITS)
    coarse = _coarse(fine)
    extremes = seen.extremes
    if symmetric:
        limit = _largest(extremes)
        odd = 2 * (levels // 2) - 1  # the range is symmetric, so that one integer stays unused
        for bins, factors in ((coarse, FRACTIONS), (fine, FINE)):
            sides = np.minimum(limit * factors, _largest(extremes))
            limit = float(sides[_best(bins, -sides, sides, odd)])
        return Range(-limit, limit)
    low, high = min(extremes.low, 0.0), max(extremes.high, 0.0)
    least, most = low, high
    if low < 0 < high:  # together first: as long as one end is far out, the other one hardly matters
        best = float(FRACTIONS[_best(coarse, low * FRACTIONS, high * FRACTIONS, levels)])
        low, high = low * best, high * best
    for bins, factors in ((coarse, FRACTIONS if low == 0 or high == 0 else WIDER), (fine, FINE)):
        if high > 0:
            sides = np.minimum(high * factors, most)
            high = float(sides[_best(bins, np.full(len(sides), low), sides, levels)])
        if low < 0:
            sides = np.maximum(low * factors, least)
            low = float(sides[_best(bins, sides, np.full(len(sides), high), levels)])
    return Range(low if extremes.low < 0 else extremes.low, high if extremes.high > 0 else extremes.high)


class _Bins(NamedTuple):
    """The middles of bins, how many values each holds, and how many bits of a value tell bins apart."""

    values: Floats
    counts: npt.NDArray[np.int64]
    bits: int


def _coarse(bins: _Bins) -> _Bins:
    """Join neighbours."""
    fraction, power = np.frexp(bins.values)
    scale = 2.0**_COARSE_BITS
    middles = np.ldexp(np.copysign(np.floor(np.abs(fraction) * scale) + 0.5, fraction) / scale, power)
    middles[fraction == 0] = 0
    starts = np.flatnonzero(np.diff(middles, prepend=np.nan))
    return _Bins(middles[starts], np.add.reduceat(bins.counts, starts), _COARSE_BITS)


def _best(bins: _Bins, lows: Floats, highs: Floats, levels: int) -> int:
    """Return which of the ranges gives the smallest error; the first of equal ones."""
    steps = (highs - lows) / max(levels - 1, 1)
    if not steps.all():
        return 0
    small = np.abs(bins.values) < steps.min() / 2  # they round to zero, whichever range
    x, n = bins.values[~small], bins.counts[~small]
    half = _half_width(x, bins.bits)
    step, low, high = steps[:, None], lows[:, None], highs[:, None]
    inside = (_error_up_to(x + half, step) - _error_up_to(x - half, step)) / (2 * half)
    beyond = x - np.clip(x, low, high)
    outside = beyond * beyond + half * half / 3
    return int(np.argmin(np.where(beyond == 0, inside, outside) @ n.astype(np.float64)))


def _error_up_to(x: Floats, step: Floats) -> Floats:
    """Integrate the squared error of rounding to multiples of `step`, from 0 to x."""
    whole = np.rint(x / step)
    rest = x - whole * step
    return whole * (step * step * step / 12) + rest * rest * rest / 3


def _half_width(values: Floats, bits: int = _FINE_BITS) -> Floats:
    """Half of the width of a value's bin, where so many leading bits of a value tell bins apart."""
    width: Floats = np.ldexp(1.0, np.frexp(values)[1] - bits - 1)
    return width


def _counted(seen: Observation) -> tuple[Floats, npt.NDArray[np.int64]]:
    assert isinstance(seen.histogram, Histogram)
    values, counts = seen.histogram.values
    return np.clip(values, seen.extremes.low, seen.extremes.high), counts


def _magnitudes(values: Floats, counts: npt.NDArray[np.int64]) -> tuple[Floats, npt.NDArray[np.int64]]:
    magnitudes, where = np.unique(np.abs(values), return_inverse=True)
    return magnitudes, np.bincount(where, weights=counts).astype(np.int64)


def _largest(extremes: Range) -> float:
    return max(abs(extremes.low), abs(extremes.high))


_METHODS: dict[Method, Callable[[Observation, bool, int], Range]] = {
    "minmax": minmax,
    "moving_average": moving_average,
    "percentile": percentile,
    "entropy": entropy,
    "mse": mse,
}
