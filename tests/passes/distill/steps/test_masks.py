"""Which zeros of integers are a mask, and which rounding made."""

from __future__ import annotations

import numpy as np
import pytest

from onnxcompress.passes.distill.steps.masks import is_masked


def rounded(weights: np.ndarray, most: int) -> np.ndarray:
    return np.clip(np.rint(weights / np.abs(weights).max() * most), -most, most)


@pytest.mark.parametrize("most", [7, 127])
@pytest.mark.parametrize("draw", ["normal", "laplace", "uniform"])
@pytest.mark.parametrize("size", [(16, 16, 3, 3), (64, 256)])
@pytest.mark.parametrize("seed", range(5))
def test_rounding_alone_is_no_mask_and_half_of_them_pruned_is(
    most: int, draw: str, size: tuple[int, ...], seed: int
) -> None:
    random = np.random.default_rng(seed)
    weights = getattr(random, draw)(size=size)
    alone = rounded(weights, most)
    assert is_masked(alone) == ((alone == 0).mean() >= 0.5)
    assert is_masked(rounded(np.where(np.abs(weights) < np.median(np.abs(weights)), 0, weights), most))
    assert is_masked(rounded(np.where(random.random(size) < 0.5, 0, weights), most))


def test_a_channel_of_zeros_is_a_mask() -> None:
    weights = np.random.default_rng(0).normal(size=(64, 64))
    weights[3] = 0
    assert is_masked(rounded(weights, 7))
