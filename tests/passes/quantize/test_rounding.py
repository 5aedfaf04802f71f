"""Error-compensating rounding, beside nearest rounding and a plain elimination of one column after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxcompress.passes.quantize.shared import gptq as algorithm
from onnxcompress.passes.quantize.shared import scales
from onnxcompress.passes.quantize.shared.quantease import Rounded, quantease

GRIDS = [scales.SYMMETRIC, scales.INT4, scales.UINT4, scales.UINT8]


def correlated(seed: int, rows: int, columns: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights, and data (count, columns) whose columns hang together."""
    random = np.random.default_rng(seed)
    mix = random.normal(size=(columns // 2, columns)) * random.exponential(1, columns)
    data = random.normal(size=(count, columns // 2)) @ mix + 0.1 * random.normal(size=(count, columns))
    return random.normal(size=(rows, columns)), data


def gptq(
    weight: np.ndarray, scale: np.ndarray, grid: scales.Grid, gram: np.ndarray, *, zero_point: Any = 0, **options: Any
) -> np.ndarray:
    """Round one matrix."""
    made = {key: options.pop(key) for key in ("damping", "by_diagonal") if key in options}
    zeros = zero_point if np.ndim(zero_point) == 0 else zero_point[None]
    factor = algorithm.Factor(gram[None], **made)
    return algorithm.gptq(weight[None], np.asarray(scale)[None], grid, factor, zero_point=zeros, **options)[0]


def nearest(weight: np.ndarray, scale: np.ndarray, grid: scales.Grid, zero: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(weight / scale[:, None]) + zero[:, None], grid.low, grid.high)


def one_by_one(
    weight: np.ndarray, scale: np.ndarray, grid: scales.Grid, gram: np.ndarray, zero: np.ndarray
) -> np.ndarray:
    """Optimal brain quantization in a fixed order: the inverse of the Hessian loses a row and column at each step."""
    columns = len(gram)
    inverse = np.linalg.inv(gram + 0.01 * np.diag(gram).mean() * np.eye(columns))
    left, found = weight.astype(np.float64).copy(), np.zeros(weight.shape)
    for i in range(columns):
        found[:, i] = np.clip(np.rint(left[:, i] / scale) + zero, grid.low, grid.high)
        error = left[:, i] - scale * (found[:, i] - zero)
        left -= np.outer(error / inverse[i, i], inverse[i])
        inverse = inverse - np.outer(inverse[:, i], inverse[i]) / inverse[i, i]
    return found


@pytest.mark.parametrize("grid", GRIDS, ids=lambda g: f"{g.low}-{g.high}")
@pytest.mark.parametrize("seed", range(3))
def test_products_are_nearer_than_with_nearest_rounding(grid: scales.Grid, seed: int) -> None:
    weight, data = correlated(seed, 24, 40, 300)
    scale, zero = scales.spanning(weight, grid, symmetric=grid.low < 0)
    found = gptq(weight, scale, grid, data.T @ data, zero_point=zero)
    assert found.min() >= grid.low
    assert found.max() <= grid.high
    step = scale.astype(np.float64)
    errors = [
        np.square((weight - step[:, None] * (q - zero[:, None])) @ data.T).sum()
        for q in (found, nearest(weight, step, grid, zero))
    ]
    assert errors[0] < 0.5 * errors[1]


@pytest.mark.parametrize("grid", GRIDS, ids=lambda g: f"{g.low}-{g.high}")
@pytest.mark.parametrize("block", [1, 7, 128])
def test_blocks_change_nothing(grid: scales.Grid, block: int) -> None:
    weight, data = correlated(3, 16, 30, 200)
    gram = data.T @ data
    scale, zero = scales.spanning(weight, grid, symmetric=grid.low < 0)
    found = gptq(weight, scale, grid, gram, zero_point=zero, block=block, by_diagonal=False)
    assert (found == one_by_one(weight, scale.astype(np.float64), grid, gram, zero)).all()


def test_large_columns_first_leaves_less_error() -> None:
    weight, data = correlated(0, 64, 128, 1024)
    scale = scales.symmetric(weight, 0)
    errors = []
    for by_diagonal in (False, True):
        found = gptq(weight, scale, scales.SYMMETRIC, data.T @ data, by_diagonal=by_diagonal)
        errors.append(np.square((weight - scale[:, None].astype(np.float64) * found) @ data.T).sum())
    assert errors[1] < 0.5 * errors[0]


def test_the_order_of_the_diagonal_is_an_order_of_columns() -> None:
    weight, data = correlated(4, 16, 30, 200)
    gram = data.T @ data
    scale = scales.symmetric(weight, 0)
    order = np.argsort(-np.diag(gram))
    plain = gptq(weight[:, order], scale, scales.SYMMETRIC, gram[np.ix_(order, order)], by_diagonal=False)
    assert (gptq(weight, scale, scales.SYMMETRIC, gram)[:, order] == plain).all()


def test_independent_columns_are_rounded_to_nearest() -> None:
    random = np.random.default_rng(0)
    weight, scale = random.normal(size=(8, 20)), np.full(8, 0.05, np.float32)
    diagonal = random.uniform(0, 3, 20) * (np.arange(20) % 3 > 0)  # some columns have seen nothing
    zero = np.zeros(8)
    for gram in (np.diag(diagonal), np.zeros((20, 20))):
        found = gptq(weight, scale, scales.INT8, gram)
        assert (found == nearest(weight, scale.astype(np.float64), scales.INT8, zero)).all()


def test_a_singular_gram_is_damped_until_it_can_be_factored() -> None:
    weight, scale = np.random.default_rng(0).normal(size=(4, 6)), np.full(4, 0.02, np.float32)
    x = np.random.default_rng(1).normal(size=6)
    found = gptq(weight, scale, scales.INT8, np.outer(x, x), damping=0)
    off = np.abs((weight - scale[:, None].astype(np.float64) * found) @ x)
    rounded = np.abs((weight - scale[:, None].astype(np.float64) * np.rint(weight / scale[:, None])) @ x)
    assert off.sum() < rounded.sum()


def test_zeros_stay_zeros_or_help() -> None:
    weight, data = correlated(5, 16, 30, 200)
    weight[np.random.default_rng(0).random(weight.shape) < 0.5] = 0
    for grid in GRIDS:
        scale, zero = scales.spanning(weight, grid, symmetric=False)
        kept = gptq(weight, scale, grid, data.T @ data, zero_point=zero)
        assert not (kept - zero[:, None])[weight == 0].any()
        free = gptq(weight, scale, grid, data.T @ data, zero_point=zero, keep_zeros=False)
        assert (free - zero[:, None])[weight == 0].any()


def test_groups_of_columns_have_scales_of_their_own() -> None:
    weight, data = correlated(6, 8, 32, 200)
    gram = data.T @ data
    scale = np.random.default_rng(0).uniform(0.2, 0.4, (8, 4))
    zero = np.random.default_rng(1).integers(6, 10, (8, 4))
    found = gptq(weight, scale, scales.UINT4, gram, zero_point=zero)
    each = gptq(weight, np.repeat(scale, 8, 1), scales.UINT4, gram, zero_point=np.repeat(zero, 8, 1))
    assert (found == each).all()
    one = gptq(weight, scale[:, 0], scales.UINT4, gram, zero_point=zero[:, 0])
    assert (one == gptq(weight, scale[:, :1], scales.UINT4, gram, zero_point=zero[:, :1])).all()
    with pytest.raises(ValueError, match="8 rows and 32 columns"):
        gptq(weight, scale[:, :3], scales.UINT4, gram)
    with pytest.raises(ValueError, match="Gram"):
        gptq(weight, scale, scales.UINT4, gram[:5, :5])


def test_what_is_left_of_something_constant_makes_up_for_nothing() -> None:
    """Centred moments of a constant are rounding noise: not positive, with larger ones beside the diagonal."""
    gram = np.array([[0, 1e-9, 1e-9], [1e-9, -1e-12, 1e-9], [1e-9, 1e-9, 1e-14]])
    weight = np.random.default_rng(0).standard_normal((5, 3))
    steps = np.full(5, 0.02)
    found = gptq(weight, steps, scales.SYMMETRIC, gram)
    assert np.abs(found - weight / 0.02).max() <= 0.5


@pytest.mark.parametrize("grid", [scales.INT4, scales.UINT4, scales.INT2], ids=lambda g: f"{g.low}-{g.high}")
@pytest.mark.parametrize("fitted", [True, False])
def test_no_single_integer_can_be_bettered_behind_descent(grid: scales.Grid, fitted: bool) -> None:
    weight, data = correlated(0, 12, 32, 300)
    weight[0, :5] = 0
    gram = data.T @ data
    scale, zero = scales.clipped(weight.reshape(-1, 16), 0, grid, symmetric=grid.low < 0)
    scale, zero = scale.reshape(12, 2), zero.reshape(12, 2)
    part = np.arange(32) // 16
    factor = algorithm.Factor(gram[None])
    first = algorithm.gptq(weight[None], scale[None], grid, factor, zero_point=zero[None])
    found = quantease(
        weight[None], Rounded(first, scale[None]), grid, gram[None], zero_point=zero[None], part=part,
        fit=(lambda scale, before, at: np.where(scale > 0, scale, before)) if fitted else None,
    )  # fmt: skip
    integers, steps = found.integers[0], found.scale[0][:, part].astype(np.float64)
    assert (found.scale[0] == scale).all() != fitted
    assert integers.min() >= grid.low
    assert integers.max() <= grid.high
    assert (integers[0, :5] == zero[:, part][0, :5]).all()
    damped = gram + 0.01 * np.diag(gram).mean() * np.eye(32)

    def error(q: np.ndarray, by: np.ndarray) -> np.ndarray:
        lost = weight - by * (q - zero[:, part])
        return np.asarray(np.einsum("rk,kl,rl->r", lost, damped, lost))

    least = error(integers, steps)
    assert least.sum() < error(first[0], scale[:, part].astype(np.float64)).sum()
    worse = 0
    for column in range(5, 32):
        for change in (-1, 1):
            moved = integers.copy()
            moved[:, column] = np.clip(moved[:, column] + change, grid.low, grid.high)
            worse += int((error(moved, steps) < least * 0.9999).sum())
    assert worse <= 12  # a few columns of 12 rows: it ends after some rounds, not where all stands still
