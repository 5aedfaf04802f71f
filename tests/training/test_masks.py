"""Weights that are zero stay exactly zero, whatever the optimizer; and what only starts at zero is trained."""

from __future__ import annotations

import numpy as np
import pytest
from corpus.trainable import cnn, make, mlp, samples, weights_of

from onnxcompress import apply
from onnxcompress.demo.data import load_split
from onnxcompress.errors import TrainingError
from onnxcompress.passes import Distill, MagnitudePrune, PruneBlocks, PruneChannels, PruneNOfM, PruneSlices, Shrink
from onnxcompress.training import CrossEntropy, Settings, train
from onnxcompress.training.masks import masked_weights


def digits(count: int = 64) -> dict[str, np.ndarray]:
    images, labels = load_split("train")
    return {"image": images[:count], "labels": labels[:count]}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize(
    "prune",
    [
        MagnitudePrune(sparsity=0.8),
        PruneNOfM(n=2, m=4),
        PruneBlocks(sparsity=0.5, block=(2, 2)),
        PruneSlices(sparsity=0.5),
        PruneChannels(sparsity=0.5),
    ],
    ids=lambda prune: prune.name,
)
def test_every_pattern_stays(prune, optimizer: str) -> None:
    pruned, _ = apply(cnn(), [prune])
    distill = Distill(
        epochs=2,
        batch_size=16,
        optimizer=optimizer,
        learning_rate=0.02,
        weight_decay=0.5,
        losses={"cross-entropy": 1.0},
        holdout=0,
    )
    trained, report = apply(pruned, [distill], data=digits())
    before, after = weights_of(pruned), weights_of(trained)
    factors = {name for name in ("w", "fc") if (before[name] == 0).any()}
    assert factors
    for name in factors:
        assert np.array_equal(after[name] == 0, before[name] == 0), name
        assert not np.array_equal(after[name], before[name])
    assert after["fb"].all(), "a bias of zeros is trained"
    assert all("zeros stay" in change.what for change in report.steps[0].done if change.subject in factors)


def test_what_counts_as_a_mask() -> None:
    """Zeros beside others do; nothing but zeros does in a factor and not in an addend."""
    text = """<ir_version: 8, opset_import: ["" : 17]>
    net (float[batch,6] x) => (float[batch,4] logits) {
      s = Mul(x, scale)
      n = LayerNormalization(s, gamma, beta)
      h = Gemm(n, w1, b1)
      i = Add(h, shift)
      r = Relu(i)
      logits = MatMul(r, w2)
    }"""
    random = np.random.default_rng(0)
    drawn = {name: random.standard_normal(s).astype(np.float32) for name, s in {"w1": (6, 8), "w2": (8, 4)}.items()}
    drawn["w1"][::2] = 0
    zeros = {"beta": np.zeros(6, np.float32), "b1": np.zeros(8, np.float32), "shift": np.zeros((1, 8), np.float32)}
    ones = {"gamma": np.ones(6, np.float32), "scale": np.array([1, 1, 1, 1, 1, 0], np.float32)}
    model = make(text, **drawn, **zeros, **ones)
    names = list(model.graph.initializers)
    assert masked_weights(model, names) == ["w1", "scale"]
    drawn["w1"][:] = 0
    assert masked_weights(make(text, **drawn, **zeros, **ones), names) == ["w1", "scale"]

    inputs, labels, _ = samples()
    drawn["w1"][1::2] = 0.1
    model = make(text, **drawn, **zeros, **ones)
    hooks = {"masked": masked_weights(model, names)}
    trained = train(model, inputs, CrossEntropy(labels), settings=Settings(epochs=2), hooks=hooks).weights
    assert not trained["w1"][::2].any() and trained["w1"][1::2].all()
    assert trained["scale"][5] == 0
    assert all(trained[name].any() for name in zeros)


def test_masks_can_be_given_up_and_belong_to_a_checkpoint(tmp_path) -> None:
    inputs, labels, _ = samples()
    model, _ = apply(mlp(), [MagnitudePrune(sparsity=0.5)])
    zero = weights_of(model)["w2"] == 0
    free = train(model, inputs, CrossEntropy(labels), settings=Settings(epochs=2))
    assert free.weights["w2"][zero].all()

    def interrupt(_what: str, done: int, total: int) -> None:
        if total == 8 and done == 4:
            raise KeyboardInterrupt

    how = {"settings": Settings(epochs=4, batch_size=25), "hooks": {"masked": ["w1", "w2"]}}
    whole = train(model, inputs, CrossEntropy(labels), **how).weights
    with pytest.raises(KeyboardInterrupt):
        train(model, inputs, CrossEntropy(labels), **how, checkpoint=tmp_path, progress=interrupt)
    with pytest.raises(TrainingError, match="belongs to another training \\(masks, clusters or pruning differ\\)"):
        train(model, inputs, CrossEntropy(labels), settings=how["settings"], checkpoint=tmp_path)
    resumed = train(model, inputs, CrossEntropy(labels), **how, checkpoint=tmp_path).weights
    for name, array in whole.items():
        np.testing.assert_array_equal(resumed[name], array)
    assert not resumed["w2"][zero].any()


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_channels_that_pruning_zeroed_can_go_after_training(optimizer: str) -> None:
    """Also their biases, and what normalises them, stay without effect."""
    pruned, _ = apply(cnn(), [PruneChannels(sparsity=0.5)])
    distill = Distill(epochs=2, losses={"cross-entropy": 1.0}, optimizer=optimizer, learning_rate=0.02)
    trained, _ = apply(pruned, [distill, Shrink()], data=digits())
    assert weights_of(trained)["w"].shape == (4, 1, 3, 3)
    assert weights_of(trained)["fc"].shape == (64, 10)
