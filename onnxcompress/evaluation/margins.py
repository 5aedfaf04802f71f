"""How many decisions a change of the scores is expected to cost, from how near all of them are.

Of a hundred samples two or three change their decision, so that counting them says little. By how much each is decided,
and by how much the other model moves that, is known of all hundred.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from ..runtime.session import Array
from .decisions import class_scores

Floats = npt.NDArray[np.float64]

LEAST = 1e-30
"""A probability below is as good as none."""

ROUNDING = 1e-2
"""Rows of probabilities add up to 1 but for so much."""


class Margins:
    """Adds up, batch by batch, by how much the right class is ahead of the next, and how far the other model moves it.

    Without labels the original's decision counts as right. What has no classes is left out.
    """

    def __init__(self) -> None:
        self._before: list[Floats] = []
        self._moved: list[Floats] = []

    def update(self, original: Any, other: Any, labels: Array | None) -> None:
        """Take in one batch of the same output of both."""
        if not isinstance(original, np.ndarray) or not isinstance(other, np.ndarray) or original.shape != other.shape:
            return
        first, second = class_scores(original), class_scores(other)
        if first is None or second is None or (labels is not None and labels.size * first.shape[-1] != first.size):
            return
        first, second = (
            _in_logarithms(scores.reshape(-1, scores.shape[-1]).astype(np.float64)) for scores in (first, second)
        )
        right = first.argmax(axis=1) if labels is None else labels.reshape(-1).astype(np.int64)
        with np.errstate(invalid="ignore"):  # infinity less infinity, which is left out
            before, after = _ahead(first, right), _ahead(second, right)
        known = np.isfinite(before) & np.isfinite(after)
        self._before.append(before[known])
        self._moved.append(after[known] - before[known])

    def expected(self) -> tuple[float, float] | None:
        """Return the share of decisions that is expected to be lost, and the standard error of that; None without any.

        Every movement that was seen is taken to befall every sample alike: the mean over all pairs of the two
        (Hoeffding, "A class of statistics with asymptotically normal distribution", 1948). Where scores that are far
        apart move otherwise than near ones, it is off by that, and counting is right in the long run.
        """
        before = np.concatenate(self._before) if self._before else np.zeros(0)
        if len(before) < 2:
            return None
        moved = np.concatenate(self._moved)
        was_right = before > 0
        by_sample = was_right - (1 - _share_up_to(moved, -before))  # sample i, moved like any j
        by_movement = was_right.mean() - (1 - _share_up_to(before, -moved))
        spread = (by_sample + by_movement).std(ddof=1)
        return float(by_sample.mean()), float(spread / math.sqrt(len(before)))


def _ahead(scores: Floats, right: npt.NDArray[np.int64]) -> Floats:
    """Return the score of the right class less the highest of the others."""
    rows = np.arange(len(scores))
    others = scores.copy()
    others[rows, right] = -np.inf
    return np.asarray(scores[rows, right] - others.max(axis=1))


def _in_logarithms(scores: Floats) -> Floats:
    """Return the logarithms of probabilities, whose noise is alike wherever they are; other scores as they are."""
    if scores.size and scores.min() >= 0 and np.abs(scores.sum(axis=1) - 1).max() < ROUNDING:
        return np.asarray(np.log(np.maximum(scores, LEAST)))
    return scores


def _share_up_to(values: Floats, ends: Floats) -> Floats:
    """Return the share of `values` that is at most each of `ends`."""
    return np.asarray(np.searchsorted(np.sort(values), ends, side="right") / len(values))
