import math

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxcompress.errors import MetricError, ModelError
from onnxcompress.evaluation.compare import Reference, compare_models
from onnxcompress.evaluation.fidelity import Fidelity
from onnxcompress.evaluation.metrics import find_metric
from onnxcompress.runtime.session import Session
from onnxcompress.samples.samples import Batch, load_samples

SAME = "g (float[N,C] x) => (float[N,C] y) { y = Identity(x) }"
NOISY = "g (float[N,C] x) => (float[N,C] y) <float w = {0.5}> { y = Add(x, w) }"
FLIPPED = "g (float[N,C] x) => (float[N,C] y) { y = Neg(x) }"
LOGITS = np.array([[1, 2, 3], [3, 2, 1], [1, 3, 2], [5, 5, 0]], np.float32)


def labelled(labels):
    return Batch({}, labels, len(labels))


def test_the_same_model_is_the_same(parse):
    samples = load_samples({"x": LOGITS}, parse(SAME))
    found = compare_models(parse(SAME), parse(SAME), samples)
    assert (found.metric, found.value_a, found.value_b, found.drop) == ("cosine", 1, 1, 0)
    assert (found.count, found.sqnr, found.cosine, found.max_abs) == (4, math.inf, 1, 0)
    assert found.notes[0].startswith("Metric: cosine, guessed since 'y' looks like an embedding")
    assert (found.random, found.dropped, found.nonfinite) == (False, 0, (0, 0))


def test_labels_make_top1_the_metric(parse):
    samples = load_samples({"x": LOGITS, "labels": np.array([2, 0, 0, 0])}, parse(SAME))
    found = compare_models(parse(SAME), parse(FLIPPED), samples)
    assert (found.metric, found.value_a, found.value_b, found.drop) == ("top1", 0.75, 0.25, 0.5)
    assert found.agreement == 0
    assert found.cosine == pytest.approx(-1)
    assert found.max_abs == 10


@settings(max_examples=40, deadline=None)
@given(
    hnp.arrays(np.float32, (7, 6), elements=st.floats(-9, 9, width=32)),
    hnp.arrays(np.float32, (7, 6), elements=st.floats(-9, 9, width=32)),
    hnp.arrays(np.int64, 7, elements=st.integers(0, 5)),
    st.integers(1, 7),
)
def test_scores_equal_numpy_however_split(a, b, labels, size):
    scores = {name: find_metric(name).start() for name in ("top1", "top5", "agreement", "sqnr", "cosine", "max_abs")}
    for start in range(0, 7, size):
        part = slice(start, start + size)
        for score in scores.values():
            score.update({"y": b[part]}, {"y": a[part]}, labelled(labels[part]))
    found = {name: score.value() for name, score in scores.items()}
    wide_a, wide_b = a.astype(float).ravel(), b.astype(float).ravel()
    best = np.argsort(-b, axis=1, kind="stable")
    assert found["top1"] == np.mean(best[:, 0] == labels)
    assert found["top5"] == np.mean((best[:, :5] == labels[:, None]).any(axis=1))
    assert found["agreement"] == np.mean(a.argmax(1) == b.argmax(1))
    assert found["max_abs"] == np.abs(wide_a - wide_b).max()
    lost = {name: score.losses() for name, score in scores.items()}
    np.testing.assert_array_equal(lost["top1"], 1.0 * (np.argmax(a, 1) == labels) - (best[:, 0] == labels))
    np.testing.assert_array_equal(lost["agreement"], a.argmax(1) != b.argmax(1))
    assert (lost["sqnr"], lost["max_abs"]) == (None, None)
    noise, signal, other = (float(v @ v) for v in (wide_a - wide_b, wide_a, wide_b))
    if noise and signal and other:
        np.testing.assert_allclose(found["sqnr"], 10 * np.log10(signal / noise), rtol=1e-9, atol=1e-9)
    one, two = a.astype(float), b.astype(float)
    size = np.linalg.norm(one, axis=1) * np.linalg.norm(two, axis=1)
    cosines = np.where((one == two).all(1), 1, (one * two).sum(1) / np.where(size == 0, 1, size))
    np.testing.assert_allclose(1 - lost["cosine"], cosines, rtol=1e-9, atol=1e-9)
    assert found["cosine"] == pytest.approx(1 - lost["cosine"].mean())


