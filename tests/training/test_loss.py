"""What a loss reads and is fed with, run in the interpreter that uv makes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from corpus.trainable import MLP, cnn, log_softmax, mlp, samples, weights_of

from onnxcompress.errors import DataError
from onnxcompress.samples.samples import load_samples
from onnxcompress.training import CrossEntropy, Loss, Settings, teacher_arrays, train, trainable_weights
from onnxcompress.training.engines import ENGINES
from onnxcompress.training.loss import LABELS
from onnxcompress.training.objective import LOSS, SCORE, build_objective


@dataclass(frozen=True)
class Regressed(Loss):
    """The squared distance of the teacher's logits from a projection, trained along, of a tensor of the student."""

    tensor: str = "r"

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.tensor, "h")

    @property
    def teacher(self) -> dict[str, str]:
        return {"taught": "logits"}

    def parameters(self) -> dict[str, np.ndarray]:
        return {"regressor": np.full((8, 4), 0.1, np.float32)}

    def add(self, behind, student) -> ir.Value:
        projected = behind.add("MatMul", student[self.tensor], behind.parameter("regressor"))
        fed = behind.fed("taught", ir.DataType.FLOAT, ir.Shape(["batch", 4]))
        difference = behind.add("Sub", projected, fed)
        return behind.mean(behind.add("Mul", difference, difference))

    def score(self, behind, student) -> ir.Value:
        return behind.mean(behind.number(behind.add("Greater", student["h"], behind.constant("zero", np.float32(0)))))


def test_a_loss_on_inner_tensors_with_weights_of_its_own() -> None:
    inputs, _, _ = samples()
    loss, w = Regressed(), weights_of(mlp())
    taught = teacher_arrays(mlp(), loss.teacher, load_samples(inputs, mlp()))
    objective = build_objective(mlp(), loss, engine=ENGINES["onnxruntime"])
    assert objective.weights == ("w1", "b1", "regressor")
    session = onnxruntime.InferenceSession(objective.proto.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = inputs | taught | {name: w[name] for name in ("w1", "b1")} | loss.parameters()
    value, score = session.run([LOSS, SCORE], feeds)
    h = inputs["x"] @ w["w1"] + w["b1"]
    expected = (np.maximum(h, 0) @ np.full((8, 4), 0.1) - np.maximum(h, 0) @ w["w2"]) ** 2
    assert value == pytest.approx(expected.mean(), rel=1e-5)
    assert score == pytest.approx((h > 0).mean())
    trained = train(mlp(), inputs, loss, teacher=taught, settings=Settings(epochs=40, learning_rate=0.02))
    assert set(trained.weights) == {"w1", "b1"}, "the regressor is thrown away"
    assert trained.losses[-1] < trained.losses[0] / 4


def test_weights_that_lead_to_no_tensor_that_is_read_are_not_trained() -> None:
    assert trainable_weights(mlp()).free == ("w1", "b1", "w2")
    assert trainable_weights(mlp(), reads=("h",)).free == ("w1", "b1")
    assert trainable_weights(cnn(), reads=("n", "logits")).free == trainable_weights(cnn()).free


def test_a_name_that_is_no_tensor_is_an_error_with_the_nearest_name() -> None:
    with pytest.raises(DataError, match="'logit' is no tensor that the model computes; did you mean 'logits'"):
        build_objective(mlp(), CrossEntropy(samples()[1], "logit"))


@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_cross_entropy_with_a_class_for_each_position(axis: int, smoothing: float) -> None:
    """Both positions have the same logits; labels below 0 do not count."""
    text = MLP.replace("float[batch,4] logits", "float[batch,a,b] logits")
    where, repeats = (1, "1,2,1") if axis == -1 else (2, "1,1,2")
    text = text.replace(
        "logits = MatMul(r, w2)",
        f"s = MatMul(r, w2)\n at = Constant<value_ints = [{where}]>()\n u = Unsqueeze(s, at)\n"
        f" n = Constant<value_ints = [{repeats}]>()\n logits = Tile(u, n)",
    )
    inputs, labels, _ = samples()
    w = weights_of(mlp())
    labels = np.stack([labels, np.where(np.arange(50) < 20, -100, labels[::-1])], 1)
    loss = CrossEntropy(labels, "logits", axis, smoothing)
    objective = build_objective(mlp(text), loss, engine=ENGINES["onnxruntime"])
    session = onnxruntime.InferenceSession(objective.proto.SerializeToString(), providers=["CPUExecutionProvider"])
    value, score = session.run([LOSS, SCORE], inputs | w | {LABELS: labels})
    z = np.maximum(inputs["x"] @ w["w1"] + w["b1"], 0) @ w["w2"]
    log_p = log_softmax(z.astype(np.float64))
    rows, places = np.nonzero(labels >= 0)
    picked = labels[rows, places]
    hard, even = -log_p[rows, picked], -log_p[rows].mean(1)
    assert value == pytest.approx(((1 - smoothing) * hard + smoothing * even).mean(), rel=1e-5)
    assert score == pytest.approx((z[rows].argmax(1) == picked).mean())


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((50, 2), int), r"shape \[samples\], not int64 \[50, 2\]"),
        (np.zeros(50), r"shape \[samples\], not float64 \[50\]"),
        (np.full(50, 4), "labels go from 4 to 4, but the model has 4 classes"),
        (np.full(50, -1), "labels go from -1 to -1"),
    ],
)
def test_labels_that_do_not_fit(labels: np.ndarray, message: str) -> None:
    loss = replace(CrossEntropy(samples()[1]), labels=labels)
    with pytest.raises(DataError, match=message):
        train(mlp(), samples()[0], loss, settings=Settings())
