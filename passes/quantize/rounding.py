"""Rounding that makes up for its own errors, on matrices, without any graph."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.linalg

from .scales import Grid

Matrix = npt.NDArray[np.float64]


def gptq(
    weight: npt.NDArray[np.floating],
    scale: npt.NDArray[np.floating],
    grid: Grid,
    gram: Matrix,
    *,
    zero_point: npt.ArrayLike = 0,
    damping: float = 0.01,
    block: int = 128,
    by_diagonal: bool = True,
    keep_zeros: bool = True,
) -> npt.NDArray[np.int64]:
    """Round a matrix so that its products with the data, not its entries, are near to what they were.

    The columns are rounded one after the other. What rounding one of them does to ``W X`` is made up for, as far as
    that can be, by the columns that are still to come (Frantar et al. 2022, arXiv:2210.17323, algorithm 1).

    Parameters
    ----------
    weight : (rows, columns) float array
        A row for each output channel.
    scale : (rows,), (rows, groups) or (rows, columns) float array
        One for each row, each group of neighbouring columns, or each weight.
    grid : Grid
    gram : (columns, columns) float64 array
        ``Σ x xᵀ`` over the samples. A column whose diagonal is 0 has never seen anything: it is rounded to nearest.
    zero_point : int, or array of a shape that `scale` may have
    damping : float
        What is added to the diagonal, relative to its mean.
    block : int
        Columns that are finished before the ones behind them hear of it; changes the speed only.
    by_diagonal : bool
        Round the columns with the largest diagonal first, while there are many to make up for them. On correlated
        data this leaves a sixth of the error of the order that they stand in, if their sizes differ much.
    keep_zeros : bool
        A weight of 0 is stored as 0, whatever it could make up for.

    Returns
    -------
    (rows, columns) int64 array
        ``W ≈ scale · (result − zero_point)``.

    Raises
    ------
    ValueError
        Shapes do not fit.
    """
    rows, columns = weight.shape
    if gram.shape != (columns, columns):
        raise ValueError(f"the Gram matrix has shape {gram.shape}; expected ({columns}, {columns})")
    diagonal = np.diag(gram)
    order = np.argsort(-diagonal, kind="stable") if by_diagonal else np.arange(columns)
    factor = _factor(gram[np.ix_(order, order)], damping)
    # From here on everything stands with its columns as rows: a column is touched as a whole.
    left = weight.T[order].astype(np.float64)
    zero = keep_zeros & (left == 0)
    step, offset = (_spread(values, rows, columns)[order] for values in (scale, zero_point))
    found = np.empty((columns, rows))
    for start in range(0, columns, block):
        stop = min(start + block, columns)
        errors = np.empty((stop - start, rows))
        for i in range(start, stop):
            integers = np.clip(np.rint(left[i] / step[i]) + offset[i], grid.low, grid.high)
            found[i] = np.where(zero[i], offset[i], integers)
            errors[i - start] = (left[i] - step[i] * (found[i] - offset[i])) / factor[i, i]
            left[i + 1 : stop] -= np.outer(factor[i, i + 1 : stop], errors[i - start])
        left[stop:] -= factor[start:stop, stop:].T @ errors
    result = np.empty((columns, rows), np.int64)
    result[order] = found
    return np.ascontiguousarray(result.T)


def _spread(values: npt.ArrayLike, rows: int, columns: int) -> Matrix:
    """Return one value for each weight, columns first."""
    array = np.asarray(values, np.float64)
    if array.ndim < 2:
        return np.broadcast_to(array, (columns, rows))
    if array.shape[0] != rows or columns % array.shape[1]:
        raise ValueError(f"values of shape {array.shape} for {rows} rows and {columns} columns")
    return np.asarray(np.repeat(array, columns // array.shape[1], axis=1).T)


def _factor(gram: Matrix, damping: float) -> Matrix:
    """Return the upper triangular U with ``Uᵀ U = (gram + damping)⁻¹``; the damping grows until there is one.

    Notes
    -----
    Reversed in rows and columns, the matrix is ``L Lᵀ``; reversed again, L is an upper triangular R with ``R Rᵀ`` the
    matrix, and ``U = R⁻¹``. So the inverse itself, which is worse conditioned, is never factored.
    """
    diagonal = np.diag(gram)
    dead = diagonal <= 0
    mean = float(diagonal[~dead].mean()) if not dead.all() else 1.0
    while True:
        damped = gram + np.diag(np.where(dead, mean, damping * mean))
        try:
            lower = scipy.linalg.cholesky(damped[::-1, ::-1], lower=True)
        except scipy.linalg.LinAlgError:
            damping = max(10 * damping, 1e-9)
            continue
        return np.asarray(scipy.linalg.solve_triangular(lower[::-1, ::-1], np.eye(len(gram))), np.float64)