def test_a_constant_or_broken_output_is_not_right():
    for scores in (np.zeros((3, 4)), np.full((3, 4), np.nan)):
        score = find_metric("top1").start()
        score.update({"y": scores}, {"y": scores}, labelled(np.array([1, 2, 3])))
        assert score.value() == 0


def test_images_have_their_classes_on_axis_1():
    mask = np.zeros((2, 3, 4, 4), np.float32)
    mask[:, 2] = 1
    score = find_metric("top1").start()
    score.update({"y": mask}, {"y": mask}, labelled(np.full((2, 4, 4), 2)))
    assert score.value() == 1


def test_integer_outputs_are_decisions(parse):
    model = parse("g (float[N,3] x) => (int64[N] y) { y = ArgMax<axis=1, keepdims=0>(x) }")
    samples = load_samples({"x": LOGITS, "labels": np.array([2, 0, 1, 1])}, model)
    found = compare_models(model, model, samples)
    assert (found.metric, found.value_a, found.agreement) == ("top1", 0.75, 1)


def test_one_value_for_each_sample_is_compared_by_the_variance_explained(parse):
    values = np.array([[1], [2], [3], [6]], np.float32)
    samples = load_samples({"x": values}, parse(SAME))
    found = compare_models(parse(SAME), parse(NOISY), samples)
    assert (found.metric, found.agreement) == ("r2", None)
    assert found.value_b == pytest.approx(1 - 0.25 / values.var())
    assert found.sqnr == pytest.approx(10 * math.log10(50))
    with pytest.raises(MetricError, match="output 'y' has one value for each sample, which decides nothing"):
        compare_models(parse(SAME), parse(NOISY), samples, "agreement")


def test_random_samples_and_left_out_samples_are_marked(parse):
    model = parse("g (float[4,3] x) => (float[4,3] y) { y = Relu(x) }")
    assert compare_models(model, model, load_samples("random", model)).random
    found = compare_models(model, model, load_samples({"x": np.ones((6, 3), np.float32)}, model))
    assert (found.count, found.dropped) == (4, 2)


def test_nan_is_counted_and_never_near(parse):
    broken = parse("g (float[N,C] x) => (float[N,C] y) { z = Neg(x) y = Log(z) }")
    found = compare_models(parse(SAME), broken, load_samples({"x": LOGITS}, parse(SAME)))
    assert found.nonfinite == (0, 12)
    assert (found.max_abs, found.sqnr, found.cosine) == (math.inf, -math.inf, 0)


def test_equal_infinities_are_no_difference():
    fidelity = Fidelity("y")
    fidelity.update(np.array([-np.inf, 1, np.nan]), np.array([-np.inf, 1, np.nan]))
    found = fidelity.result()
    assert (found.max_abs, found.sqnr, found.nonfinite_a, found.nonfinite_b) == (0, math.inf, 2, 2)


