"""The values that weights share, at each step; numpy alone."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from onnxcompress.training.loop.clusters import Clusters
from onnxcompress.training.loop.optimizer import decays, update

SHAPES = [[2, 3], [3, 4], [5]]


def state_of(flat: np.ndarray) -> SimpleNamespace:
    return SimpleNamespace(flat=flat, first=np.zeros_like(flat), second=np.zeros_like(flat))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_shared_values_move_as_one_by_the_sum_of_their_gradients(optimizer: str, tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    start = random.normal(size=23).astype(np.float32)
    shared = np.array([0.5, 0.5, -1, 0, 0, -1, 0.5, 2, 2, 0, -1, 0.5], np.float32)
    start[6:18] = shared
    np.savez(tmp_path / "start.npz", flat=start)
    job = {"weights": ["a", "b", "c"], "shapes": SHAPES, "clusters": ["b"]}
    state = state_of(start.copy())
    hook = Clusters(job, tmp_path, state)
    values = np.array([-1, 0, 0.5, 2], np.float32)
    alone = state_of(values.copy())
    for step in range(5):
        gradient = random.normal(size=23).astype(np.float32)
        sums = np.array([gradient[6:18][shared == value].sum() for value in values])
        sums[1] = 0
        plain = gradient.copy()
        hook.before(state, gradient, step)
        np.testing.assert_array_equal(gradient[:6], plain[:6])
        np.testing.assert_array_equal(gradient[18:], plain[18:])
        update(optimizer, state, gradient, 0.1, decays(SHAPES, 0.01), step + 1)
        hook.after(state, step)
        update(optimizer, alone, sums.astype(np.float32), 0.1, decays([[2, 2]], 0.01), step + 1)
    moved = state.flat[6:18]
    for value, expected in zip(values, alone.flat, strict=True):
        assert len(np.unique(moved[shared == value])) == 1
        np.testing.assert_allclose(moved[shared == value], expected, rtol=1e-4)
    assert (moved[shared == 0] == 0).all()
    assert len(np.unique(state.flat[:6])) == 6
