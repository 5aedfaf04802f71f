"""The arithmetic of quantization: bounds on the error for any numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxcompress.passes.quantize.shared import scales

finite = st.floats(-(2.0**100), 2.0**100, width=32)
grids = st.sampled_from([scales.UINT8, scales.INT8])


@given(finite, finite, grids)
def test_affine_covers_the_range_and_stores_zero_exactly(a: float, b: float, grid: scales.Grid) -> None:
    low, high = min(a, b, 0.0), max(a, b, 0.0)
    scale, zero_point = scales.affine(low, high, grid)
    assert scale.dtype == np.float32
    assert np.isfinite(scale)
    assert scale >= scales.SMALLEST
    assert grid.low <= zero_point <= grid.high
    values = np.array([low, high, 0.0, (low + high) / 2])
    integers = scales.encode(values, scale, grid, zero_point=zero_point).astype(np.int64)
    error = np.abs(values - (integers - zero_point) * np.float64(scale))
    assert (error <= np.float64(scale) * 0.5001).all()
    assert error[2] == 0


@given(finite, finite, finite, finite, grids)
def test_within_a_clip_the_grid_stays_between_its_bounds(
    a: float, b: float, c: float, d: float, grid: scales.Grid
) -> None:
    bounds = (-abs(c) - 1e-3, abs(d) + 1e-3)
    scale, zero_point = scales.within(min(a, b), max(a, b), bounds, grid)
    reach = (grid.low - zero_point) * np.float64(scale), (grid.high - zero_point) * np.float64(scale)
    assert bounds[0] <= reach[0]
    assert reach[1] <= bounds[1]


@pytest.mark.parametrize("grid", [scales.UINT8, scales.INT8])
def test_relu6_is_left_to_the_grid(grid: scales.Grid) -> None:
    scale, zero_point = scales.within(0.0, 6.0, (0.0, 6.0), grid)
    assert zero_point == grid.low
    assert np.float32(255) * scale <= np.float32(6)
    assert scale == pytest.approx(6 / 255, rel=1e-6)


@given(
    hnp.arrays(np.float32, hnp.array_shapes(min_dims=1, max_dims=4, max_side=5), elements=finite),
    st.data(),
)
def test_symmetric_weights_are_half_a_step_off_at_most(array: np.ndarray, data: st.DataObject) -> None:
    axis = data.draw(st.none() | st.integers(0, array.ndim - 1))
    scale = scales.symmetric(array, axis)
    integers = scales.encode(array, scale, scales.SYMMETRIC, axis=axis)
    assert integers.dtype == np.int8
    assert np.abs(integers.astype(int)).max() <= 127
    shape = [1] * array.ndim
    if axis is not None:
        shape[axis] = -1
    step = scale.astype(np.float64).reshape(shape)
    assert (np.abs(array - step * integers) <= step * 0.50001).all()


def test_ranges_of_zeros_and_of_next_to_nothing_get_a_normal_scale() -> None:
    assert scales.affine(0, 0, scales.UINT8)[0] == 1
    assert scales.affine(0, 1e-38, scales.UINT8)[0] == scales.SMALLEST
    assert scales.symmetric(np.zeros((2, 3), np.float32), 0).tolist() == [1, 1]
    product = np.float32(scales.SMALLEST) * np.float32(scales.SMALLEST)
    assert product >= np.finfo(np.float32).tiny


@given(
    hnp.arrays(np.float32, 4, elements=st.floats(0, 2.0**20, width=32)),
    hnp.arrays(np.float32, 4, elements=st.floats(-(2.0**20), 2.0**20, width=32)),
    st.floats(2.0**-20, 2.0**20, width=32),
)
def test_biases_fit_into_int32(largest: np.ndarray, bias: np.ndarray, activation: float) -> None:
    array = largest[:, None]
    scale = scales.symmetric(array, 0)
    raised = scales.raise_for_bias(scale, largest == 0, bias, activation)
    assert (raised[largest > 0] >= scale[largest > 0]).all()
    product = raised * np.float32(activation)
    integers = scales.encode_bias(bias, product)
    assert np.abs(integers.astype(np.int64)).max() <= scales.BIAS_LIMIT * 1.001
    assert (np.abs(bias - integers * product.astype(np.float64)) <= product * 0.5001).all()


INTEGERS = [*(grid for grid in scales.GRIDS.values() if grid is not scales.FLOAT8), scales.SYMMETRIC]


def squared(matrix: np.ndarray, scale: np.ndarray, zero: np.ndarray, grid: scales.Grid) -> np.ndarray:
    """The squared error of each row, by `encode` in float64."""
    integers = scales.encode(matrix, scale, grid, zero_point=zero, axis=0).astype(np.float64)
    return np.square(matrix - scale[:, None].astype(np.float64) * (integers - zero[:, None])).sum(1)


@pytest.mark.parametrize("grid", INTEGERS, ids=lambda g: f"{g.dtype}{g.low}")
@pytest.mark.parametrize(("symmetric", "signed"), [(True, False), (False, False), (True, True)])
def test_a_clipped_scale_is_the_best_of_many_and_never_worse_than_the_widest(
    grid: scales.Grid, symmetric: bool, signed: bool
) -> None:
    random = np.random.default_rng(0)
    matrix = random.standard_t(3, (12, 200)).astype(np.float32)
    matrix[0] = 0
    scale, zero = scales.clipped(matrix, 0, grid, symmetric=symmetric, signed=signed)
    assert scale.dtype == np.float32
    assert ((zero >= grid.low) & (zero <= grid.high)).all()
    errors = squared(matrix, scale, zero, grid)
    assert errors[0] == 0
    widest = scales.spanning(matrix, grid, symmetric=symmetric, signed=signed)
    assert (errors <= squared(matrix, *widest, grid) * 1.0001).all()
    if symmetric and 7 <= grid.high - grid.low < 256:
        for factor in np.linspace(-1.2 if signed and grid.is_coarse else 0.2, 1.2, 400):
            if abs(factor) < 0.2:
                continue
            tried = (factor * widest[0]).astype(np.float32)
            assert (errors <= squared(matrix, tried, zero, grid) * 1.15 + 1e-12).all()
    if grid.high - grid.low == 15:
        assert errors.sum() < 0.95 * squared(matrix, *widest, grid).sum()


@pytest.mark.parametrize("grid", [scales.INT4, scales.INT3, scales.INT2], ids=lambda g: f"{g.low}")
def test_a_signed_scale_puts_the_larger_extreme_on_the_lowest_integer(grid: scales.Grid) -> None:
    matrix = np.random.default_rng(0).normal(size=(400, 32)).astype(np.float32)
    scale, zero = scales.spanning(matrix, grid, signed=True)
    extreme = matrix[np.arange(400), np.abs(matrix).argmax(1)]
    np.testing.assert_allclose(scale, extreme / grid.low, rtol=1e-6)
    # One integer more for the side that needs it: the error of max|W| / 7 is 1.06 dB larger.
    plain = (np.abs(matrix).max(1) / grid.high).astype(np.float32)
    gain = squared(matrix, plain, zero, grid).sum() / squared(matrix, scale, zero, grid).sum()
    assert gain > 10**0.1
    positive, _ = scales.spanning(matrix, grid)
    np.testing.assert_allclose(positive, np.maximum(matrix.min(1) / grid.low, matrix.max(1) / grid.high), rtol=1e-6)


def test_a_tensor_has_one_clipped_scale_or_one_for_each_index() -> None:
    array = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    assert scales.clipped(array, None, scales.INT4)[0].shape == (1,)
    scale, zero = scales.clipped(array, 1, scales.UINT4)
    assert zero.tolist() == [8] * 4
    each = [scales.clipped(array[:, i], None, scales.UINT4)[0][0] for i in range(4)]
    assert scale.tolist() == each


@pytest.mark.parametrize("grid", scales.GRIDS.values(), ids=lambda g: g.dtype)
def test_every_grid_holds_its_edges(grid: scales.Grid) -> None:
    edges = scales.encode(np.array([-1e9, 0, 1e9], np.float32), np.ones(1, np.float32), grid, zero_point=grid.middle)
    assert edges.dtype.name == grid.dtype
    assert edges.astype(np.int64).tolist() == [grid.low, grid.middle, grid.high]
