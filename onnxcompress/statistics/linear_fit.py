"""Linear maps fitted to second moments: near to the one that is there, and only as far as samples held out agree."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.linalg

from .gram import Moments

Matrix = npt.NDArray[np.float64]

RIDGES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
"""What may be added to the diagonal of a Gram matrix, relative to its mean; tried until a smaller one is no better."""


def fit_near(fitted: Moments, held: Moments, start: Matrix, *, weighted: int, keep_zeros: bool = False) -> Matrix:
    """Return the S near `start` with the smallest ``|y - S x|²``, where ``own = Σ x xᵀ`` and ``cross = Σ y xᵀ``.

    The ridge, on the first `weighted` columns, draws towards `start`. Which one is best is seen on samples held out;
    then all are fitted. Where none is better than `start`, that is returned.

    Parameters
    ----------
    fitted, held : Moments
        Of several pairs of sets of rows at once.
    start : (pairs, m, k) float64 array
    weighted : int
    keep_zeros : bool
        What is zero in the first `weighted` columns of `start` stays zero: it is a mask.

    Returns
    -------
    (pairs, m, k) float64 array
    """
    free = (start != 0) | (np.arange(start.shape[-1]) >= weighted) if keep_zeros else np.ones((), bool)
    none = held.errors(start)
    least, ridges = none, np.full(len(start), RIDGES[0])
    for ridge in RIDGES:
        errors = held.errors(_with_ridge(fitted, start, np.full(len(start), ridge), weighted, free))
        better = errors < least
        if not better.any():
            break
        least, ridges = np.where(better, errors, least), np.where(better, ridge, ridges)
    chosen = least < none
    if not chosen.any():
        return start
    return np.where(chosen[:, None, None], _with_ridge(fitted.merge(held), start, ridges, weighted, free), start)


def _with_ridge(moments: Moments, start: Matrix, ridges: Matrix, weighted: int, free: npt.NDArray[np.bool_]) -> Matrix:
    """Solve the normal equations, and move what is `free`; each ridge is relative to the mean of the diagonal."""
    diagonal = np.diagonal(moments.own, axis1=1, axis2=2)[:, :weighted].mean(1)
    added = np.where(diagonal > 0, ridges * diagonal, 1.0)[:, None] * (np.arange(moments.own.shape[-1]) < weighted)
    own = moments.own.copy()
    np.einsum("gkk->gk", own)[...] += added
    right = (moments.cross - start @ moments.own).swapaxes(1, 2)
    try:
        # For many small systems, calling LAPACK for one at a time costs more than it saves.
        found = (
            np.linalg.solve(own, right) if len(own) > 1 else scipy.linalg.solve(own[0], right[0], assume_a="pos")[None]
        )
    except np.linalg.LinAlgError:  # what it reads is the same for every sample
        return start
    return np.asarray(start + np.where(free, found.swapaxes(1, 2), 0), np.float64)
