"""Rounding that makes up for its own errors, on matrices, without any graph."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from copy import copy
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import lapack
from threadpoolctl import threadpool_limits

from onnxcompress.runtime.session import usable_cores

from .scales import Grid

Floats = npt.NDArray[np.floating]
Values = npt.NDArray[Any]


TRIES = 16
"""How often the damping grows, by 10 each time."""


class Factor:
    """The Cholesky factor of symmetric matrices, damped; in single precision if they are, which is 5 times as fast.

    Parameters
    ----------
    gram : (groups, columns, columns) float array
        Not changed. A column whose diagonal is 0 has never seen anything.
    damping : float
        What is added to the diagonal, relative to the mean of what is not 0; it grows until there is a factor.
    by_diagonal : bool
        Factor the columns with the largest diagonal last: they are rounded first, while there are many to make up for
        them. On correlated data this leaves a sixth of the error of the order that they stand in, if their sizes
        differ much.

    Attributes
    ----------
    order : (groups, columns) int array
        Columns in the order in which they are factored.
    upper : (groups, columns, columns) float array
        ``U`` with ``Uᵀ U`` the matrix in that order; what stands below the diagonal means nothing.
    """

    def __init__(self, gram: Floats, damping: float = 0.01, *, by_diagonal: bool = True) -> None:
        groups, columns = gram.shape[:2]
        diagonal = np.diagonal(gram, axis1=1, axis2=2)
        self.order = np.tile(np.arange(columns), (groups, 1))
        if by_diagonal:
            self.order = np.argsort(-diagonal, axis=1, kind="stable")
        self.order = self.order[:, ::-1]
        alive = diagonal > 0
        mean = np.where(alive, diagonal, 0).sum(1) / np.maximum(alive.sum(1), 1)
        mean = np.where(mean > 0, mean, 1)[:, None]
        for _ in range(TRIES):
            added = np.where(alive, damping * mean, max(damping, 1) * mean).astype(gram.dtype)
            found = _cholesky(self._permuted(gram, added))
            if found is not None:
                self.upper = found
                return
            damping = max(10 * damping, 1e-9)
        # What was seen is nothing but the rounding of something constant: no column can make up for another.
        alone = np.sqrt(np.take_along_axis(np.where(alive, diagonal, mean), self.order, 1))
        self.upper = alone[:, None] * np.eye(columns, dtype=gram.dtype)

    def _permuted(self, gram: Floats, added: Floats) -> Floats:
        if len(gram) == 1:
            order = self.order[0]
            found = gram[0].take(order, 0).take(order, 1)[None]  # whole rows first
        else:
            found = gram[np.arange(len(gram))[:, None, None], self.order[:, :, None], self.order[:, None, :]]
        np.einsum("gkk->gk", found)[...] += np.take_along_axis(added, self.order, 1)
        return np.asarray(found)

    def divide(self, right: Floats) -> Floats:
        """Return ``right · matrix⁻¹`` for matrices (groups, rows, columns)."""
        columns = self.ordered(right)
        if len(right) == 1:
            solve: Any = lapack.get_lapack_funcs("potrs", (self.upper,))
            found = solve(self.upper[0].T, columns[0], lower=1)[0][None]
        else:
            upper = np.triu(self.upper)
            found = np.linalg.solve(upper, np.linalg.solve(upper.swapaxes(1, 2), columns))
        return self.restored(found)

    def ordered(self, array: Floats) -> Floats:
        """Return (groups, rows, columns) as (groups, columns in their order, rows), in the precision of the factor."""
        each = np.arange(len(array))[:, None]
        return np.asarray(array.swapaxes(1, 2)[each, self.order].astype(self.upper.dtype, copy=False))

    def restored(self, array: Values) -> Values:
        """Undo `ordered`."""
        result = np.empty_like(array)
        result[np.arange(len(array))[:, None], self.order] = array
        return np.asarray(result.swapaxes(1, 2))


def _cholesky(matrices: Floats) -> Floats | None:
    """Return the upper factors of matrices, which are overwritten; None if one is not positive definite."""
    if len(matrices) > 1:  # many small ones: to call LAPACK for one at a time costs more than it computes
        try:
            return np.asarray(np.linalg.cholesky(matrices, upper=True))
        except np.linalg.LinAlgError:
            return None
    factor: Any = lapack.get_lapack_funcs("potrf", (matrices,))
    found, info = factor(matrices[0].T, lower=1, overwrite_a=1, clean=0)
    return None if info else np.asarray(found.T)[None]


def gptq(
    weight: Floats,
    scale: Floats,
    grid: Grid,
    factor: Factor,
    *,
    zero_point: npt.ArrayLike = 0,
    width: int | None = None,
    block: int = 128,
    keep_zeros: bool = True,
) -> npt.NDArray[np.int32]:
    """Round matrices so that their products with the data, not their entries, are near to what they were.

    The columns are rounded one after the other. What rounding one of them does to ``W X`` is made up for, as far as
    that can be, by the columns that are still to come (Frantar et al. 2022, arXiv:2210.17323, algorithm 1).

    Parameters
    ----------
    weight : (groups, rows, columns) float array
        A row for each output channel, and a matrix for each group.
    scale : (groups, rows), (groups, rows, parts) or (groups, rows, columns) float array
        One for each row, each part of neighbouring columns, or each weight.
    grid : Grid
    factor : Factor
        Of ``Σ x xᵀ`` over the samples, for each group. A column whose diagonal is 0 is rounded to nearest.
    zero_point : int, or array of a shape that `scale` may have
    width : int, optional
        How many columns a part has, the last one perhaps fewer; by default parts are of equal size.
    block : int
        Columns that are finished before the next ones hear of those before; changes the speed only.
    keep_zeros : bool
        A weight of 0 is stored as 0, whatever it could make up for.

    Returns
    -------
    (groups, rows, columns) int32 array
        ``W ≈ scale · (result − zero_point)``.

    Raises
    ------
    ValueError
        Shapes do not fit.

    Notes
    -----
    With ``H = R Rᵀ``, R upper triangular, the error is ``|(W − Q) R|²``, and column i of it is as small as it can be,
    after the columns before, where ``q_i = round(w_i + Σ_{j<i} (w_j − q_j) R_ji / R_ii)``: the same integers as with
    the factor of the inverse, which need not be computed (LDLQ; Chee et al. 2023, arXiv:2307.13304).
    """
    groups, rows, columns = weight.shape
    if factor.upper.shape != (groups, columns, columns):
        raise ValueError(f"the Gram matrix has shape {factor.upper.shape[1:]}; expected ({columns}, {columns})")
    # From here on everything stands with its columns as rows: a column is touched as a whole.
    exact = factor.ordered(weight)
    step, offset = (_Spread(values, factor, rows, width) for values in (scale, zero_point))
    found = np.empty_like(exact)

    def round_rows(first: int) -> None:
        part = slice(first, first + TOGETHER)
        of = step.rows(part), offset.rows(part)
        found[..., part] = _round_columns(exact[..., part], *of, factor.upper, grid, block, keep_zeros=keep_zeros)

    if rows <= TOGETHER:
        round_rows(0)
    else:  # rows know nothing of each other: a core for each part beats all cores for each of the many small products
        with threadpool_limits(1, "blas"), ThreadPoolExecutor(usable_cores()) as pool:
            list(pool.map(round_rows, range(0, rows, TOGETHER)))
    return np.ascontiguousarray(factor.restored(found), np.int32)


TOGETHER = 1024
"""So many rows are rounded together, whatever the number of cores, so that sums come out the same."""


NEAREST = 16
"""So many columns hear of each other one at a time: what they read stays in a core's cache."""


