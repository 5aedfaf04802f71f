"""Each loss against its formula in numpy, and its gradient against finite differences of that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, log_softmax, softmax

from onnxcompress.graph.output_kinds import Tensor
from onnxcompress.passes.distill.objectives.losses import FEATURE_LOSSES, OUTPUT_LOSSES
from onnxcompress.passes.distill.objectives.rows import teacher_input
from onnxcompress.passes.distill.objectives.tensors import Output
from onnxcompress.training import CrossEntropy, Loss
from onnxcompress.training.engines import ENGINES
from onnxcompress.training.loss import LABELS
from onnxcompress.training.objective import LOSS, SCORE, build_objective

Formula = Callable[..., float]


def student_of(shape: tuple[int, ...]) -> ir.Model:
    """A model whose output is its only weight, so that the gradient of that is the one of the output."""
    dims = ",".join(map(str, shape))
    rest = ",".join(["batch", *(f"d{axis}" for axis in range(1, len(shape)))])
    proto = onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["" : 17]>
    net (float[{rest}] x, int64[batch,positions] attention_mask) => (float[{dims}] y) {{ y = Add(x, w) }}""")
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(shape, np.float32), "w"))
    return ir.from_proto(proto)


@dataclass
class Case:
    shape: tuple[int, ...]
    loss: Loss
    formula: Formula
    score: Formula | None = None
    their_shape: tuple[int, ...] = ()
    fed: dict[str, np.ndarray] = field(default_factory=dict)
    scale: float = 1.0


def run(case: Case, student: np.ndarray, fed: dict[str, np.ndarray]) -> tuple[float, float, dict[str, np.ndarray]]:
    model = student_of(case.shape)
    objective = build_objective(model, case.loss, samples={"x": student}, engine=ENGINES["onnxruntime"])
    session = onnxruntime.InferenceSession(objective.proto.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {"x": np.zeros_like(student), "w": student} | case.loss.parameters() | fed
    feeds = {each.name: feeds[each.name] for each in session.get_inputs()}
    names = [each.name for each in session.get_outputs()]
    found = dict(zip(names, session.run(names, feeds), strict=True))
    loss, score = float(found.pop(LOSS)), float(found.pop(SCORE))
    return loss, score, dict(zip(objective.weights, found.values(), strict=True))


def differences(function: Callable[[np.ndarray], float], at: np.ndarray) -> np.ndarray:
    at, found = at.astype(np.float64), np.zeros(at.shape)
    for index in np.ndindex(*at.shape):
        kept, ends = at[index], []
        for step in (1e-5, -1e-5):
            at[index] = kept + step
            ends.append(function(at))
        at[index] = kept
        found[index] = (ends[0] - ends[1]) / 2e-5
    return found


def check(case: Case, seed: int) -> None:
    random = np.random.default_rng(seed)
    student = (case.scale * random.standard_normal(case.shape)).astype(np.float32)
    teacher = (case.scale * random.standard_normal(case.their_shape or case.shape)).astype(np.float32)
    mask = np.zeros((*case.shape, 1)[:2], np.int64)
    for row, length in enumerate(random.integers(1, mask.shape[1] + 1, len(mask))):
        mask[row, :length] = 1
    fed = dict.fromkeys(case.loss.teacher, teacher) | {"attention_mask": mask} | case.fed
    loss, score, gradients = run(case, student, fed)
    weights = {name: array.astype(np.float64) for name, array in case.loss.parameters().items()}
    given = {"t": teacher.astype(np.float64), "mask": mask.astype(np.float64), "labels": case.fed.get(LABELS)}
    assert loss == pytest.approx(
        case.formula(student.astype(np.float64), *weights.values(), **given), rel=2e-4, abs=1e-6
    )
    if case.score is not None:
        assert score == pytest.approx(case.score(student.astype(np.float64), **given), rel=1e-4, abs=1e-6)
    arrays = {"w": student.astype(np.float64), **weights}
    assert set(gradients) == set(arrays)
    for name in arrays:

        def at(array: np.ndarray, name: str = name) -> float:
            return case.formula(*(arrays | {name: array}).values(), **given)

        expected = differences(at, arrays[name])
        assert np.abs(expected).max() > 0
        np.testing.assert_allclose(
            gradients[name], expected, rtol=2e-3, atol=2e-4 * np.abs(expected).max(), err_msg=name
        )


def rows_of(array: np.ndarray, axis: int) -> np.ndarray:
    return np.moveaxis(array, axis, -1).reshape(-1, array.shape[axis])


def kept(rows: np.ndarray, mask: np.ndarray, masked: bool) -> np.ndarray:
    return rows[mask.ravel() > 0] if masked else rows


def kl(s, t, temperature):
    log_p, log_q = log_softmax(t / temperature, 1), log_softmax(s / temperature, 1)
    return temperature**2 * (np.exp(log_p) * (log_p - log_q)).sum(1).mean()


def binary_kl(s, t, temperature):
    p, q = expit(t / temperature), expit(s / temperature)
    return temperature**2 * (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).mean()


def dkd(s, t, temperature, beta, target):
    total = 0.0
    for one, other, right in zip(s / temperature, t / temperature, target, strict=True):
        p, q = softmax(other), softmax(one)
        pt, qt = p[right], q[right]
        total += pt * np.log(pt / qt) + (1 - pt) * np.log((1 - pt) / (1 - qt))
        p, q = np.delete(p, right) / (1 - pt), np.delete(q, right) / (1 - qt)
        total += beta * (p * np.log(p / q)).sum()
    return temperature**2 * total / len(s)


def dist(s, t):
    q, p = softmax(s, 1), softmax(t, 1)
    within = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(q, p, strict=True)])
    over = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(q.T, p.T, strict=True)])
    return (1 - within) + (1 - over)


