"""Norms of any order."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]

ORDERS = {"l1": 1.0, "l2": 2.0, "inf": math.inf}
"""The orders of norms that have names."""


def norms(rows: Values, order: float) -> Values:
    """Return the norm of each row; order 0 counts what is not zero, negative orders look at the smallest values.

    Rows are divided by what counts most in them first, so that high orders neither overflow nor vanish.

    >>> norms(np.array([[3.0, -4.0]]), 2), norms(np.array([[3.0, -4.0]]), -math.inf)
    (array([5.]), array([3.]))
    """
    size = np.abs(rows)
    if order == 0:
        return np.asarray((size > 0).sum(axis=1), np.float64)
    peak = size.max(axis=1, initial=0) if order > 0 else size.min(axis=1)
    if math.isinf(order):
        return np.asarray(peak)
    ratio = size / np.where(peak == 0, 1, peak)[:, None]
    with np.errstate(divide="ignore"):
        return np.asarray(peak * (ratio**order).sum(axis=1) ** (1 / order))
