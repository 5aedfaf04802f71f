"""Second moments in single precision, beside numpy's in double."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from onnxcompress.errors import DataError
from onnxcompress.passes.quantize.correct.regression import Collector, Regression
from onnxcompress.passes.quantize.shared.gptq import Factor

EACH, SAMPLES = 10, 600
ROWS = EACH * SAMPLES
OUT = np.arange(SAMPLES) % 4 == 3
JUDGING = np.array([0, 3, 6])
HELD = np.repeat(OUT, EACH)
JUDGED = HELD & np.tile(np.isin(np.arange(EACH), JUDGING), SAMPLES)


def drawn(groups: int, columns: int, outputs: int, mean: float) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    x = random.standard_normal((groups, ROWS, columns)) + mean * random.uniform(-1, 1, (groups, 1, columns))
    y = x @ random.standard_normal((groups, columns, outputs)) + random.standard_normal((groups, ROWS, outputs))
    return x.astype(np.float32), y.astype(np.float32)


def collected(x: np.ndarray, y: np.ndarray, cuts: list[int], bias: np.ndarray | None = None) -> Collector:
    rows = Collector("x", bias)
    for first, last in itertools.pairwise(cuts):
        part = slice(first * EACH, last * EACH)
        rows.add(x[:, part], y[:, part], OUT[first:last], JUDGING)
    return rows


@pytest.mark.parametrize("mean", [0, 1, 1000])
@pytest.mark.parametrize("groups", [1, 3])
def test_moments_are_those_around_the_means_of_the_rows_that_are_fitted(groups: int, mean: float) -> None:
    x, y = drawn(groups, 20, 6, mean)
    found = collected(x, y, [0, 4, 300, SAMPLES]).regression()
    for g in range(groups):
        a, b = (array[g, ~HELD].astype(np.float64) for array in (x, y))
        expected = np.cov(a.T, b.T, bias=True)
        size = np.abs(expected).max()
        np.testing.assert_allclose(found.own[g], expected[:20, :20], atol=1e-5 * size)
        np.testing.assert_allclose(found.cross[g], expected[20:, :20], atol=1e-5 * size)
        assert found.held is not None
        np.testing.assert_allclose(found.held[0][g], x[g, JUDGED] - a.mean(0), atol=1e-6 * max(mean, 1))


def test_moments_with_a_given_bias_are_around_nothing_else() -> None:
    x, y = drawn(1, 20, 6, 3)
    bias = np.arange(6.0)[None]
    found = collected(x, y, [0, SAMPLES], bias).regression()
    a, b = x[0, ~HELD].astype(np.float64), y[0, ~HELD] - bias[0]
    np.testing.assert_allclose(found.own[0], a.T @ a / len(a), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.cross[0], b.T @ a / len(a), rtol=1e-4, atol=1e-3)
    weights = np.random.default_rng(1).standard_normal((1, 6, 20))
    left = y[0, JUDGED] - bias[0] - x[0, JUDGED] @ weights[0].T
    assert found.error(weights) == pytest.approx(np.square(left).sum(), rel=1e-4)


def test_nothing_depends_on_how_rows_are_handed_over() -> None:
    x, y = drawn(1, 20, 6, 1)
    results: list[tuple[np.ndarray, ...]] = []
    for cuts in ([0, SAMPLES], [0, 1, 3, 400, 444, SAMPLES]):
        rows = collected(x, y, cuts)
        means, found = rows.means(), rows.regression()
        np.testing.assert_allclose(means[0], x.mean(1, dtype=np.float64), atol=1e-6)
        results.append(means)
        assert isinstance(found, Regression)
        assert found.held is not None
        results[-1] += (found.own, found.cross, *found.held)
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_what_has_no_squares_is_an_error_that_names_the_tensor(value: float) -> None:
    x, y = drawn(1, 20, 6, 1)
    x[0, 2000, 7] = value
    with pytest.raises(DataError, match="tensor 'x'"):
        collected(x, y, [0, SAMPLES]).regression()


@pytest.mark.parametrize("groups", [1, 3])
def test_a_factor_divides_by_the_damped_matrix(groups: int) -> None:
    x, y = drawn(groups, 20, 6, 1)
    x[:, :, 4] = 0
    found = collected(x, y, [0, SAMPLES]).regression()
    quotient = Factor(found.own, 0.1).divide(found.cross)
    for g in range(groups):
        own = found.own[g].astype(np.float64)
        mean = np.trace(own) / 19
        own += np.diag(np.where(np.diag(own) > 0, 0.1 * mean, mean))
        np.testing.assert_allclose(quotient[g], np.linalg.solve(own, found.cross[g].T).T, rtol=1e-3, atol=1e-4)