def mse(s, t):
    return ((s - t) ** 2).mean() / t.var()


def huber(s, t):
    d = np.abs(s - t) / t.std()
    return np.where(d <= 1, d**2 / 2, d - 0.5).mean()


def cosine(s, t):
    return 1 - mean_cosine(s, t)


def mean_cosine(s, t):
    return np.mean([a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(s, t, strict=True)])


SCORES = {
    "classes": lambda s, t: (s.argmax(1) == t.argmax(1)).mean(),
    "binary": lambda s, t: ((s > 0) == (t > 0)).mean(),
    "embedding": mean_cosine,
    "values": lambda s, t: 1 - np.linalg.norm(s - t) / np.linalg.norm(t),
}
LAYOUTS = [
    ((6, 5), 1, False),
    ((3, 4, 5), 2, False),
    ((3, 4, 5), 2, True),
    ((2, 4, 3, 2), 1, False),
    ((3, 4, 2), 1, False),
]
FORMULAS = {
    ("kl", "classes"): (lambda s, t, _: kl(s, t, 3.0), {"temperature": 3.0}),
    ("kl", "binary"): (lambda s, t, _: binary_kl(s, t, 2.0), {"temperature": 2.0}),
    ("dkd", "classes"): (lambda s, t, _: dkd(s, t, 2.0, 3.0, t.argmax(1)), {"temperature": 2.0, "beta": 3.0}),
    ("dist", "classes"): (lambda s, t, _: dist(s, t), {}),
    ("mse", "values"): (lambda s, t, _: mse(s, t), {}),
    ("mse", "classes"): (lambda s, t, _: mse(s, t), {}),
    ("huber", "values"): (lambda s, t, _: huber(s, t), {}),
    ("cosine", "embedding"): (lambda s, t, _: cosine(s, t), {}),
}


@pytest.mark.parametrize("name", FORMULAS, ids="-".join)
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("seed", [0, 1])
def test_losses_between_outputs(name: tuple[str, str], layout: tuple, seed: int) -> None:
    (loss, kind), (shape, axis, masked) = name, layout
    tensor = Tensor("y", shape, axis)
    output = Output("y", kind, tensor, tensor, "", "attention_mask" if masked else "")  # type: ignore[arg-type]
    formula, options = FORMULAS[name]

    def rows(s, t, mask):
        return [kept(rows_of(array, axis), mask, masked) for array in (s, t)]

    case = Case(
        shape,
        OUTPUT_LOSSES[loss](output, **options),
        lambda s, t, mask, labels: formula(*rows(s, t, mask), labels),
        lambda s, t, mask, labels: SCORES[kind](*rows(s, t, mask)),
        scale=2.0,
    )
    check(case, seed)


