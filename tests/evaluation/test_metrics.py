"""Each metric beside a computation of its own, and what its losses say."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxcompress.errors import MetricError
from onnxcompress.evaluation.compare import compare_models
from onnxcompress.evaluation.metrics import METRICS, Subject, find_metric
from onnxcompress.evaluation.metrics.detections import Detections, overlaps
from onnxcompress.evaluation.metrics.score import shown
from onnxcompress.evaluation.metrics.texts import collapse, edits
from onnxcompress.evaluation.metrics.usual import USUAL
from onnxcompress.samples.samples import Batch, load_samples

RANDOM = np.random.default_rng(3)
AXIS = Subject("y", {"y": "classes"}, {"y": 1})


def scored(name: str, outputs, reference, batch: Batch, subject: Subject | None = None):
    """Return a score that has seen the samples in two batches, the first of three samples."""
    score = find_metric(name).start(subject)
    for part in (slice(0, 3), slice(3, None)):
        labels = None if batch.labels is None else batch.labels[part]
        some = Batch({n: a[part] for n, a in batch.feeds.items()}, labels, len(range(*part.indices(batch.count))))
        cut = [{n: a[part] for n, a in each.items()} for each in (outputs, reference)]
        score.update(*cut, some)
    return score


def jackknife(statistic, count: int) -> float:
    """Return the standard error of a statistic of chosen samples, by leaving out one after the other."""
    without = np.array([statistic(np.delete(np.arange(count), place)) for place in range(count)])
    return math.sqrt((count - 1) / count * np.square(without - without.mean()).sum())


def check_losses(score, drop: float, error: float) -> None:
    losses = score.losses()
    assert losses.mean() == pytest.approx(drop, abs=1e-9)
    assert losses.std(ddof=1) / math.sqrt(len(losses)) == pytest.approx(error, rel=1e-6, abs=1e-12)


# --- numbers


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("width", [1, 3, 100])
def test_r2(labelled, width):
    a = RANDOM.standard_normal((9, width)) + 5
    b, labels = a + 0.2 * RANDOM.standard_normal(a.shape), a + 0.1 * RANDOM.standard_normal(a.shape)
    truth = labels if labelled else a

    def r2(found, of):
        centre = truth[of].mean(axis=0) if width <= 64 else truth[of].mean()
        return 1 - np.square(found[of] - truth[of]).sum() / np.square(truth[of] - centre).sum()

    score = scored("r2", {"y": b}, {"y": a}, Batch({}, labels if labelled else None, 9))
    every = np.arange(9)
    assert score.value() == pytest.approx(r2(b, every))
    check_losses(score, r2(a, every) - r2(b, every), jackknife(lambda of: r2(a, of) - r2(b, of), 9))


def test_r2_of_what_is_broken_or_constant():
    ones, batch = np.ones((4, 1)), Batch({}, None, 4)
    assert scored("r2", {"y": ones}, {"y": ones}, batch).value() == 1
    assert scored("r2", {"y": ones + 1}, {"y": ones}, batch).value() == -math.inf
    rising = np.arange(4.0)[:, None]
    broken = scored("r2", {"y": np.where(rising == 2, np.nan, rising)}, {"y": rising}, batch)
    assert (broken.value(), broken.losses()) == (-math.inf, None)


def test_cosine_is_a_mean_over_samples_without_padding():
    a, b = RANDOM.standard_normal((5, 4, 3)), RANDOM.standard_normal((5, 4, 3))
    mask = np.arange(4) < np.array([4, 2, 3, 1, 4])[:, None]
    batch = Batch({"attention_mask": mask.astype(np.int64)}, None, 5)
    score = scored("cosine", {"y": b}, {"y": a}, batch)
    pairs = [(one[m].ravel(), two[m].ravel()) for one, two, m in zip(a, b, mask, strict=True)]
    cosines = np.array([x @ y / np.linalg.norm(x) / np.linalg.norm(y) for x, y in pairs])
    assert score.value() == pytest.approx(cosines.mean())
    np.testing.assert_allclose(score.losses(), 1 - cosines)


def test_a_mask_speaks_of_positions_alone():
    mask = np.array([[0, 1, 1, 1], [1, 1, 1, 1]])
    batch = Batch({"attention_mask": mask}, None, 2)
    assert shown(batch, (2, 4)) is None and shown(batch, (2, 4, 4, 3)) is None  # features, and heads
    assert shown(batch, (2, 3, 5)) is None
    np.testing.assert_array_equal(shown(batch, (2, 4, 5)), mask == 1)
    cached = Batch({"attention_mask": mask, "past_key": np.zeros((2, 1))}, None, 2)
    np.testing.assert_array_equal(shown(cached, (2, 3, 5)), mask[:, 1:] == 1)


# --- classes


@pytest.mark.parametrize("labelled", [False, True])
def test_iou(labelled):
    a, b = RANDOM.standard_normal((2, 7, 3, 4, 5))
    labels = RANDOM.integers(0, 4, (7, 4, 5))
    labels[labels == 3] = 255  # what is no class does not count
    truth = labels if labelled else a.argmax(1)

    def iou(found, of):
        shares = []
        decided, true = found[of].argmax(1), truth[of]
        for c in range(3):
            both = ((decided == c) & (true == c)).sum()
            either = (((decided == c) | (true == c)) & (true != 255)).sum()
            shares += [both / either] if either else []
        return np.mean(shares)

    score = scored("iou", {"y": b}, {"y": a}, Batch({}, labels if labelled else None, 7), AXIS)
    every = np.arange(7)
    assert score.value() == pytest.approx(iou(b, every))
    check_losses(score, iou(a, every) - iou(b, every), jackknife(lambda of: iou(a, of) - iou(b, of), 7))


def test_iou_and_agreement_of_yes_and_no():
    a, b = RANDOM.random((2, 6, 1, 4, 4))
    subject = Subject("y", {"y": "pixels"}, {"y": 1})
    one, two = a > 0.5, b > 0.5
    shares = [(x & y).sum() / (x | y).sum() for x, y in ((one, two), (~one, ~two))]
    batch = Batch({}, None, 6)
    assert scored("iou", {"y": b}, {"y": a}, batch, subject).value() == pytest.approx(np.mean(shares))
    binary = Subject("y", {"y": "binary"}, {})
    logits = scored("agreement", {"y": b[:, 0, 0] - 0.5}, {"y": a[:, 0, 0] - 0.5}, batch, binary)
    assert logits.value() == (one[:, 0, 0] == two[:, 0, 0]).mean()
    labels = RANDOM.integers(0, 2, (6, 4))
    top1 = scored("top1", {"y": b[:, 0, 0]}, {"y": a[:, 0, 0]}, Batch({}, labels, 6), binary)
    assert top1.value() == (two[:, 0, 0] == labels).mean()


# --- boxes


def brute_overlap(a, b) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    area = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return width * height / (sum(area) - width * height) if sum(area) else 0.0


def brute_found(boxes, scores):
    """Return (score, class, box) of what is found: the best class of each, at least .25, the best of those alike."""
    rows = sorted(
        ((s.max(), int(s.argmax()), tuple(box)) for box, s in zip(boxes, scores, strict=True) if s.max() >= 0.25),
        key=lambda row: -row[0],
    )
    kept = []
    for row in rows:
        if not any(row[1] == other[1] and brute_overlap(row[2], other[2]) > 0.5 for other in kept):
            kept.append(row)
    return kept


def brute_f1(found, true) -> float:
    right = sizes = 0
    for mine, its in zip(found, true, strict=True):
        free, sizes = list(its), sizes + len(mine) + len(its)
        for _, number, box in mine:
            near = [(brute_overlap(box, o[2]), o) for o in free if o[1] == number and brute_overlap(box, o[2]) >= 0.5]
            if near:
                free.remove(max(near, key=lambda pair: pair[0])[1])
                right += 1
    return 2 * right / sizes if sizes else 1.0


def detector(seed: int, samples: int = 6, anchors: int = 40, classes: int = 3):
    random = np.random.default_rng(seed)
    low = random.random((samples, anchors, 2)) * 0.5
    boxes = np.concatenate([low, low + 0.1 + random.random((samples, anchors, 2)) * 0.4], axis=2)
    scores = random.random((samples, anchors, classes)) ** 3 * 0.9
    moved = boxes + random.standard_normal(boxes.shape) * 0.03
    moved[..., 2:] = np.maximum(moved[..., 2:], moved[..., :2])
    changed = np.clip(scores + random.standard_normal(scores.shape) * 0.1, 0, 0.99)
    return boxes, scores, moved, changed


BOXES = Subject("boxes", {"boxes": "boxes", "scores": "scores"})


@pytest.mark.parametrize("seed", range(4))
def test_boxes_by_brute_force(seed):
    boxes, scores, moved, changed = detector(seed)
    one = [brute_found(*each) for each in zip(boxes, scores, strict=True)]
    two = [brute_found(*each) for each in zip(moved, changed, strict=True)]
    reference, outputs = {"boxes": boxes, "scores": scores}, {"boxes": moved, "scores": changed}
    score = scored("boxes", outputs, reference, Batch({}, None, 6), BOXES)
    assert score.value() == pytest.approx(brute_f1(two, one))
    error = jackknife(lambda of: 1 - brute_f1([two[i] for i in of], [one[i] for i in of]), 6)
    check_losses(score, 1 - brute_f1(two, one), error)
    assert scored("boxes", reference, reference, Batch({}, None, 6), BOXES).value() == 1
    labels = np.full((6, 41, 5), -1.0)
    for sample, rows in enumerate(one):
        for place, (_, number, box) in enumerate(rows[::2]):
            labels[sample, place] = [number, *box]
    truth = [rows[::2] for rows in one]
    score = scored("boxes", outputs, reference, Batch({}, labels, 6), BOXES)
    assert score.value() == pytest.approx(brute_f1(two, truth))
    assert score.losses().mean() == pytest.approx(brute_f1(one, truth) - brute_f1(two, truth))


def test_boxes_however_they_are_written():
    """Centres in one tensor either way, a score for being anything, a class for nothing, after suppression."""
    boxes, scores, moved, changed = detector(9)
    reference, outputs = {"boxes": boxes, "scores": scores}, {"boxes": moved, "scores": changed}
    plain = scored("boxes", outputs, reference, Batch({}, None, 6), BOXES)

    def tensor(boxes, scores):
        centres = np.concatenate([(boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]], axis=2)
        return np.concatenate([centres, scores], axis=2)

    def with_object(boxes, scores):
        return np.insert(tensor(boxes, scores), 4, 1.0, axis=2)

    def with_nothing(boxes, scores):
        total = np.maximum(scores.sum(axis=2, keepdims=True), 1)
        return boxes, np.concatenate([1 - (scores / total).sum(axis=2, keepdims=True), scores / total], axis=2)

    one = Subject("y", {"y": "detections"})
    for write in (lambda *a: np.moveaxis(tensor(*a), 1, 2), with_object):
        found = scored("boxes", {"y": write(moved, changed)}, {"y": write(boxes, scores)}, Batch({}, None, 6), one)
        assert found.value() == pytest.approx(plain.value())
    few = 0.3 * scores / scores.sum(axis=2, keepdims=True)  # most anchors see nothing
    few[:, ::5] *= 3
    pair = [dict(zip(("boxes", "scores"), with_nothing(b, s), strict=True)) for b, s in ((boxes, few), (moved, few))]
    truth = [[brute_found(*each) for each in zip(b, few, strict=True)] for b in (boxes, moved)]
    found = scored("boxes", pair[1], pair[0], Batch({}, None, 6), BOXES)
    assert found.value() == pytest.approx(brute_f1(truth[1], truth[0]))
    sole = Subject("b", {"b": "boxes", "s": "scores", "c": "decisions"})
    sample = Detections(BOXES.kinds, {"boxes": boxes, "scores": scores}).read({"boxes": boxes, "scores": scores})[0]
    after = {"b": sample.boxes, "s": sample.scores, "c": sample.classes}
    score = find_metric("boxes").start(sole)
    score.update({n: a[:-1] for n, a in after.items()}, after, Batch({}, None, 1))
    count = len(sample.boxes)
    assert score.value() == pytest.approx(2 * (count - 1) / (2 * count - 1))


def test_overlaps_by_brute_force():
    one = detector(5)[0][0]
    boxes = detector(6)[0][0]
    wanted = [[brute_overlap(a, b) for b in boxes] for a in one]
    np.testing.assert_allclose(overlaps(one, boxes), wanted, atol=1e-12)


@pytest.mark.parametrize("labels", [np.zeros(6, int), np.zeros((6, 2, 4))])
def test_labels_that_are_no_boxes(labels):
    boxes, scores, *_ = detector(1)
    outputs = {"boxes": boxes, "scores": scores}
    with pytest.raises(MetricError, match=r"expected \(samples, boxes, 5\): class, left, top, right, bottom"):
        scored("boxes", outputs, outputs, Batch({}, labels, 6), BOXES)
    with pytest.raises(MetricError, match=r"metric 'boxes': no boxes .* outputs 'y' \(unknown\)"):
        scored("boxes", {"y": boxes}, {"y": boxes}, Batch({}, None, 6))


# --- sequences


def log_softmax(x):
    return np.log(np.exp(x) / np.exp(x).sum(-1, keepdims=True))


def test_perplexity_of_the_next_tokens():
    a, b = RANDOM.standard_normal((2, 5, 6, 11))
    ids = RANDOM.integers(0, 11, (5, 6))
    mask = np.arange(6) < np.array([6, 4, 5, 2, 6])[:, None]
    batch = Batch({"input_ids": ids, "attention_mask": mask.astype(np.int64)}, None, 5)

    def perplexity(logits, of):
        told = [log_softmax(logits[i, t])[ids[i, t + 1]] for i in of for t in range(5) if mask[i, t + 1]]
        return np.exp(-np.mean(told))

    every = np.arange(5)
    score = scored("perplexity", {"y": b}, {"y": a}, batch)
    assert score.value() == pytest.approx(perplexity(b, every))
    ratio = perplexity(b, every) / perplexity(a, every) - 1
    check_losses(score, ratio, jackknife(lambda of: perplexity(b, of) / perplexity(a, of) - 1, 5))
    assert find_metric("perplexity").drop(perplexity(a, every), perplexity(b, every)) == pytest.approx(ratio)
    again = scored("perplexity", {"y": b}, {"y": a}, Batch(batch.feeds, np.where(mask, ids, -100), 5))
    assert again.value() == pytest.approx(score.value())  # labels that are the input stand for what comes next


def test_perplexity_of_labels_and_of_probabilities():
    logits, labels = RANDOM.standard_normal((5, 6, 11)), RANDOM.integers(0, 11, (5, 6))
    labels[0, 3:] = -100
    told = np.take_along_axis(log_softmax(logits), np.maximum(labels, 0)[..., None], -1)[..., 0][labels >= 0]
    for form in (logits, np.exp(log_softmax(logits))):
        score = scored("perplexity", {"y": form}, {"y": form}, Batch({}, labels, 5))
        assert score.value() == pytest.approx(np.exp(-told.mean()))
    with pytest.raises(MetricError, match="there are no tokens that come next to those of 'y'"):
        scored("perplexity", {"y": logits}, {"y": logits}, Batch({}, None, 5))


def test_divergence():
    a, b = RANDOM.standard_normal((2, 5, 6, 11))
    per_sample = (np.exp(log_softmax(a)) * (log_softmax(a) - log_softmax(b))).sum(-1).mean(-1)
    score = scored("kl", {"y": b}, {"y": a}, Batch({}, None, 5))
    assert score.value() == pytest.approx(per_sample.mean())
    np.testing.assert_allclose(score.losses(), per_sample)


# --- texts


def naive_text(rows, blank: int) -> str:
    text, last = "", -1
    for row in rows:
        best = int(np.argmax(row))
        if best not in (last, blank):
            text += chr(97 + best)
        last = best
    return text


def naive_edits(a, b) -> int:
    table = [[i + j if not i * j else 0 for j in range(len(b) + 1)] for i in range(len(a) + 1)]
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            table[i][j] = min(table[i - 1][j] + 1, table[i][j - 1] + 1, table[i - 1][j - 1] + (a[i - 1] != b[j - 1]))
    return table[-1][-1]


@pytest.mark.parametrize("blank", [0, 4])
def test_texts_by_a_naive_decoder(blank):
    a = RANDOM.standard_normal((8, 9, 5))
    a[..., blank] += 1
    b = a + 0.3 * RANDOM.standard_normal(a.shape)
    one, two = ([naive_text(rows, blank) for rows in each] for each in (a, b))
    score, batch = scored("text", {"y": b}, {"y": a}, Batch({}, None, 8)), Batch({}, None, 8)
    assert score.value() == np.mean([x == y for x, y in zip(one, two, strict=True)])
    np.testing.assert_array_equal(score.losses(), [x != y for x, y in zip(one, two, strict=True)])
    wrong = [naive_edits(x, y) for x, y in zip(two, one, strict=True)]
    assert scored("cer", {"y": b}, {"y": a}, batch).value() == pytest.approx(sum(wrong) / sum(map(len, one)))
    numbers = np.full((8, 9), -1)
    for row, text in zip(numbers, two, strict=True):
        row[: len(text)] = [ord(c) - 97 for c in text]
    for labels, subject in (
        (numbers, None),
        (np.array(two), Subject("y", characters=tuple("abcde"))),
    ):
        score = scored("text", {"y": b}, {"y": a}, Batch({}, labels, 8), subject)
        assert score.value() == 1
        np.testing.assert_array_equal(score.losses(), [-float(x != y) for x, y in zip(one, two, strict=True)])
    with pytest.raises(MetricError, match="labels are float64"):
        scored("text", {"y": b}, {"y": a}, Batch({}, np.zeros(8), 8))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=7), st.lists(st.integers(0, 3), max_size=7))
def test_edits_by_a_table(one, other):
    assert edits(tuple(one), tuple(other)) == naive_edits(one, other)
    assert collapse(np.array(one, int), 0) == tuple(n for i, n in enumerate(one) if n and (i == 0 or one[i - 1] != n))


# --- choosing

TWO = """g (float[N,C] x) => (float[N,C] image_embeds, float[N,C] logits) <float w = {{{0}}}> {{
    f = Add(x, w) image_embeds = Relu(f) logits = Neg(f) }}"""


def test_a_metric_is_asked_for_one_output(parse):
    x = RANDOM.standard_normal((6, 4)).astype(np.float32)
    one, other = parse(TWO.format(0)), parse(TWO.format(0.5))
    samples = load_samples({"x": x}, one)

    def found(name):
        return compare_models(one, other, samples, name)

    near = {o.name: o.cosine for o in found("cosine").outputs}
    assert found("cosine:image_embeds").value_b == near["image_embeds"]
    assert found("cosine:logits").value_b == near["logits"]
    assert found("cosine:*").value_b == min(near.values())
    assert found(None).metric == "agreement" and found("cosine").cosine == near["logits"]
    assert [(o.kind, o.agreement is None) for o in found("cosine").outputs] == [("embedding", True), ("classes", False)]
    with pytest.raises(MetricError, match=r"has no output 'logit'; did you mean 'logits'\?"):
        found("cosine:logit")
    with pytest.raises(MetricError, match="2 outputs are meant, and it can score one"):
        found("r2:*")


def test_floats_as_labels_are_told_in_one_sentence(parse):
    model = parse("g (float[N,4] x) => (float[N,4] logits) { logits = Neg(x) }")
    data = {"x": RANDOM.standard_normal((6, 4)).astype(np.float32), "labels": RANDOM.random(6)}
    found = compare_models(model, model, load_samples(data, model))
    assert found.metric == "agreement"
    assert re.search(r"agreement compares .* float64 \[6\] are not what 'logits' \[6, 4\]", found.notes[0])
    single = parse("g (float[N,4] x) => (float[N,1] y) { y = ReduceMean<axes = [1]>(x) }")
    found = compare_models(single, single, load_samples(data, single))
    error = np.square(data["x"].mean(1) - data["labels"]).sum()
    assert found.metric == "r2"
    assert found.value_a == pytest.approx(1 - error / np.square(data["labels"] - data["labels"].mean()).sum(), rel=1e-5)


def test_the_users_own_by_name_and_for_each_sample(parse, tmp_path):
    (tmp_path / "own.py").write_text(
        "import numpy as np\n"
        "def near(reference, outputs): return -float(np.abs(reference['logits'] - outputs['logits']).max())\n"
        "def each(*, outputs, labels): return (outputs['logits'].argmax(1) == labels).astype(float)\n"
        "def placed(a, b, c): return float(len(a) == len(c) and b is not None)\n"
    )
    one, other = parse(TWO.format(0)), parse(TWO.format(0.5))
    x = RANDOM.standard_normal((6, 4)).astype(np.float32)
    labels = (-x).argmax(1)
    labels[0] = (labels[0] + 1) % 4
    samples = load_samples({"x": x, "labels": labels}, one)
    assert compare_models(one, other, samples, f"{tmp_path}/own.py:near").drop == pytest.approx(0.5)
    found = compare_models(one, other, samples, f"{tmp_path}/own.py:each")
    assert (found.value_a, found.drop, found.changed) == (pytest.approx(5 / 6), 0, (0, 0))
    assert compare_models(one, other, samples, f"{tmp_path}/own.py:placed").value_a == 1


def test_memory_stays_flat_over_many_samples():
    score = find_metric("r2").start()
    a = RANDOM.standard_normal((20_000, 1))
    b = a + 0.1 * RANDOM.standard_normal(a.shape)
    for start in range(0, len(a), 500):
        part = slice(start, start + 500)
        score.update({"y": b[part]}, {"y": a[part]}, Batch({}, None, 500))
    noise = 1 - np.square(a - b).sum() / np.square(a - a.mean()).sum()
    assert score.value() == pytest.approx(noise)
    losses = score.losses()
    assert len(losses) < 10_000
    ratio = np.square(a - b)[:, 0] - (1 - noise) * np.square(a - a.mean())[:, 0]  # the linear part of the statistic
    error = ratio.std() / math.sqrt(len(a)) / a.var()
    assert losses.std(ddof=1) / math.sqrt(len(losses)) == pytest.approx(error, rel=0.05)


def test_the_table_is_whole():
    for name, metric in METRICS.items():
        assert metric.name == name
        if metric.perfect is not None and metric.loss is not None:
            assert metric.drop(metric.perfect, metric.perfect) == 0


LINEAR = "g (float[N,4] x) => (float[N,4] {name}) {{ {name} = {op}(x) }}"
SEEN = """g (float[N,9,6] x) => (float[N,9,4] boxes, float[N,9,2] scores) <int64[2] parts = {4, 2}> {
    boxes, scores = Split<axis = 2>(x, parts) }"""
DEFAULTS = [
    # model, labels; the metric, and what is told of it
    (LINEAR.format(name="logits", op="Neg"), None, "agreement", "Metric: agreement, guessed since 'logits' looks"),
    (LINEAR.format(name="logits", op="Neg"), np.arange(6) % 4, "top1", ""),
    (LINEAR.format(name="y", op="Relu"), None, "cosine", "Metric: cosine, guessed since 'y' looks like an embedding"),
    (LINEAR.format(name="y", op="Softmax"), None, "agreement", ""),
    (LINEAR.format(name="y", op="Softmax"), np.array(["a"] * 6), "agreement", "agreement compares with"),
    (LINEAR.format(name="coords", op="Neg"), None, "r2", "Metric: r2, guessed since 'coords' looks like numbers"),
    (LINEAR.format(name="audio", op="Neg"), None, "cosine", "Metric: cosine, guessed since 'audio' looks like a sig"),
    (SEEN, None, "boxes", "Metric: boxes, guessed since 'boxes' looks like boxes"),
    (SEEN, np.zeros((6, 1, 5)), "boxes", "Metric: boxes, guessed"),
    (SEEN, np.zeros(6), "boxes", "Metric: boxes, guessed"),
    ("g (float[N,9,30] x) => (float[N,9,30] y) { y = Softmax(x) }", None, "text", "Metric: text, guessed since 'y'"),
    ("g (float[N,9,30] x) => (float[N,9,30] y) { y = Softmax(x) }", np.zeros((6, 3), int), "text", "Metric: text"),
    ("g (float[N,9,30] x) => (float[N,9,30] y) { y = Softmax(x) }", np.array(["a"] * 6), "text", "Metric: text"),
    ("g (float[N,3,5,5] x) => (float[N,3,5,5] y) { y = Softmax<axis = 1>(x) }", None, "iou", ""),
]  # fmt: skip


@pytest.mark.parametrize("case", DEFAULTS, ids=lambda case: f"{case[0][:60]} {case[2]}")
def test_the_metric_where_none_is_chosen(parse, case):
    text, labels, metric, note = case
    subject = parse(text)
    shape = [6, *(int(n) for n in re.findall(r"float\[N,([\d,]+)\] x", text)[0].split(","))]
    data = {"x": RANDOM.random(shape).astype(np.float32)} | ({} if labels is None else {"labels": labels})
    found = compare_models(subject, subject, load_samples(data, subject))
    assert found.metric == metric
    assert "; ".join(found.notes).startswith(note) if note else not found.notes
    assert found.drop == 0


CACHED = """g (int64[N,T] input_ids, float[N,P] past_key) => (float[N,T,8] logits, float[N,P] present_key)
    <float[8,8] table = {TABLE}> {
    e = Gather(table, input_ids) logits = Neg(e) present_key = Identity(past_key) }"""


def test_a_decoder_is_judged_by_the_next_tokens_where_there_are_any(parse):
    table = RANDOM.standard_normal((8, 8)).astype(np.float32)
    model = parse(CACHED.replace("TABLE", ", ".join(map(str, table.reshape(-1).tolist()))))
    ids, past = RANDOM.integers(0, 8, (5, 4)), np.zeros((5, 2), np.float32)
    found = compare_models(model, model, load_samples({"input_ids": ids, "past_key": past}, model))
    told = np.take_along_axis(log_softmax(-table[ids[:, :-1]].astype(float)), ids[:, 1:, None], -1)
    assert (found.metric, found.value_a) == ("perplexity", pytest.approx(np.exp(-told.mean()), rel=1e-5))
    assert {output.name: output.kind for output in found.outputs} == {"logits": "tokens", "present_key": "state"}
    one = compare_models(model, model, load_samples({"input_ids": ids[:, :1], "past_key": past}, model))
    assert one.metric == "agreement"  # nothing comes next
    assert compare_models(model, model, load_samples("random", model)).metric == "agreement"


def test_a_detector_that_finds_nothing_is_not_judged_by_boxes(parse):
    model = parse(SEEN)
    samples = load_samples({"x": np.zeros((4, 9, 6), np.float32)}, model)
    found = compare_models(model, model, samples)
    assert (found.metric, found.notes[0]) == (
        "cosine",
        "Metric: cosine, since the original finds nothing in the first samples",
    )
    with pytest.raises(MetricError, match="metric 'boxes': the original finds nothing in these samples"):
        compare_models(model, model, samples, "boxes")


PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


def test_the_page_names_every_metric_and_its_functions_work(parse, tmp_path):
    page = PAGE.read_text(encoding="utf-8")
    assert [name for name in METRICS if f"`{name}`" not in page] == []
    assert [kind for kind, (with_labels, _) in USUAL.items() if with_labels.split(":")[0] not in METRICS] == []
    (tmp_path / "own.py").write_text(re.findall(r"```python\n(.*?)```", page, re.S)[0])
    model = parse("g (float[N,4] x) => (float[N,4] embedding, float[N,4] y) { embedding = Neg(x) y = Tanh(x) }")
    x, labels = RANDOM.standard_normal((20, 4)).astype(np.float32), RANDOM.random(20)
    samples = load_samples({"x": x, "labels": labels}, model)
    first, second = np.split(x.astype(float), 2)
    cosines = (first * second).sum(1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)
    found = compare_models(model, model, samples, f"{tmp_path}/own.py:spearman")
    assert found.value_a == pytest.approx(scipy.stats.spearmanr(cosines, labels[:10]).statistic)
    assert compare_models(model, model, samples, f"{tmp_path}/own.py:within_a_tenth").value_b == 1
