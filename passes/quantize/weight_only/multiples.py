"""Scales of blocks that are whole multiples of one for each output. Arrays only, no graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..shared.scales import CHUNK, Grid, squared_errors

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]

TRIES = (1.0, 0.8, 0.9, 1.1, 1.2)
"""What the unit of an output may be, relative to the least with which no block saturates: best of all that costs .05 dB
less than the first alone."""


def most(zero_point: Array, grid: Grid, largest: int) -> npt.NDArray[np.int64]:
    """Return the largest multiples ``m`` with ``|m · (q − zero_point)| ≤ largest`` for all of a grid."""
    zero = zero_point.astype(np.int64)
    return np.asarray(largest // np.maximum(zero - grid.low, grid.high - zero))


def multiples(
    blocks: Floats, scale: Floats, zero_point: Array, grid: Grid, largest: int, *, up: bool
) -> tuple[Floats, Floats]:
    """Return scales that are whole multiples of a unit for each output, near to those given, and the units.

    Parameters
    ----------
    blocks : (outputs, blocks, block) array
        The weights.
    scale, zero_point : (outputs, blocks) array
    grid : Grid
    largest : int
        No ``m · (q − zero_point)``, with m the multiple, is larger.
    up : bool
        No scale gets smaller, so that nothing saturates; otherwise the squared error decides.
    """
    limit, size = most(zero_point, grid, largest), np.abs(scale.astype(np.float64))
    size = np.where(blocks.any(-1), size, 0)  # blocks of zeros would have the say
    unit = (size / limit).max(1)
    unit = np.where(unit > 0, unit, 1.0).astype(np.float32)
    if up:
        unit = np.nextafter(unit, np.float32(np.inf))
        return _scales(np.ceil(size / unit[:, None]), limit, unit, scale), unit
    found, units = np.empty_like(scale), np.empty_like(unit)
    step = max(CHUNK // max(blocks[0].size, 1), 1)
    for start in range(0, len(blocks), step):
        part = slice(start, start + step)
        given = blocks[part], size[part], limit[part], unit[part], scale[part], zero_point[part]
        found[part], units[part] = _least(*given, grid)
    return found, units


def _least(
    blocks: Floats, size: Array, limit: Array, unit: Floats, sign: Floats, zero_point: Array, grid: Grid
) -> tuple[Floats, Floats]:
    """Return the scales with the least squared error, and the units."""
    least = np.full(len(blocks), np.inf)
    found, units = sign.copy(), unit.copy()
    matrix, zeros = blocks.reshape(-1, blocks.shape[-1]), zero_point.ravel()
    for factor in TRIES:
        tried = unit * np.float32(factor)
        below, above = (_scales(each(size / tried[:, None]), limit, tried, sign) for each in (np.floor, np.ceil))
        errors, others = (squared_errors(matrix, s.ravel(), zeros, grid).reshape(s.shape) for s in (below, above))
        best, total = np.where(others < errors, above, below), np.minimum(errors, others).sum(1)
        better = total < least
        found[better], units[better], least[better] = best[better], tried[better], total[better]
    return found, units


def _scales(multiple: Array, limit: Array, unit: Floats, sign: Floats) -> Floats:
    return np.asarray(np.copysign(np.clip(multiple, 1, limit).astype(np.float32) * unit[:, None], sign))