@st.composite
def layouts(draw: st.DrawFn) -> tuple[tuple[int, ...], int]:
    shape = tuple(draw(st.lists(st.integers(2, 5), min_size=2, max_size=5)))
    return shape, draw(st.integers(1, len(shape) - 1))


@settings(max_examples=25, deadline=None)
@given(layouts(), st.sampled_from(list(FORMULAS)), st.integers(0, 99))
def test_values_for_any_shape_and_axis(layout: tuple, name: tuple[str, str], seed: int) -> None:
    (loss, kind), (shape, axis), random = name, layout, np.random.default_rng(seed)
    tensor = Tensor("y", shape, axis)
    made = OUTPUT_LOSSES[loss](Output("y", kind, tensor, tensor, ""), **FORMULAS[name][1])  # type: ignore[arg-type]
    student, teacher = (2 * random.standard_normal(shape).astype(np.float32) for _ in range(2))
    fed = dict.fromkeys(made.teacher, teacher) | {"attention_mask": np.ones(shape[:2], np.int64)}
    value, score, _ = run(Case(shape, made, FORMULAS[name][0]), student, fed)
    s, t = (rows_of(array.astype(np.float64), axis) for array in (student, teacher))
    # Of two classes the correlation is 1 or -1, and what float32 makes of one minus it is rounding.
    assert value == pytest.approx(FORMULAS[name][0](s, t, None), rel=1e-3, abs=2e-4)
    assert score == pytest.approx(SCORES[kind](s, t), rel=1e-3, abs=2e-4)


@pytest.mark.parametrize("name", [("kl", "binary"), ("mse", "values"), ("huber", "values")], ids="-".join)
def test_one_number_for_each_sample(name: tuple[str, str]) -> None:
    tensor = Tensor("y", (6,), 0)
    formula, options = FORMULAS[name]
    made = OUTPUT_LOSSES[name[0]](Output("y", name[1], tensor, tensor, ""), **options)  # type: ignore[arg-type]
    score = SCORES[name[1]]
    check(Case((6,), made, lambda s, t, **_: formula(s, t, None), lambda s, t, **_: score(s, t)), 0)


def test_another_layout_of_the_teacher() -> None:
    """Classes on axis 1 of an image of one pixel are those of a vector."""
    output = Output("y", "classes", Tensor("y", (6, 5), 1), Tensor("z", (6, 5, 1, 1), 1), "")
    case = Case(
        (6, 5), OUTPUT_LOSSES["kl"](output), lambda s, t, **_: kl(s, t[..., 0, 0], 4.0), their_shape=(6, 5, 1, 1)
    )
    check(case, 0)


@pytest.mark.parametrize("shape", [(6, 5), (3, 4, 5)])
def test_decoupled_losses_take_labels_where_there_are_any(shape: tuple[int, ...]) -> None:
    tensor = Tensor("y", shape, -1)
    output = Output("y", "classes", tensor, tensor, "")
    labels = np.random.default_rng(3).integers(0, 5, shape[:-1])
    if len(shape) > 2:
        labels[1, 2] = -1  # the teacher's class is the target

    def formula(s, t, labels, **_):
        s, t = rows_of(s, -1), rows_of(t, -1)
        target = np.where(labels.ravel() < 0, t.argmax(1), labels.ravel())
        return dkd(s, t, 4.0, 8.0, target)

    loss = OUTPUT_LOSSES["dkd"](output, labels=CrossEntropy(labels, "y"))  # type: ignore[call-arg]
    check(Case(shape, loss, formula, fed={LABELS: labels}), 0)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_without_padding(smoothing: float) -> None:
    labels = np.random.default_rng(3).integers(0, 5, (3, 4))

    def formula(s, t, mask, labels):
        log_p = log_softmax(s, 2)
        hard = -np.take_along_axis(log_p, labels[..., None], 2)[..., 0]
        each = (1 - smoothing) * hard - smoothing * log_p.mean(2)
        return each[mask > 0].mean()

    def accuracy(s, t, mask, labels):
        return (s.argmax(2) == labels)[mask > 0].mean()

    check(
        Case(
            (3, 4, 5),
            CrossEntropy(labels, "y", 2, smoothing, "attention_mask"),
            formula,
            accuracy,
            fed={LABELS: labels},
        ),
        0,
    )


