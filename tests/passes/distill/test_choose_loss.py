"""From options, outputs and labels to losses; and students that learn from all kinds of outputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxcompress import apply
from onnxcompress.contract import Context
from onnxcompress.errors import DataError, OnnxCompressError, OptionError, TrainingError
from onnxcompress.graph import shapes
from onnxcompress.graph.edit import set_constant
from onnxcompress.passes.distill import Distill
from onnxcompress.passes.distill.choose_loss import choose_loss
from onnxcompress.passes.distill.objectives.losses import LOSSES
from onnxcompress.runtime.session import open_session
from onnxcompress.samples.samples import load_samples
from onnxcompress.training import CrossEntropy

HEADS = """<ir_version: 8, opset_import: ["" : 17]>
net (float[batch,6] x) => (float[batch,5] scores, float[batch,4] boxes, float[batch,6] embedding) {
  h = Gemm(x, w0)
  r = Tanh(h)
  l = MatMul(r, w1)
  scores = Softmax(l)
  boxes = MatMul(r, w2)
  e = MatMul(r, w3)
  n = ReduceL2<axes = [1]>(e)
  embedding = Div(e, n)
}"""
SHAPES = {"w0": (6, 8), "w1": (8, 5), "w2": (8, 4), "w3": (8, 6)}
X = np.random.default_rng(1).standard_normal((60, 6)).astype(np.float32)
LABELS = np.random.default_rng(2).integers(0, 5, 60)


def model(text: str = HEADS, sizes: dict[str, tuple[int, ...]] = SHAPES) -> ir.Model:
    random = np.random.default_rng(0)
    proto = onnx.parser.parse_model(text)
    for name, shape in sizes.items():
        array = (random.standard_normal(shape) / np.sqrt(shape[-2])).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    found = ir.from_proto(proto)
    shapes.infer(found)
    return found


def damaged(original: ir.Model) -> ir.Model:
    """Return a copy with noise on all weights."""
    student, random = original.clone(), np.random.default_rng(5)
    for value in student.graph.initializers.values():
        array = value.const_value.numpy()
        if array.dtype == np.float32:
            set_constant(value, array + 0.3 * array.std() * random.standard_normal(array.shape).astype(np.float32))
    return student


def chosen(
    labels: np.ndarray | None = None, teacher: ir.Model | None = None, **options: Any
) -> tuple[dict[str, float], list[str]]:
    """Return what is compared by what, as ``output/loss``, and notes."""
    data = {"x": X} if labels is None else {"x": X, "labels": labels}
    student = model()
    loss, notes = choose_loss(Distill(**options), student, teacher or model(), load_samples(data, student))
    names = {kind: name for name, kind in LOSSES.items()}
    return {f"{term.reads[0]}/{names[type(term)]}": round(weight, 6) for term, weight in loss.terms}, list(notes)  # type: ignore[attr-defined]


def test_each_kind_has_its_loss_and_outputs_count_alike() -> None:
    terms, notes = chosen()
    assert terms == {"l/kl": 0.333333, "boxes/huber": 0.333333, "embedding/cosine": 0.333333}
    assert notes == [
        "output 'scores': classes (a Softmax makes it), compared by kl",
        "output 'boxes': values ('box' in its name), compared by huber",
        "output 'embedding': embedding ('embed' in its name), compared by cosine",
    ]
    terms, _ = chosen(LABELS)
    assert terms["l/kl"] == terms["l/cross-entropy"] == 0.166667


@pytest.mark.parametrize(
    ("hard", "expected"),
    [(0.0, {"l/kl": 1.0}), (0.25, {"l/kl": 0.75, "l/cross-entropy": 0.25}), (1.0, {"l/cross-entropy": 1.0})],
)
def test_labels_take_their_share(hard: float, expected: dict[str, float]) -> None:
    terms, _ = chosen(LABELS, hard_weight=hard)
    share = {name: round(3 * weight, 5) for name, weight in terms.items() if name.startswith("l/")}
    assert share == pytest.approx(expected, abs=1e-4)


def test_losses_go_to_the_outputs_that_they_are_for() -> None:
    terms, _ = chosen(LABELS, losses={"dist": 2, "mse": 1, "cross-entropy": 0.5}, output_weights={"boxes": 2})
    assert terms == {"l/dist": 0.5, "l/cross-entropy": 0.125, "boxes/mse": 0.5, "embedding/mse": 0.25}
    terms, notes = chosen(losses={"kl": 1})
    assert terms == {"l/kl": 1}
    assert "output 'boxes' is not compared: none of the losses is for values" in notes
    terms, _ = chosen(losses={"mse": 1}, outputs={"embedding": "ignore", "boxes": "ignore"})
    assert terms == {"l/mse": 1}
    terms, _ = chosen(outputs={"*": "ignore", "s*": "cosine", "boxes": "dkd"}, beta=2)
    assert terms == {"l/cosine": 0.5, "boxes/dkd": 0.5}


def test_features_are_compared_beside_outputs() -> None:
    terms, notes = chosen(outputs={"*": "ignore"}, features={"r": "h", "e": "l"})
    assert terms == {"r/fitnets": 1, "e/fitnets": 1}
    assert notes[0] == "tensor 'r' [batch, 8] is compared with 'h' [batch, 8] of the teacher by fitnets"
    assert notes[1].endswith("[batch, 5] of the teacher by fitnets, hint trained along")
    terms, _ = chosen(losses={"kl": 1, "regressor": 0.1}, features={"r": "h"})
    assert terms == {"l/kl": 1, "r/regressor": 0.1}


NOT_PLAIN = r"labels must be class numbers of shape \[samples\], not "
WRONG: list[tuple[type[OnnxCompressError], dict[str, Any], np.ndarray | None, str]] = [
    (OptionError, {"outputs": {"box": "values"}}, None, "outputs: 'box' matches no output .* did you mean 'boxes'"),
    (OptionError, {"output_weights": {"e": 2}}, None, "output_weights: 'e' matches no output that is compared"),
    (OptionError, {"features": {"rr": "r"}}, None, "features: 'rr' is no tensor that the student computes"),
    (OptionError, {"features": {"r": "embeding"}}, None, "no tensor that the teacher computes; .* 'embedding'"),
    (OptionError, {"outputs": {"scores": "embedding"}, "losses": {"dist": 1}}, None, "'dist' fits no output"),
    (OptionError, {"outputs": {"boxes": "cross-entropy"}}, LABELS, "boxes: 'cross-entropy' needs labels"),
    (DataError, {"losses": {"cross-entropy": 1}}, None, "'cross-entropy' needs labels, and the samples have none"),
    (DataError, {}, LABELS + 1, "labels go from 1 to 5, but the model has 5 classes"),
    (DataError, {}, LABELS - 1, "labels go from -1 to 3"),
    (DataError, {}, np.stack([LABELS, LABELS], 1), NOT_PLAIN + r"int64 \[60, 2\]"),
    (DataError, {}, LABELS / 2, NOT_PLAIN + r"float64 \[60\]"),
    (TrainingError, {"outputs": {"*": "ignore"}}, None, "no output of the model can be compared .*'scores': as chosen"),
    (TrainingError, {"losses": {"attention": 1}, "features": {"r": "r"}}, None, "cannot compare 'r'.*no positions"),
]  # fmt: skip


@pytest.mark.parametrize(("error", "options", "labels", "message"), WRONG)
def test_what_is_wrong_is_said(
    error: type[Exception], options: dict[str, Any], labels: np.ndarray | None, message: str
) -> None:
    with pytest.raises(error, match=message):
        chosen(labels, **options)


def test_a_teacher_with_other_classes_is_refused_with_both_shapes() -> None:
    other = model(HEADS.replace("batch,5", "batch,7"), SHAPES | {"w1": (8, 7)})
    with pytest.raises(TrainingError, match=r"'l' \[batch, 5\], and the teacher has no such tensor .*'l' \[batch, 7\]"):
        chosen(teacher=other)


def test_labels_of_something_else_are_not_used() -> None:
    student = model()
    data = load_samples({"x": X, "labels": LABELS / 7}, student)
    loss, notes = choose_loss(Distill(outputs={"scores": "ignore"}), student, model(), data)
    assert not any(isinstance(term, CrossEntropy) for term, _ in loss.terms)  # type: ignore[attr-defined]
    assert notes[-1] == "the labels, float64 [60], fit no output and are not used"


def distance(one: ir.Model, other: ir.Model, feeds: dict[str, np.ndarray]) -> dict[str, float]:
    mine, its = (open_session(each).run(feeds) for each in (one, other))
    return {name: float(((mine[name] - its[name]) ** 2).mean()) for name in mine}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"losses": {"dkd": 1, "huber": 1}},
        {"losses": {"dist": 1, "mse": 1}},
        {"losses": {"kl": 1, "huber": 1, "cosine": 1, "fitnets": 1, "regressor": 0.1}, "features": {"r": "r"}},
    ],
    ids=str,
)
def test_all_outputs_come_nearer(options: dict[str, Any]) -> None:
    teacher, student = model(), damaged(model())
    before = distance(student, teacher, {"x": X})
    step = Distill(epochs=40, batch_size=20, learning_rate=0.01, **options)

    plan = step.plan(student, Context(student, original=teacher, samples=load_samples({"x": X}, student)))
    assert set(plan.weights) == set(SHAPES)
    step.apply(student, plan)
    after = distance(student, teacher, {"x": X})
    assert all(after[name] < before[name] / 4 for name in before), (before, after)


TAGGER = """<ir_version: 8, opset_import: ["" : 17]>
net (float[batch,t,6] x, int64[batch,t] attention_mask) => (float[batch,t,4] logits) {
  h = MatMul(x, w0)
  r = Tanh(h)
  logits = MatMul(r, w1)
}"""
SEGMENTER = """<ir_version: 8, opset_import: ["" : 17]>
net (float[batch,3,h,v] x) => (float[batch,4,h,v] logits) {
  c = Conv<pads = [1,1,1,1]>(x, w0)
  r = Relu(c)
  logits = Conv(r, w1)
}"""


def test_padding_teaches_nothing() -> None:
    """Whatever stands where the mask is 0, the same weights come out."""
    original = model(TAGGER, {"w0": (6, 8), "w1": (8, 4)})
    random = np.random.default_rng(3)
    mask = (np.arange(7) < random.integers(2, 8, (40, 1))).astype(np.int64)
    weights = []
    for filler in (0.0, 9.0):
        x = np.where(mask[..., None] > 0, np.random.default_rng(4).standard_normal((40, 7, 6)), filler).astype(
            np.float32
        )
        data = {"x": x, "attention_mask": mask}
        student = damaged(original)

        step = Distill(epochs=3, learning_rate=0.003, keep_anyway=True)
        plan = step.plan(student, Context(student, original=original, samples=load_samples(data, student)))
        assert any(note.endswith("by kl, without padding ('attention_mask')") for note in plan.notes)
        assert plan.weights
        weights.append(plan.weights)
    for name, array in weights[0].items():
        np.testing.assert_allclose(array, weights[1][name], rtol=1e-4, atol=1e-6)


def test_a_class_for_each_position_of_an_image() -> None:
    original = model(SEGMENTER, {"w0": (8, 3, 3, 3), "w1": (4, 8, 1, 1)})
    x = np.random.default_rng(3).standard_normal((40, 3, 6, 5)).astype(np.float32)
    answers = open_session(original).run({"x": x})["logits"].argmax(1)
    student = damaged(original)
    before = (open_session(student).run({"x": x})["logits"].argmax(1) == answers).mean()
    step = Distill(epochs=30, learning_rate=0.01, losses={"cross-entropy": 1}, label_smoothing=0.05)
    trained, report = apply(student, [step], data={"x": x, "labels": answers})
    assert report.steps[0].done
    after = (open_session(trained).run({"x": x})["logits"].argmax(1) == answers).mean()
    assert after > (1 + before) / 2, (before, after)


DETECTOR = """<ir_version: 7, opset_import: ["" : 11]>
net (float[batch,3,8,8] x) => (float[batch,4,8,8] large, float[batch,4,4,4] small, float[batch,5] p) {
  c = Conv<pads = [1,1,1,1]>(x, w0)
  r = Relu(c)
  l = Conv(r, w1)
  large = Sigmoid(l)
  s = Conv<strides = [2,2]>(r, w2)
  small = Sigmoid(s)
  g = GlobalAveragePool(r)
  f = Flatten(g)
  q = MatMul(f, w3)
  n = Softmax(q)
  p = Identity(n)
}"""


def test_two_maps_of_decisions_and_a_class_in_a_model_of_an_old_opset() -> None:
    original = model(DETECTOR, {"w0": (8, 3, 3, 3), "w1": (4, 8, 1, 1), "w2": (4, 8, 1, 1), "w3": (8, 5)})
    x = np.random.default_rng(3).standard_normal((40, 3, 8, 8)).astype(np.float32)
    student = damaged(original)
    before = distance(student, original, {"x": x})
    step = Distill(epochs=30, learning_rate=0.01)
    plan = step.plan(student, Context(student, original=original, samples=load_samples({"x": x}, student)))
    kinds = [note.split(" (")[0] for note in plan.notes if note.startswith("output")]
    assert kinds == ["output 'large': binary", "output 'small': binary", "output 'p': classes"]
    step.apply(student, plan)
    after = distance(student, original, {"x": x})
    assert all(after[name] < before[name] / 2 for name in before), (before, after)


def test_an_output_of_half_precision() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
    net (float[batch,6] x) => (float16[batch,5] y) { h = MatMul(x, w0) y = Cast<to = 10>(h) }"""
    original = model(text, {"w0": (6, 5)})
    student = damaged(original)
    before = distance(student, original, {"x": X})
    step = Distill(epochs=20, learning_rate=0.01, outputs={"y": "mse"})
    plan = step.plan(student, Context(student, original=original, samples=load_samples({"x": X}, student)))
    step.apply(student, plan)
    assert distance(student, original, {"x": X})["y"] < before["y"] / 4