def test_outputs_of_different_shape_cannot_be_compared(parse):
    shorter = parse(
        "g (float[N,C] x) => (float[N,C] y) <int64[1] a = {0}, int64[1] b = {2}, int64[1] c = {1}> "
        "{ y = Slice(x, a, b, c) }"
    )
    samples = load_samples({"x": LOGITS}, parse(SAME))
    message = r"metric 'cosine': output 'y' has shape \[4, 2\] where the original's has \[4, 3\]"
    with pytest.raises(MetricError, match=message):
        compare_models(parse(SAME), shorter, samples, "cosine")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ("g (float[N,C] x) => (float[N,C] out) { out = Neg(x) }", "output 'y' is missing in the second"),
        (
            "g (float[N,C] xx) => (float[N,C] y) { y = Neg(xx) }",
            "input 'x' is missing in the second; did you mean 'xx'",
        ),
        (
            "g (float[N,C] x) => (double[N,C] y) { y = Cast<to=11>(x) }",
            r"output 'y' is tensor\(float\) and tensor\(dou",
        ),
        ("g (float[N,C] x) => (float[N,C] y, float[N,C] z) { y = Neg(x) z = Neg(x) }", "output 'z' is only in the se"),
    ],
)
def test_models_that_differ_in_their_ports(parse, other, message):
    with pytest.raises(ModelError, match=f"the models differ: {message}"):
        compare_models(parse(SAME), parse(other), load_samples({"x": LOGITS}, parse(SAME)))


def test_paths_are_compared_too(parse, tmp_path):
    ir.save(parse(SAME), tmp_path / "a.onnx")
    ir.save(parse(NOISY), tmp_path / "b.onnx")
    samples = load_samples({"x": LOGITS}, parse(SAME))
    assert compare_models(tmp_path / "a.onnx", tmp_path / "b.onnx", samples, "max_abs").drop == 0.5


@pytest.mark.parametrize(("limit", "again"), [(1 << 20, 0), (50, 3), (0, 4)])
def test_the_original_runs_again_only_beyond_the_limit(parse, monkeypatch, limit, again):
    samples = load_samples(lambda: ({"x": row[None].repeat(32, 0)[:, :1]} for row in LOGITS), parse(SAME))
    reference = Reference(parse(SAME), samples, limit_bytes=limit * 3 if limit == 50 else limit)
    first = reference.compare(parse(NOISY))
    runs = []
    run = Session.run

    def counted(self, feeds):
        runs.extend([1] if self is reference._session else [])
        return run(self, feeds)

    monkeypatch.setattr(Session, "run", counted)
    assert reference.compare(parse(NOISY)) == first
    assert len(runs) == again


def test_the_original_beside_itself_runs_once(parse, monkeypatch):
    subject = parse(SAME)
    samples = load_samples({"x": LOGITS}, subject)
    reference, runs, run = Reference(subject, samples), [], Session.run

    def counted(self, feeds):
        runs.append(self)
        return run(self, feeds)

    monkeypatch.setattr(Session, "run", counted)
    found = reference.compare(subject)
    assert (len(runs), found.cosine, found.max_abs, found.sqnr) == (1, 1, 0, math.inf)
    assert found == reference.compare(subject.clone())
    assert len(runs) == 2


METRIC = """
import numpy as np
def shapes(outputs, labels):
    return float(outputs['y'].shape == (4, 3) and labels.tolist() == [2, 0, 1, 0])
def ragged(outputs, labels): return len(outputs['y'])
def fails(outputs, labels): return 1 / 0
def text(outputs, labels): return 'good'
def nan(outputs, labels): return np.float32('nan')
"""


@pytest.fixture
def own(tmp_path):
    (tmp_path / "mine.py").write_text(METRIC)
    return lambda name: f"{tmp_path / 'mine.py'}:{name}"


def test_a_metric_of_the_users_own(parse, own):
    samples = load_samples({"x": LOGITS, "labels": np.array([2, 0, 1, 0])}, parse(SAME))
    found = compare_models(parse(SAME), parse(SAME), samples, own("shapes"))
    assert (found.value_a, found.value_b, found.drop) == (1, 1, 0)
    ragged = load_samples([{"x": LOGITS}, {"x": LOGITS[:, :2]}], parse(SAME))
    assert compare_models(parse(SAME), parse(SAME), ragged, own("ragged")).value_a == 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fails", "mine.py:fails' failed: ZeroDivisionError: division by zero"),
        ("text", "mine.py:text' must return one finite number, or one for each of 4 samples, got 'good'"),
        ("nan", "mine.py:nan' must return one finite number, or one for each of 4 samples, got"),
        ("shape", r"has no function 'shape'; did you mean 'shapes'\?"),
    ],
)
def test_a_metric_of_the_users_own_that_fails(parse, own, name, message):
    with pytest.raises(MetricError, match=message):
        compare_models(parse(SAME), parse(SAME), load_samples({"x": LOGITS}, parse(SAME)), own(name))