def pool(array: np.ndarray, height: int, width: int) -> np.ndarray:
    n, c, h, w = array.shape
    return array.reshape(n, c, height, h // height, width, w // width).mean((3, 5))


def convolved(s: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    reach = weight.shape[-1] // 2
    padded = np.pad(s, ((0, 0), (0, 0), (reach, reach), (reach, reach)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, weight.shape[2:], (2, 3))
    return np.einsum("ncyxij,ocij->noyx", windows, weight) + bias[:, None, None]


def attention(s, t):
    found = []
    for a in (s, t):
        flat = a.reshape(len(a), -1)
        found.append(flat / np.linalg.norm(flat, axis=1, keepdims=True))
    return 0.5 * ((found[0] - found[1]) ** 2).sum(1).mean()


def hidden_cosine(s, t, ratio=1):
    s, t = s.reshape(len(s), -1), t.reshape(len(t), -1)
    return cosine(s, t.reshape(len(t), -1, ratio).mean(2))


def strength(array: np.ndarray) -> np.ndarray:
    return (array**2).sum(1, keepdims=True)


def masked_mse(s, t, mask):
    return mse(s[mask > 0], t[mask > 0])


IMAGE, LARGER, TOKENS, WIDER = (2, 3, 2, 4), (2, 5, 4, 4), (3, 4, 2), (3, 4, 5)
FEATURES = {
    "fitnets-same-width": ("fitnets", IMAGE, 1, IMAGE, lambda s, t, **_: mse(s, t) / 2),
    "fitnets-pooled-and-projected": (
        "fitnets", IMAGE, 1, LARGER, lambda s, w, b, t, **_: mse(convolved(s, w, b), pool(t, 2, 4)) / 2,
    ),
    "fitnets-tokens": ("fitnets", TOKENS, 2, WIDER, lambda s, w, b, t, mask, **_: masked_mse(s @ w + b, t, mask) / 2),
    "fitnets-vectors": ("fitnets", (4, 3), 1, (4, 5), lambda s, w, b, t, **_: mse(s @ w + b, t) / 2),
    "regressor": ("regressor", IMAGE, 1, (2, 5, 2, 4), lambda s, w, b, t, **_: mse(convolved(s, w, b), t)),
    "attention": ("attention", IMAGE, 1, LARGER, lambda s, t, **_: attention(strength(s), pool(strength(t), 2, 4))),
    "attention-tokens": (
        "attention", TOKENS, 2, WIDER, lambda s, t, mask, **_: attention((s**2).sum(2) * mask, (t**2).sum(2) * mask),
    ),
    "hidden-cosine": ("hidden-cosine", IMAGE, 1, (2, 6, 4, 2), lambda s, t, **_: hidden_cosine(s, t, 2)),
    "hidden-cosine-tokens": (
        "hidden-cosine", TOKENS, 2, TOKENS,
        lambda s, t, mask, **_: hidden_cosine(s * mask[..., None], t * mask[..., None]),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FEATURES)
@pytest.mark.parametrize("seed", [0, 1])
def test_losses_between_features(name: str, seed: int) -> None:
    loss, shape, axis, their_shape, formula = FEATURES[name]
    mask = "attention_mask" if "tokens" in name else ""
    made = FEATURE_LOSSES[loss](Tensor("y", shape, axis), Tensor("z", their_shape, axis), mask, seed)
    assert made.why_not() == ""
    assert made.teacher == {teacher_input(Tensor("z", their_shape, axis)): "z"}
    check(Case(shape, made, formula, their_shape=their_shape), seed)


@pytest.mark.parametrize(
    ("loss", "mine", "its", "reason"),
    [
        ("fitnets", (2, 3, 4, 4), (2, 3, 5, 5), "whole multiple"),
        ("fitnets", (2, 3, 4, 4), (2, 16, 3), "same axes"),
        ("attention", (2, 3), (2, 3), "no positions"),
        ("hidden-cosine", (2, 3), (2, 4), "3 and 4 numbers"),
    ],
)
def test_features_that_do_not_fit(loss: str, mine: tuple[int, ...], its: tuple[int, ...], reason: str) -> None:
    tensors = (
        Tensor(name, shape, 1 if len(shape) > 3 else len(shape) - 1) for name, shape in (("y", mine), ("z", its))
    )
    assert reason in FEATURE_LOSSES[loss](*tensors).why_not()
