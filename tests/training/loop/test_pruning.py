"""Zeros that grow step by step; numpy alone."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from onnxcompress.training.loop.pruning import Pruning

DEFAULTS = {"pattern": "weights", "initial": 0.0, "final": 0.75, "power": 3.0, "begin": 0.0, "end": 0.5}
DEFAULTS |= {"frequency": 10, "rows": 4, "columns": 1, "n": 2, "m": 4}
SHAPES = [[8, 16, 3], [10, 12], [12]]
NAMES = ["kernel", "matrix", "bias"]
TWO = {"kernel": [0, 1], "matrix": [1, 0]}


def run(told: dict[str, Any], steps: int = 200) -> list[list[np.ndarray]]:
    """Return the weights behind each step of a random walk."""
    random = np.random.default_rng(4)
    flat = random.normal(size=8 * 16 * 3 + 120 + 12).astype(np.float32)
    state = SimpleNamespace(flat=flat, hooks={})
    job = {"weights": NAMES, "shapes": SHAPES, "total": steps, "prune": DEFAULTS | {"weights": TWO} | told}
    hook, found = Pruning(job, Path(), state), []
    for step in range(steps):
        gradient = random.normal(size=len(flat)).astype(np.float32)
        hook.before(state, gradient, step)
        assert not gradient[flat == 0].any() or step == 0
        flat -= 0.01 * random.normal(size=len(flat)).astype(np.float32)  # as moments do where there is no gradient
        hook.after(state, step)
        parts = np.split(flat.copy(), [384, 504])
        found.append([part.reshape(shape) for part, shape in zip(parts, SHAPES, strict=True)])
    return found


def sparsity(weight: np.ndarray) -> float:
    return float((weight == 0).mean())


def test_the_share_grows_as_zhu_and_gupta_have_it() -> None:
    found = run({"initial": 0.25, "begin": 20.0, "end": 120.0})
    expected = 0.0
    for step, (kernel, matrix, bias) in enumerate(found):
        if 20 <= step < 120 and (step - 20) % 10 == 0:
            expected = 0.75 + (0.25 - 0.75) * (1 - (step - 20) / 100) ** 3
        if step == 120:
            expected = 0.75
        assert np.count_nonzero(kernel == 0) == round(expected * 384)
        assert np.count_nonzero(matrix == 0) == round(expected * 120)
        assert bias.all()


def test_what_is_pruned_first_has_the_smallest_magnitudes_and_stays_pruned() -> None:
    found = run({"initial": 0.5, "final": 0.5, "frequency": 1000, "end": 0.9})
    zero = found[0][0] == 0
    assert (zero == (found[-1][0] == 0)).all()
    assert sparsity(found[0][0]) == 0.5
    unpruned = run({"initial": 0.0, "final": 0.0})[0][0]
    assert np.abs(unpruned[zero]).max() < np.abs(unpruned[~zero]).min()


@pytest.mark.parametrize("final", [0.75, 0.3])
def test_blocks_go_as_a_whole(final: float) -> None:
    kernel, matrix, _ = run({"pattern": "blocks", "rows": 4, "columns": 2, "final": final})[-1]
    blocks = (kernel.reshape(2, 4, 24, 2) == 0).transpose(0, 2, 1, 3).reshape(48, 8)
    assert (blocks.all(1) == blocks.any(1)).all()
    assert blocks.all(1).sum() == round(final * 48)
    transposed = matrix.T == 0
    for row in range(0, 12, 4):
        for column in range(0, 10, 2):
            block = transposed[row : row + 4, column : column + 2]
            assert block.all() == block.any()


def test_of_m_along_the_inputs_n_stay() -> None:
    found = run({"pattern": "n_of_m", "final": 0.5})
    kernel, matrix, _ = found[-1]
    assert ((kernel.reshape(8, 4, 4, 3) != 0).sum(2) == 2).all()
    rows = matrix.T != 0
    assert (rows[:, :4].sum(1) == 2).all()
    assert (rows[:, 4:8].sum(1) == 2).all()
    assert (rows[:, 8:].sum(1) == 2).all()  # of two all stay
    half = found[30][0].reshape(8, 4, 4, 3) != 0
    assert set(np.unique(half.sum(2))) == {2, 4}


def test_channels_go_with_all_that_makes_them() -> None:
    labels = {"kernel": (0, list(range(8))), "matrix": (1, [*range(8, 20)]), "bias": (0, [*range(8), -1, -1, -1, -1])}
    told = {"pattern": "channels", "weights": labels, "filters": ["kernel", "matrix"], "groups": [[0, 8], [8, 20]]}
    kernel, matrix, bias = run(told | {"final": 0.5})[-1]
    gone = ~kernel.any((1, 2))
    assert gone.sum() == 4
    assert ((kernel == 0).any((1, 2)) == gone).all()
    assert ((bias[:8] == 0) == gone).all()
    assert bias[8:].all()
    assert (~matrix.any(0)).sum() == 6
    assert kernel.any((1, 2)).sum() == 4


def test_one_stays_of_few() -> None:
    labels = {"bias": (0, [0] * 12), "matrix": (1, [1, 2] + [-1] * 10)}
    told = {"pattern": "channels", "weights": labels, "filters": ["matrix"], "groups": [[1, 3]], "final": 0.9}
    matrix = run(told)[-1][1]
    assert (~matrix.any(0)).sum() == 1


def test_it_is_settled_behind_the_last_step_that_prunes() -> None:
    state = SimpleNamespace(flat=np.zeros(516, np.float32), hooks={})
    job = {"weights": NAMES, "shapes": SHAPES, "total": 100, "prune": DEFAULTS | {"weights": TWO}}
    hook = Pruning(job, Path(), state)
    assert not hook.settled(50)
    assert hook.settled(51)
