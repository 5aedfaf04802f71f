"""`Quantize(coverage="all")`: every operator with an integer kernel, and what must stay in float all the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from corpus import convolutions, transformers
from corpus.oracle import drawn_feeds, plain_run
from corpus.text import model

from onnxcompress import apply, lint
from onnxcompress.contract import Changes
from onnxcompress.passes import Quantize
from onnxcompress.passes.quantize.prepare.prepare import FORMS, prepare
from onnxcompress.passes.quantize.shared import scales
from onnxcompress.targets import load_target, quantize_options

Feeds = dict[str, np.ndarray]
Quantizer = Callable[..., tuple[ir.Model, Changes]]
Kernels = Callable[[Any], Counter[str]]
Halves = Callable[[np.ndarray], float]


def half_step(values: np.ndarray) -> float:
    """Return the most by which 8 bits over the range of values, and 0, change one of them."""
    return float(max(values.max(), 0) - min(values.min(), 0)) / 255 / 2


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def image() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)


# Body → the kernel, and how far off the output may be before it is rounded itself, from the error of what is read.
ALONE: dict[str, tuple[str, Callable[[np.ndarray, Halves], float]]] = {
    "t = Tanh(x) y = Add(t, x)": ("QLinearAdd", lambda x, e: e(np.tanh(x)) + e(x)),
    "t = Tanh(x) y = Mul(t, x)": (
        "QLinearMul",
        lambda x, e: e(x) * (1 + e(np.tanh(x))) + e(np.tanh(x)) * float(np.abs(x).max()),
    ),
    "y = Mul(x, c)": ("QLinearMul", lambda x, e: 2.5 * e(x) * 1.001),
    "y = Sigmoid(x)": ("QLinearSigmoid", lambda x, e: e(x) / 4),
    "y = LeakyRelu(x)": ("QLinearLeakyRelu", lambda x, e: e(x)),
    "t = Tanh(x) y = Concat<axis = 1>(t, x)": ("QLinearConcat", lambda x, e: e(x)),
    "y = AveragePool<kernel_shape = [2, 2], strides = [2, 2]>(x)": ("QLinearAveragePool", lambda x, e: e(x)),
    "y = GlobalAveragePool(x)": ("QLinearGlobalAveragePool", lambda x, e: e(x)),
    "t = Tanh(x) g = Greater(x, t) y = Where(g, t, x)": ("QLinearWhere", lambda x, e: e(x)),
}


@pytest.mark.parametrize("body", ALONE)
def test_an_operator_alone_among_floats(body: str, quantized: Quantizer, kernels: Kernels) -> None:
    kernel, error = ALONE[body]
    subject = model(f"g (float[N,3,8,8] x) => (float[N,C,H,V] y) {{ {body} }}", {"c": np.array(2.5, np.float32)})
    feeds = {"x": image()}
    assert kernels(quantized(subject, feeds)[0])[kernel] == 0
    result, changes = quantized(subject, feeds, coverage="all")
    assert kernels(result)[kernel] == 1
    assert not changes.refused
    before, after = plain_run(subject, feeds)["y"], plain_run(result, feeds)["y"]
    allowed = error(feeds["x"].astype(np.float64), half_step) + half_step(before)
    assert 0 < np.abs(before - after).max() <= 1.02 * allowed + 1e-6
    assert not [f for f in lint(result, "onnxruntime-cpu").findings if f.rule != "stray"]


@pytest.mark.parametrize("activations", ["uint8", "int8"])
@pytest.mark.parametrize("width", [1.0, 6.0])
def test_a_softmax(width: float, activations: str, quantized: Quantizer, kernels: Kernels) -> None:
    """An error of e in what it reads multiplies a probability by at most exp(2e); one step is 1/256 or 1/255."""
    subject = model("g (float[N,10] x) => (float[N,10] y) { y = Softmax(x) }", {})
    feeds = {"x": (width * np.random.default_rng(0).normal(size=(64, 10))).astype(np.float32)}
    assert kernels(quantized(subject, feeds, activations=activations)[0])["QLinearSoftmax"] == 0
    result, _ = quantized(subject, feeds, activations=activations, coverage="all")
    assert kernels(result)["QLinearSoftmax"] == 1
    before, after = plain_run(subject, feeds)["y"], plain_run(result, feeds)["y"]
    assert before.max() > 0.5
    allowed = before * np.expm1(2 * half_step(feeds["x"])) + 1 / 256
    assert (np.abs(before - after) <= allowed + 1e-6).all()


@pytest.mark.parametrize("grid", [scales.UINT8, scales.INT8, scales.UINT16])
@pytest.mark.parametrize("symmetric", [False, True])
def test_probabilities_fit(grid: scales.Grid, symmetric: bool) -> None:
    scale, zero_point = scales.probabilities(grid, symmetric=symmetric)
    top = (grid.high - zero_point) * float(scale)
    assert 1 - 1 / 256 <= top <= 1
    assert grid.low <= zero_point <= grid.high
    # What onnxruntime's kernel multiplies by is no less than what the scale says, and a 1 does not carry over.
    assert np.floor(np.float32(1) / scale) * float(scale) == pytest.approx(1, abs=1e-6)
    assert grid is scales.UINT8 or zero_point + np.floor(np.float32(1) / scale) <= grid.high


ATTENTION = """g (float[N,S,16] x{input}) => (float[N,S,16] y) {{
    q = MatMul(x, wq) qb = Add(q, bq) k = MatMul(x, wk) v = MatMul(x, wv) t = Transpose<perm = [0, 2, 1]>(k)
    s = MatMul(qb, t) z = Mul(s, c) {masked} p = Softmax<axis = -1>(z2) a = MatMul(p, v)
    o = MatMul(a, wo) r = Add(o, x) y = Tanh(r) }}"""
WEIGHTS: dict[str, Any] = dict.fromkeys(("wq", "wk", "wv", "wo"), (16, 16)) | {
    "bq": (16,),
    "c": np.array(2.0, np.float32),
    "one": np.array(1, np.float32),
    "most": np.array(-10000, np.float32),
    "zero": np.array(0, np.float32),
    "infinity": np.array(-np.inf, np.float32),
}


def tokens(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(4, 6, 16)).astype(np.float32)


def snr(a: np.ndarray, b: np.ndarray) -> float:
    noise = np.square(a.astype(np.float64) - b).mean()
    return float(10 * np.log10(np.square(a.astype(np.float64)).mean() / max(noise, 1e-30)))


def test_attention_has_nothing_left_in_float(quantized: Quantizer, kernels: Kernels) -> None:
    subject, feeds = model(ATTENTION.format(input="", masked="z2 = Identity(z)"), WEIGHTS), {"x": tokens()}
    few = kernels(quantized(subject, feeds)[0])
    assert (few["Softmax"], few["Add"], few["QLinearSoftmax"]) == (1, 2, 0)
    result, changes = quantized(subject, feeds, coverage="all")
    found = kernels(result)
    expected = {"QLinearMatMul": 6, "QLinearAdd": 2, "QLinearMul": 1, "QLinearSoftmax": 1, "Tanh": 1}
    assert {
        op: n for op, n in found.items() if op not in ("QuantizeLinear", "DequantizeLinear", "Transpose")
    } == expected
    assert found["QuantizeLinear"] == found["DequantizeLinear"] == 1
    assert not changes.refused
    assert snr(plain_run(subject, feeds)["y"], plain_run(result, feeds)["y"]) > 20
    assert not lint(result, "onnxruntime-cpu").findings


MASKED = "d = Sub(one, mask) m = Mul(d, most) z2 = Add(z, m)"


@pytest.mark.parametrize("seen", [True, False])
def test_a_mask_works_whether_samples_had_it_or_not(seen: bool, quantized: Quantizer, kernels: Kernels) -> None:
    subject = model(ATTENTION.format(input=", float[N,1,S] mask", masked=MASKED), WEIGHTS)
    mask = np.ones((4, 1, 6), np.float32)
    masked = {"x": tokens(), "mask": mask.copy()}
    masked["mask"][:, :, 4:] = 0
    open_ = {"x": tokens(), "mask": mask}
    # Fewer tokens share what is attended to, so that it is larger; without masks, larger inputs show that range.
    wider = [{"x": tokens(seed) * np.float32(1.5), "mask": mask} for seed in range(8)]
    result, _ = quantized(subject, [open_, masked] if seen else wider, coverage="all")
    assert kernels(result)["QLinearSoftmax"] == 1
    for feeds in (open_, masked):
        assert snr(plain_run(subject, feeds)["y"], plain_run(result, feeds)["y"]) > 20
    # What is masked must not matter: other tokens in its place change nothing but themselves.
    other = {"x": masked["x"].copy(), "mask": masked["mask"]}
    other["x"][:, 4:] *= -1
    first, second = (plain_run(result, feeds)["y"][:, :4] for feeds in (masked, other))
    assert np.abs(first - second).max() < 0.05
    assert np.abs(plain_run(result, open_)["y"][:, :4] - first).max() > 0.3


@pytest.mark.parametrize(
    ("masked", "left", "reason"),
    [
        (
            "g2 = Greater(mask, zero) m = Where(g2, zero, infinity) z2 = Add(z, m)",
            {"Add": 1, "Softmax": 1},
            "a tensor of its may hold infinity",
        ),
        ("g2 = Greater(mask, zero) z2 = Where(g2, z, infinity)", {"Where": 1, "Softmax": 1}, "may hold infinity"),
        ("g2 = Greater(mask, zero) z2 = Where(g2, z, most)", {"Where": 1, "Softmax": 1}, "spans too wide a range"),
        ("d = Sub(mask, one) m = Mul(d, z) n = Mul(m, most) z2 = Add(n, z)", {"Softmax": 1}, "spans too wide a range"),
    ],
)
def test_masks_that_8_bits_do_not_hold_stay_float(
    masked: str, left: dict[str, int], reason: str, quantized: Quantizer, kernels: Kernels
) -> None:
    subject = model(ATTENTION.format(input=", float[N,1,S] mask", masked=masked), WEIGHTS)
    feeds = {"x": tokens(), "mask": (np.arange(6) < 4).astype(np.float32) * np.ones((4, 1, 1), np.float32)}
    result, changes = quantized(subject, feeds, coverage="all")
    found = kernels(result)
    assert {op: found[op] for op in left} == left
    assert reason in "".join(r.reason for r in changes.refused if "Softmax" in r.subject)
    assert found["QLinearMatMul"] + found["MatMulIntegerToFloat"] == 6
    assert snr(plain_run(subject, feeds)["y"], plain_run(result, feeds)["y"]) > 20


def test_a_normalisation_that_is_written_out_stays_float(quantized: Quantizer, kernels: Kernels) -> None:
    subject = model(
        """g (float[N,S,16] x) => (float[N,S,16] y) {
            a = MatMul(x, w) r = Add(a, x) m = ReduceMean<keepdims = 1>(r, last) d = Sub(r, m) q = Pow(d, two)
            v = ReduceMean<keepdims = 1>(q, last) e = Add(v, eps) s = Sqrt(e) n = Div(d, s) h = Mul(n, gamma)
            l = Add(h, beta) y = MatMul(l, w) }""",
        {
            "w": (16, 16),
            "gamma": (16,),
            "beta": (16,),
            "last": np.array([-1]),
            "two": np.array(2, np.float32),
            "eps": np.array(1e-5, np.float32),
        },
    )
    feeds = {"x": tokens() * np.logspace(-2, 0, 6, dtype=np.float32)[:, None]}
    result, changes = quantized(subject, feeds, coverage="all")
    assert kernels(result)["QLinearAdd"] == 1  # the residual, and neither ε nor β
    assert sorted(r.subject.split("(")[1] for r in changes.refused) == ["Add)", "Add)", "Mul)"]
    assert all("normalisation that is written out" in r.reason for r in changes.refused)


@pytest.mark.parametrize(("op", "left"), [("Mul", 1), ("Div", 0)])  # there is no integer Div, so that it is folded
def test_a_factor_is_no_operator_unless_all_are(op: str, left: int, quantized: Quantizer, kernels: Kernels) -> None:
    """Folded into a scale it costs nothing; by itself, all pairs have the same scale on both sides."""
    subject = model(
        "g (float[N,3,8,8] x) => (float[N,3,8,8] y) { s = MatMul(x, x) m = " + op + "(s, f) y = Add(m, x) }",
        {"f": np.array(3, np.float32)},
    )
    feeds = {"x": image()}
    assert kernels(quantized(subject, feeds)[0])["QLinearMul"] == 0
    result, _ = quantized(subject, feeds, coverage="all")
    found = kernels(result)
    assert (found["QLinearMatMul"], found["QLinearMul"], found["Div"]) == (1, left, 0)
    assert snr(plain_run(subject, feeds)["y"], plain_run(result, feeds)["y"]) > 30


def test_what_is_excluded_stays_float(quantized: Quantizer, kernels: Kernels) -> None:
    subject = model("g (float[N,10] x) => (float[N,10] y) { [soft] p = Softmax(x) y = Add(p, x) }", {})
    feeds = {"x": np.random.default_rng(0).normal(size=(8, 10)).astype(np.float32)}
    result, changes = quantized(subject, feeds, coverage="all", exclude=("soft",))
    assert (kernels(result)["Softmax"], kernels(result)["QLinearAdd"]) == (1, 1)
    assert [r.subject for r in changes.refused] == ["soft (Softmax)"]


def test_relu_and_clip_by_themselves_where_the_target_has_them(quantized: Quantizer) -> None:
    subject = model("g (float[N,10] x) => (float[N,10] y) { r = Relu(x) t = Tanh(r) a = Add(t, x) y = Relu(a) }", {})
    feeds = {"x": np.random.default_rng(0).normal(size=(8, 10)).astype(np.float32)}
    result, changes = quantized(subject, feeds, coverage="all", target="qnn")
    assert {c.subject for c in changes.done if c.what == "computes on integers"} == {"r (Relu)", "t (Tanh)", "a (Add)"}
    assert not lint(result, "qnn").findings
    before, after = plain_run(subject, feeds)["y"], plain_run(result, feeds)["y"]
    x, t = feeds["x"], np.tanh(np.maximum(feeds["x"], 0))
    allowed = 2 * half_step(x) + half_step(np.maximum(x, 0)) + half_step(t) + half_step(before)
    assert np.abs(before - after).max() <= 1.02 * allowed


@pytest.mark.parametrize("make", [convolutions.squeeze_excitation, transformers.encoder], ids=lambda m: m.__name__)
@pytest.mark.parametrize("target", ["onnxruntime-cpu", "qnn", "xnnpack", "npu-power-of-two", "tensorrt"])
def test_targets_take_what_covers_all_of_theirs(target: str, make: Callable[[], ir.Model]) -> None:
    subject = make()
    feeds = drawn_feeds(subject)
    layers, every = (
        apply(subject, [Quantize(target=target, coverage=coverage, correct=False, rounding="nearest")], data=feeds)[0]
        for coverage in ("layers", "all")
    )
    assert lint(every, target).rejected == []
    left = [sum(f.effect == "float" for f in lint(found, target).findings) for found in (layers, every)]
    assert left[1] <= left[0]


@pytest.mark.parametrize(
    "make",
    [convolutions.squeeze_excitation, convolutions.residual_batch_norm, transformers.encoder],
    ids=lambda m: m.__name__,
)
def test_as_many_integer_kernels_as_from_onnxruntime(
    make: Callable[[], ir.Model], quantized: Quantizer, kernels: Kernels, tmp_path: Path
) -> None:
    tool = pytest.importorskip("onnxruntime.quantization")
    subject = make()
    feeds = drawn_feeds(subject)
    prepare(subject, FORMS["quantize"].at(17))  # what was folded away is no operator any more, for either
    onnx.save(ir.to_proto(subject), tmp_path / "float.onnx")
    reader = tool.CalibrationDataReader
    samples = type(
        "Reader", (reader,), {"left": [feeds], "get_next": lambda self: self.left.pop() if self.left else None}
    )
    tool.quantize_static(
        tmp_path / "float.onnx",
        tmp_path / "theirs.onnx",
        samples(),
        quant_format=tool.QuantFormat.QDQ,
        per_channel=True,
        activation_type=tool.QuantType.QUInt8,
        weight_type=tool.QuantType.QInt8,
    )

    def count(found: Counter[str]) -> int:
        return sum(n for op, n in found.items() if op.startswith(("QLinear", "QGemm", "MatMulInteger")))

    ours = count(kernels(quantized(subject, feeds, coverage="all")[0]))
    assert ours >= count(kernels(tmp_path / "theirs.onnx")) > 3


def test_a_target_without_floats_covers_all_by_itself(quantized: Quantizer) -> None:
    assert quantize_options(load_target("npu-power-of-two"))["coverage"] == "all"
    assert quantize_options(load_target("onnxruntime-cpu"))["coverage"] == "layers"
    subject = model("g (float[N,10] x) => (float[N,10] y) { t = Tanh(x) y = Add(t, x) }", {})
    feeds = {"x": np.random.default_rng(0).normal(size=(8, 10)).astype(np.float32)}
    kinds = {
        coverage: [n.op_type for n in quantized(subject, feeds, target="npu-power-of-two", coverage=coverage)[0].graph]
        for coverage in (None, "layers")
    }
    assert kinds[None].count("QuantizeLinear") == 3
    assert kinds["layers"].count("QuantizeLinear") == 0
