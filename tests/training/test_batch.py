"""Models that take a fixed number of samples are freed of it where they can be, and trained with it where not."""

from __future__ import annotations

import numpy as np
import pytest
from corpus.trainable import make

from onnxcompress.training import CrossEntropy, Settings, train
from onnxcompress.training.batch import free_batch

FIXED = """<ir_version: 8, opset_import: ["" : 17]>
net (float[2,4,6] x) => (float[2,3] logits) {
  h = MatMul(x, w1)
  c = Expand(cls, shape)
  t = Concat<axis = 1>(c, h)
  r = Relu(t)
  m = ReduceMean<axes = [1], keepdims = 0>(r)
  logits = MatMul(m, w2)
}"""
FREE = FIXED.replace("[2,", "[batch,").replace(
    "c = Expand(cls, shape)",
    "s = Shape<end = 1>(x)\n rest = Constant<value = int64[2] {1, 8}>()\n"
    " d = Concat<axis = 0>(s, rest)\n c = Expand(cls, d)",
)
MIXING = """<ir_version: 8, opset_import: ["" : 17]>
net (float[2,6] x) => (float[2,3] logits) {
  mean = ReduceMean<axes = [0], keepdims = 1>(x)
  c = Sub(x, mean)
  logits = MatMul(c, w2)
}"""


def values(seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    shapes = {"w1": (6, 8), "cls": (1, 1, 8), "w2": (8, 3)}
    return {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def test_a_class_token_that_was_expanded_keeps_the_batch_and_trains_like_a_free_one() -> None:
    fixed, free = make(FIXED, **values(), shape=np.array([2, 1, 8])), make(FREE, **values())
    assert free_batch(fixed.clone()) == 2 and free_batch(free.clone()) is None
    random = np.random.default_rng(1)
    x, labels = random.standard_normal((40, 4, 6)).astype(np.float32), random.integers(0, 3, 40)
    settings = Settings(epochs=3, batch_size=8)
    one, other = (train(m, {"x": x}, CrossEntropy(labels), settings=settings) for m in (fixed, free))
    assert one.losses == pytest.approx(other.losses, rel=1e-4)
    for name, array in other.weights.items():
        np.testing.assert_allclose(one.weights[name], array, rtol=1e-3, atol=1e-5)


def test_samples_that_do_not_fill_a_batch_are_held_and_trained_all_the_same() -> None:
    fixed = make(FIXED, **values(), shape=np.array([2, 1, 8]))
    random = np.random.default_rng(1)
    x, labels = random.standard_normal((21, 4, 6)).astype(np.float32), random.integers(0, 3, 21)
    trained = train(fixed, {"x": x}, CrossEntropy(labels), settings=Settings(epochs=2, batch_size=1, holdout=0.2))
    assert (trained.trained, trained.held, trained.settings.batch_size) == (14, 7, 2)
    assert len(trained.curve) == 3


def test_a_model_whose_samples_see_each_other_is_not_freed() -> None:
    model = make(MIXING, w2=np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32))
    assert free_batch(model) == 2
    assert list(model.graph.inputs[0].shape) == [2, 6]
