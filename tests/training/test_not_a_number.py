"""Whatever goes wrong in training ends in one line, and nothing that is no number is kept."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
from corpus.trainable import MLP, mlp, samples

from onnxcompress import apply
from onnxcompress.errors import TrainingError
from onnxcompress.passes import Distill, PruneChannels
from onnxcompress.training import CrossEntropy, Settings, measure_saliency, process, train
from onnxcompress.training.checkpoint import read_checkpoint
from onnxcompress.training.loop.state import CHECKPOINT

# At h = 0 the loss is a number, and its gradient 0 times infinity.
EDGE = MLP.replace("r = Relu(h)", "s = Mul(h, h)\n n = Neg(s)\n e = Exp(n)\n r = Asin(e)").replace(
    "Gemm(x, w1, b1)", "MatMul(x, w1)"
)


def on_the_edge(count: int = 50) -> tuple[dict[str, np.ndarray], np.ndarray]:
    inputs, labels, _ = samples(count)
    inputs["x"][3] = 0
    return inputs, labels


def test_a_gradient_that_is_no_number_stops_the_pass(tmp_path: Path) -> None:
    inputs, labels = on_the_edge()
    distill = Distill(epochs=1, batch_size=50, checkpoint=str(tmp_path))
    for pass_ in (distill, PruneChannels(sparsity=0.5, importance="taylor")):
        with pytest.raises(TrainingError, match=r"gradient of .*'w1' is not finite"):
            apply(mlp(EDGE), [pass_], data={**inputs, "labels": labels})


def test_saliency_names_the_weight() -> None:
    inputs, labels = on_the_edge()
    with pytest.raises(TrainingError, match=r"'w1' is not finite"):
        measure_saliency(mlp(EDGE), inputs, labels, ["w1", "w2"])


def test_a_last_step_that_overflows_leaves_no_checkpoint(tmp_path: Path) -> None:
    inputs, labels, _ = samples()
    settings = Settings(epochs=1, batch_size=50, optimizer="sgd", learning_rate=1e38, schedule="constant")
    settings = dataclasses.replace(settings, weight_decay=1e3)
    with pytest.raises(TrainingError, match="weights are not finite after epoch 1; try a lower learning rate"):
        train(mlp(), inputs, CrossEntropy(labels), settings=settings, checkpoint=tmp_path)
    assert read_checkpoint(tmp_path)[0]["epoch"] == 0


def test_a_checkpoint_that_is_no_number_is_not_taken(tmp_path: Path) -> None:
    inputs, labels, _ = samples()
    settings = Settings(epochs=1)
    train(mlp(), inputs, CrossEntropy(labels), settings=settings, checkpoint=tmp_path)
    with np.load(tmp_path / CHECKPOINT) as file:
        arrays = dict(file)
    arrays["best_flat"][0] = np.inf
    np.savez(tmp_path / CHECKPOINT, **arrays)
    with pytest.raises(TrainingError, match="training ended with 'w1' not finite"):
        train(mlp(), inputs, CrossEntropy(labels), settings=settings, checkpoint=tmp_path)


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "text", "npy", "zip"])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, damage: str) -> None:
    inputs, labels, _ = samples()
    path = tmp_path / CHECKPOINT
    np.savez(path, flat=np.zeros(1000), header=np.frombuffer(b"{}", np.uint8))
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    content = {"empty": b"", "cut": whole[:-40], "flipped": bytes(flipped), "text": b"PK? no", "npy": b"", "zip": whole}
    path.write_bytes(content[damage])
    if damage == "npy":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    with pytest.raises(TrainingError, match=r"checkpoint.npz is no training checkpoint \(.*; delete it"):
        train(mlp(), inputs, CrossEntropy(labels), settings=Settings(epochs=1), checkpoint=tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script takes uv's place")
@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("exit 0", "the training interpreter ended with code 0"),
        ("""echo '{"event": "done"}'""", "ended without a result"),
        ("echo rubbish; echo '[1]'; echo reason >&2; exit 7", "ended with code 7: reason"),
    ],
)
def test_an_interpreter_that_does_nothing(tmp_path: Path, monkeypatch, script: str, expected: str) -> None:
    fake = tmp_path / "uv"
    fake.write_text(f"#!/bin/sh\n[ $# -lt 6 ] && exit 0\n{script}\n")  # without a folder it sets up
    fake.chmod(0o755)
    monkeypatch.setattr(process, "find_uv", lambda: str(fake))
    inputs, labels, _ = samples()
    with pytest.raises(TrainingError, match=expected):
        train(mlp(), inputs, CrossEntropy(labels), settings=Settings(), checkpoint=tmp_path / "kept")
    with pytest.raises(TrainingError, match=expected):
        measure_saliency(mlp(), inputs, labels, ["w1"])