def _round_columns(
    exact: Floats, step: _Spread, offset: _Spread, upper: Floats, grid: Grid, block: int, *, keep_zeros: bool
) -> Floats:
    """Round weights (groups, columns, rows) column after column, the last one first."""
    columns = exact.shape[1]
    found, errors = np.empty_like(exact), np.empty_like(exact)
    zero = (exact == 0) & keep_zeros
    masked = zero.any((0, 2))
    for stop in range(columns, 0, -block):
        start = max(stop - block, 0)
        inside = np.arange(start, stop)
        share = upper[:, start:stop, start:] / upper[:, inside, inside, None]
        wanted = exact[:, start:stop] + share[:, :, stop - start :] @ errors[:, stop:]
        for until in range(stop, start, -NEAREST):
            first = max(until - NEAREST, start)
            if until < stop:
                near = slice(first - start, until - start)
                wanted[:, near] += share[:, near, until - start : stop - start] @ errors[:, until:stop]
            for i in range(until - 1, first - 1, -1):
                best, scale, middle = wanted[:, i - start], step.of(i), offset.of(i)
                if i + 1 < until:
                    best += (share[:, i - start, None, i + 1 - start : until - start] @ errors[:, i + 1 : until])[:, 0]
                best /= scale
                integers = np.rint(best, out=found[:, i])
                integers += middle
                np.clip(integers, grid.low, grid.high, out=integers)
                if masked[i]:
                    np.copyto(integers, middle, where=zero[:, i])
                np.subtract(integers, middle, out=best)
                best *= scale
                np.subtract(exact[:, i], best, out=errors[:, i])
    return found


class _Spread:
    """Scales or zero points, one for each weight of a column when it is asked for."""

    def __init__(self, values: npt.ArrayLike, factor: Factor, rows: int, width: int | None) -> None:
        groups, columns = factor.order.shape
        array = np.asarray(values, factor.upper.dtype)
        if array.ndim < 3:
            array = np.broadcast_to(array, (groups, rows) if array.ndim else (groups, 1))[..., None]
        parts = array.shape[2]
        width = width if width is not None and parts > 1 else columns // parts
        if array.shape[1] not in (1, rows) or not width or -(-columns // width) != parts:
            raise ValueError(f"values of shape {array.shape[1:]} for {rows} rows and {columns} columns")
        self._array = np.ascontiguousarray(np.broadcast_to(array, (groups, rows, parts)).swapaxes(1, 2))
        self._part, self._each = factor.order // width, np.arange(groups)

    def rows(self, part: slice) -> _Spread:
        """Return those of some rows."""
        found = copy(self)
        found._array = self._array[..., part]
        return found

    def of(self, column: int) -> Floats:
        """Return those of a column, by its place in the order, (groups, rows)."""
        return np.asarray(self._array[self._each, self._part[:, column]])
