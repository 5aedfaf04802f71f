"""How far a drop that was measured on some samples may be from the one that all samples would show."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

Z = 1.959963984540054
"""Of the normal distribution, 95 % lie within as many standard deviations."""

HALVINGS = 60
"""Of an interval of length 2, until its ends are the same number."""

MOST_SAMPLES = 10_000_000
"""No more than these are told to be needed."""

Losses = npt.NDArray[np.float64] | Sequence[float]
"""How much is lost on each sample; their mean is the drop."""


def counts(losses: Losses) -> tuple[int, int, int] | None:
    """Return how many samples lose and gain one decision, of how many; None where losses are other numbers."""
    values = np.asarray(losses, np.float64)
    if not len(values) or not np.isin(values, (-1.0, 0.0, 1.0)).all():
        return None
    return int((values > 0).sum()), int((values < 0).sum()), len(values)


def mean_error(losses: Losses) -> float:
    """Return the standard error of the mean.

    >>> round(mean_error([1.0] * 6 + [-1.0] * 2 + [0.0] * 92), 4)
    0.0281
    """
    values = np.asarray(losses, np.float64)
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.inf


def mean_interval(losses: Losses) -> tuple[float, float]:
    """Return the 95 % interval of the mean.

    Of decisions it is that of `paired_interval`; of other numbers it is as wide as the normal distribution says.
    """
    counted = counts(losses)
    if counted is not None:
        return paired_interval(*counted)
    return around(float(np.mean(losses)), mean_error(losses))


def around(mean: float, error: float) -> tuple[float, float]:
    """Return the 95 % interval of a mean with a standard error."""
    return (mean - Z * error, mean + Z * error) if math.isfinite(error) else (-math.inf, math.inf)


def paired_interval(lost: float, gained: float, count: float) -> tuple[float, float]:
    """Return the 95 % interval of the difference of two shares of the same samples.

    It does not shrink to nothing where no decision changed: that 40 of 40 stay says little of the next hundred.
    Tango, "Equivalence test and confidence interval for the difference in proportions for the paired-sample design"
    (1998): the differences that a score test does not rule out.

    Parameters
    ----------
    lost, gained : float
        Decisions that only the first, and only the second has right.
    count : float
        All decisions.

    >>> tuple(round(end, 4) for end in paired_interval(0, 0, 40))
    (-0.0876, 0.0876)
    """
    mean = (lost - gained) / count

    def off(delta: float) -> float:
        """Return by how many standard errors the mean is off, if the difference is `delta`."""
        linear = (2 * count - lost + gained) * delta - lost - gained
        only_second = (math.sqrt(max(linear**2 + 8 * count * gained * delta * (1 - delta), 0.0)) - linear) / (4 * count)
        spread = count * (2 * only_second + delta * (1 - delta))
        return abs(lost - gained - count * delta) / math.sqrt(spread) if spread > 0 else math.inf

    return _end(off, mean, -1.0), _end(off, mean, 1.0)


def _end(off: Callable[[float], float], near: float, far: float) -> float:
    """Return where, from `near` to `far`, the score test begins to rule a difference out."""
    for _ in range(HALVINGS):
        middle = (near + far) / 2
        near, far = (middle, far) if off(middle) <= Z else (near, middle)
    return near


def samples_needed(drop: float, high: float, count: int, allowed: float, changed: tuple[int, int] | None) -> int | None:
    """Return about how many samples would show that a drop is within what is allowed, if it stays as it is.

    Parameters
    ----------
    drop, high : float
        What was measured, and the end of its interval.
    count : int
        On so many samples.
    allowed : float
        The largest drop; more than `drop`.
    changed : tuple of int, optional
        How many of the samples lost and gained a decision, where decisions are counted.

    Returns
    -------
    int or None
        None where no number of samples that one could have would do.
    """
    if drop >= allowed or not math.isfinite(high):
        return None
    if changed is None:
        return math.ceil(count * ((high - drop) / (allowed - drop)) ** 2)

    def shows(more: int) -> bool:
        lost, gained = (each * more / count for each in changed)
        return paired_interval(lost, gained, more)[1] <= allowed

    low, enough = count, count
    while not shows(enough):
        low, enough = enough, enough * 2
        if enough > MOST_SAMPLES:
            return None
    while enough - low > max(enough // 100, 1):
        middle = (low + enough) // 2
        low, enough = (low, middle) if shows(middle) else (middle, enough)
    return enough
