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
    block: int = 32,
    by_diagonal: bool = True,
    keep_zeros: bool = True,
) -> npt.NDArray[np.int64]:
    """Round a matrix so that its products with the data, not its entries, are near to what they were.

    The columns are rounded one after the other. What rounding one of them does to ``W X`` is made up for, as far as
    that can be, by the columns that are still to come (Frantar et al. 2022, arXiv:2210.17323, algorithm 1).

    Parameters
    ----------
    weight : (rows, columns) or (groups, rows, columns) float array
        A row for each output channel. Several groups, with a matrix and a Gram matrix each, are rounded at once;
        all other arrays then have that axis in front too.
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
    (rows, columns) or (groups, rows, columns) int64 array
        ``W ≈ scale · (result − zero_point)``.

    Raises
    ------
    ValueError
        Shapes do not fit.
    """
    if weight.ndim == 2:
        steps, offsets = np.asarray(scale)[None], np.asarray(zero_point)
        offsets = offsets if offsets.ndim == 0 else offsets[None]
        options = {"damping": damping, "block": block, "by_diagonal": by_diagonal, "keep_zeros": keep_zeros}
        one = gptq(weight[None], steps, grid, gram[None], zero_point=offsets, **options)  # type: ignore[arg-type]
        return np.asarray(one[0], np.int64)
    groups, rows, columns = weight.shape
    if gram.shape != (groups, columns, columns):
        raise ValueError(f"the Gram matrix has shape {gram.shape[1:]}; expected ({columns}, {columns})")
    diagonal = np.diagonal(gram, axis1=1, axis2=2)
    order = np.argsort(-diagonal, axis=1, kind="stable") if by_diagonal else np.tile(np.arange(columns), (groups, 1))
    each = np.arange(groups)[:, None]
    factor = _factor(gram[each[..., None], order[:, :, None], order[:, None, :]], damping)
    # From here on everything stands with its columns as rows: a column is touched as a whole.
    left = weight.swapaxes(1, 2)[each, order].astype(np.float64)
    zero = keep_zeros & (left == 0)
    step, offset = (_spread(values, groups, rows, columns)[each, order] for values in (scale, zero_point))
    result = np.empty((groups, columns, rows), np.int64)
    result[each, order] = _round_columns(left, step, offset, zero, factor, grid, block)
    return np.ascontiguousarray(result.swapaxes(1, 2))


def _round_columns(
    left: Matrix,
    step: Matrix,
    offset: Matrix,
    zero: npt.NDArray[np.bool_],
    factor: Matrix,
    grid: Grid,
    block: int,
) -> Matrix:
    """Round weights (groups, columns, rows) column after column; `left` takes what is made up for."""
    groups, columns, rows = left.shape
    found = np.empty(left.shape)
    for start in range(0, columns, block):
        stop = min(start + block, columns)
        errors = np.empty((groups, stop - start, rows))
        for i in range(start, stop):
            integers = np.clip(np.rint(left[:, i] / step[:, i]) + offset[:, i], grid.low, grid.high)
            found[:, i] = np.where(zero[:, i], offset[:, i], integers)
            error = (left[:, i] - step[:, i] * (found[:, i] - offset[:, i])) / factor[:, i, i, None]
            errors[:, i - start] = error
            left[:, i + 1 : stop] -= factor[:, i, i + 1 : stop, None] * error[:, None]
        left[:, stop:] -= factor[:, start:stop, stop:].swapaxes(1, 2) @ errors
    return found


def _spread(values: npt.ArrayLike, groups: int, rows: int, columns: int) -> Matrix:
    """Return one value for each weight, columns first."""
    array = np.asarray(values, np.float64)
    if array.ndim == 0:
        return np.broadcast_to(array, (groups, columns, rows))
    if array.ndim == 2:
        return np.broadcast_to(array[:, None], (groups, columns, rows))
    if array.shape[:2] != (groups, rows) or columns % array.shape[2]:
        raise ValueError(f"values of shape {array.shape[1:]} for {rows} rows and {columns} columns")
    return np.asarray(np.repeat(array, columns // array.shape[2], axis=2).swapaxes(1, 2))


def _factor(gram: Matrix, damping: float) -> Matrix:
    """Return the upper triangular U with ``Uᵀ U = (gram + damping)⁻¹``; the damping grows until there is one.

    The matrices may be large, so that `gram` is written to.

    Notes
    -----
    Reversed in rows and columns, the matrix is ``L Lᵀ``; reversed again, L is an upper triangular R with ``R Rᵀ`` the
    matrix, and ``U = R⁻¹``. So the inverse itself, which is worse conditioned, is never factored.
    """
    diagonal = np.diagonal(gram, axis1=1, axis2=2).copy()
    alive = diagonal > 0
    mean = np.where(alive, diagonal, 0).sum(1) / np.maximum(alive.sum(1), 1)
    mean = np.where(mean > 0, mean, 1.0)[:, None]
    while True:
        np.einsum("gkk->gk", gram)[...] = diagonal + np.where(alive, damping * mean, mean)
        try:
            upper = np.linalg.cholesky(gram[:, ::-1, ::-1])[:, ::-1, ::-1]
        except np.linalg.LinAlgError:
            damping = max(10 * damping, 1e-9)
            continue
        if len(gram) > 1:  # many small ones: what LAPACK does for one at a time costs more to call than to compute
            return np.asarray(np.linalg.inv(upper), np.float64)
        inverse, _ = scipy.linalg.lapack.dtrtri(upper[0])
        return np.asarray(inverse, np.float64)[None]
