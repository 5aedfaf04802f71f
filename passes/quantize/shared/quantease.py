"""Rounding that goes on where `gptq` ends: integers one column after the other, and scales, until little is gained."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from .scales import Grid

Floats = npt.NDArray[np.floating]
Values = npt.NDArray[Any]

ROUNDS = 4
"""How often scales are fitted and integers chosen anew: after that, the error falls by less than 1 %."""

DAMPING = 0.01
"""What is added to the diagonal, relative to its mean."""

TOGETHER = 1024
"""So many rows are rounded together."""

BLOCK = 64
"""Columns that are finished before the next ones hear of those before; changes the speed only."""


class Fit(Protocol):
    """Returns such scales (rows, parts) as can be stored."""

    def __call__(self, scale: Floats, before: Floats, at: tuple[int, slice]) -> Floats:
        """Take those that are best, those before, and which group and rows they belong to."""


class Rounded(NamedTuple):
    """Integers (groups, rows, columns), and scales (groups, rows, parts)."""

    integers: npt.NDArray[np.int32]
    scale: Floats


def quantease(
    weight: Floats,
    start: Rounded,
    grid: Grid,
    gram: Floats,
    *,
    zero_point: Values,
    part: npt.NDArray[np.intp],
    fit: Fit | None,
) -> Rounded:
    """Lessen the squared error of products with the data, from integers that are good already.

    Each integer in turn is set to what is best beside all others as they are (Behdin et al. 2023, arXiv:2309.01885,
    algorithm 1); then all scales of an output are set to what is best for its integers, by least squares.

    Parameters
    ----------
    weight : (groups, rows, columns) float array
    start : Rounded
        What to begin with.
    grid : Grid
    gram : (groups, columns, columns) array
        ``Σ x xᵀ`` over the samples.
    zero_point : (groups, rows, parts) array
    part : (columns,) int array
        Which of a row's scales each column has.
    fit : callable, optional
        Takes scales (rows, parts), those before and which they are, and returns such as can be stored; without it, they
        stay.

    Notes
    -----
    A weight of 0 stays 0.
    """
    order = np.argsort(part, kind="stable")
    integers, scale = start.integers[..., order].astype(np.int32), start.scale.astype(np.float32)
    firsts = np.searchsorted(part[order], np.arange(scale.shape[-1]))
    for group, matrix in enumerate(weight):
        damped = gram[group].astype(np.float32)[np.ix_(order, order)]
        diagonal = np.einsum("kk->k", damped)
        diagonal += max(float(diagonal.mean()) * DAMPING, float(np.finfo(np.float32).tiny))
        for first in range(0, len(matrix), TOGETHER):
            rows = slice(first, first + TOGETHER)
            descent = _Descent(matrix[rows][:, order], damped, grid, zero_point[group, rows], part[order], firsts)
            fitted = None if fit is None else partial(fit, at=(group, rows))
            found = descent.run(integers[group, rows], scale[group, rows], fitted)
            integers[group, rows], scale[group, rows] = found
    back = np.empty_like(integers)
    back[..., order] = integers
    return Rounded(back, scale)


class _Descent:
    """Rounds some rows; their columns stand part after part."""

    def __init__(
        self, weight: Floats, gram: Floats, grid: Grid, zero_point: Values, part: Values, firsts: Values
    ) -> None:
        self._weight, self._gram, self._grid = weight.astype(np.float32), gram, grid
        self._zero, self._part, self._firsts = zero_point[:, part].astype(np.float32), part, firsts

    def run(
        self, integers: Values, scale: Floats, fit: Callable[[Floats, Floats], Floats] | None
    ) -> tuple[Values, Floats]:
        """Return better integers, and scales."""
        steps = integers - self._zero
        for _ in range(ROUNDS):
            tried = scale if fit is None else fit(self._fitted(steps), scale)
            # Fitted scales are rounded to such as can be stored, which may undo what they gain.
            keep = self._errors(steps, tried) <= self._errors(steps, scale)
            scale = np.where(keep[:, None], tried, scale)
            steps = self._column_by_column(steps, scale)
        return np.rint(steps + self._zero).astype(np.int32), scale

    def _lost(self, steps: Floats, scale: Floats) -> Floats:
        return np.asarray(self._weight - scale[:, self._part] * steps)

    def _errors(self, steps: Floats, scale: Floats) -> Floats:
        lost = self._lost(steps, scale)
        return np.asarray(np.einsum("rk,rk->r", lost @ self._gram, lost))

    def _column_by_column(self, steps: Floats, scale: Floats) -> Floats:
        """Set each integer to what is best beside all others."""
        gram, diagonal = self._gram, np.diagonal(self._gram)
        # Columns as rows from here on: a column is touched as a whole.
        found, size, zero = (np.ascontiguousarray(a.T) for a in (steps, scale[:, self._part], self._zero))
        pull = gram @ np.ascontiguousarray(self._lost(steps, scale).T)
        stays = self._weight.T == 0
        for first in range(0, len(found), BLOCK):
            columns = range(first, min(first + BLOCK, len(found)))
            near, moved = pull[first : columns.stop].copy(), np.empty((len(columns), found.shape[1]), np.float32)
            for i, column in enumerate(columns):
                best = np.rint(found[column] + near[i] / (diagonal[column] * size[column]))
                np.clip(best, self._grid.low - zero[column], self._grid.high - zero[column], out=best)
                best[stays[column]] = 0
                np.multiply(best - found[column], size[column], out=moved[i])
                found[column] = best
                near -= gram[first : columns.stop, column, None] * moved[i]
            pull -= gram[:, first : columns.stop] @ moved
        return np.asarray(found.T)

    def _fitted(self, steps: Floats) -> Floats:
        """Return the scales of each row that are best for its integers: ``Σ_b A_ab s_b = c_a``."""
        firsts, gram = self._firsts, self._gram
        wanted = np.add.reduceat((self._weight @ gram) * steps, firsts, axis=1)
        products = np.empty((*wanted.shape, len(firsts)), np.float32)
        stops = [*firsts[1:], steps.shape[1]]
        for number, (first, stop) in enumerate(zip(firsts, stops, strict=True)):
            pulled = steps[:, first:stop] @ gram[first:stop]
            products[:, number] = np.add.reduceat(pulled * steps, firsts, axis=1)
        diagonal = np.einsum("rkk->rk", products)
        diagonal += 1e-5 * diagonal.max(1, keepdims=True) + np.float32(1e-30)
        return np.asarray(np.linalg.solve(products, wanted[..., None])[..., 0])
