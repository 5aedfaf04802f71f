"""Steps of the optimizers, against their formulas in numpy on whole vectors."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from onnxcompress.training.loop import optimizer
from onnxcompress.training.loop.optimizer import decays, update

SHAPES = [[3, 4], [5], [2, 1, 3], [7], [], [4, 4]]
SIZE, RATE, DECAY = 12 + 5 + 6 + 7 + 1 + 16, 0.1, 0.05
DECAYED = np.repeat([1.0, 0, 1, 0, 0, 1], [12, 5, 6, 7, 1, 16]) * DECAY


def reference(name: str, flat: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    first = second = np.zeros(SIZE)
    for step, gradient in enumerate(gradients, 1):
        if name == "sgd":
            first = 0.9 * first + gradient + DECAYED * flat
            flat = flat - RATE * first
            continue
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        mean, square = first / (1 - 0.9**step), second / (1 - 0.999**step)
        flat = flat * (1 - RATE * DECAYED) - RATE * mean / (np.sqrt(square) + 1e-8)
    return flat


@pytest.mark.parametrize("piece", [1, 4, 1 << 17])
@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_pieces_take_the_step_of_the_whole(monkeypatch: pytest.MonkeyPatch, name: str, piece: int) -> None:
    monkeypatch.setattr(optimizer, "PIECE", piece)
    random = np.random.default_rng(0)
    start, gradients = random.standard_normal(SIZE), random.standard_normal((5, SIZE))
    vectors = {"flat": start.astype(np.float32), "first": np.zeros(SIZE, np.float32)}
    state = SimpleNamespace(**vectors, second=np.zeros(SIZE, np.float32))
    pieces = decays(SHAPES, DECAY)
    assert sum(where.stop - where.start for where, _ in pieces) == SIZE
    for step, gradient in enumerate(gradients, 1):
        update(name, state, gradient.astype(np.float32), RATE, pieces, step)
    np.testing.assert_allclose(state.flat, reference(name, start, gradients), rtol=1e-5, atol=1e-6)