@pytest.mark.parametrize(
    ("metric", "labels", "message"),
    [
        ("top-1", None, r"unknown metric 'top-1'; did you mean 'top1'\? \(metrics: top1, top5, agreement"),
        ("top1", None, "metric 'top1' needs labels, and the samples have none"),
        ("top1", np.array([0, 1, 2, 3]), "label 3: output 'y' has classes 0 to 2"),
        ("top1", np.zeros(4), r"labels: expected class numbers \(integers\), got float64"),
        ("top1", np.zeros((4, 2), int), r"output 'y' holds 4 decisions for labels of shape \[4, 2\]"),
    ],
)
def test_metrics_that_cannot_score(parse, metric, labels, message):
    data = {"x": LOGITS} | ({} if labels is None else {"labels": labels})
    with pytest.raises(MetricError, match=message):
        compare_models(parse(SAME), parse(SAME), load_samples(data, parse(SAME)), metric)


def test_drop():
    assert find_metric("top1").drop(0.9, 0.8) == pytest.approx(0.1)
    assert find_metric("agreement").drop(1, 0.8) == pytest.approx(0.2)
    assert find_metric("cosine").drop(1, 0.8) == pytest.approx(0.2)
    assert find_metric("max_abs").drop(0, 3) == 3
    with pytest.raises(MetricError, match="metric 'sqnr' has no drop to limit; use agreement, cosine or max_abs"):
        find_metric("sqnr").drop(math.inf, 30)


def test_sqnr_is_compared_without_a_drop(parse):
    found = compare_models(parse(SAME), parse(NOISY), load_samples({"x": LOGITS}, parse(SAME)), "sqnr")
    assert found.drop is None
    assert found.value_b == found.sqnr


KEEPS = """g (float[N,C] x) => (float[M,C] y) <float[1] zero = {{{threshold}}}, int64[1] last = {{1}}> {{
    s = ReduceSum <keepdims = 0> (x, last) keep = Greater(s, zero) y = Compress <axis = 0> (x, keep) }}"""


def test_outputs_whose_size_depends_on_the_data_are_compared(parse):
    """What one of them lacks is as if it were zero, and a decision that differs."""
    one, other = parse(KEEPS.format(threshold=0)), parse(KEEPS.format(threshold=6.5))
    samples = load_samples({"x": LOGITS[[0, 3, 1]]}, one)  # sums of 6, 10 and 6
    found = compare_models(one, other, samples)
    padded = np.concatenate([LOGITS[[3]], np.zeros((2, 3))])
    noise = np.square(LOGITS[[0, 3, 1]] - padded).sum()
    assert found.outputs[0].resized == 1
    assert found.sqnr == pytest.approx(10 * math.log10(np.square(LOGITS[[0, 3, 1]]).sum() / noise))
    assert (found.metric, found.value_b) == ("cosine", pytest.approx(LOGITS[0] @ LOGITS[3] / math.sqrt(14 * 50) / 3))
    assert compare_models(one, other, samples, "agreement").value_b == 0


def test_a_metric_may_ask_for_the_originals_outputs(parse, tmp_path):
    (tmp_path / "own.py").write_text(
        "def lost(outputs, labels, originals):\n    return -float(len(originals['y']) - len(outputs['y']))\n"
    )
    one, other = parse(KEEPS.format(threshold=0)), parse(KEEPS.format(threshold=6.5))
    found = compare_models(one, other, load_samples({"x": LOGITS}, one), f"{tmp_path}/own.py:lost")
    assert (found.value_a, found.value_b, found.drop) == (0, -3, 3)
