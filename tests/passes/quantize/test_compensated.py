"""`rounding="gptq"` in graphs: layers come nearer to what they computed, and what cannot be reached is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from corpus.oracle import plain_run
from corpus.text import model

from onnxcompress.contract import Changes, Context
from onnxcompress.graph.load import load
from onnxcompress.passes import QuantizeWeights
from onnxcompress.passes.quantize.quantize_weights import WeightPlan
from onnxcompress.samples.samples import load_samples

Feeds = dict[str, np.ndarray]


def correlated(*shape: int, seed: int = 0) -> np.ndarray:
    """Data whose channels (axis 1) hang together, and neighbours in images."""
    random = np.random.default_rng(seed)
    channels = shape[1]
    mix = random.normal(size=(channels, max(channels // 3, 1))) @ random.normal(size=(max(channels // 3, 1), channels))
    plain = random.normal(size=shape)
    for axis in range(2, len(shape)):
        plain += np.roll(plain, 1, axis)
    mixed = np.einsum("nc...,cd->nd...", plain, mix / np.sqrt(channels))
    return (mixed + 0.1 * random.normal(size=shape)).astype(np.float32)


def stored(subject: ir.Model, feeds: Feeds, **options: Any) -> tuple[ir.Model, Changes]:
    step = QuantizeWeights(minimum_size=16, **options)
    before = ir.to_proto(subject).SerializeToString(deterministic=True)
    plan, result = step.plan(subject, Context(subject, samples=load_samples(feeds, subject))), subject.clone()
    changes = step.apply(result, WeightPlan.from_json(plan.to_json()))
    assert ir.to_proto(subject).SerializeToString(deterministic=True) == before
    return result, changes


CASES: dict[str, tuple[str, tuple[int, ...], dict[str, Any]]] = {
    "matmul": ("y = MatMul(x, w)", (400, 32), {"w": (32, 24)}),
    "gemm": ("y = Gemm<transB = 1>(x, w, b)", (400, 32), {"w": (24, 32), "b": (24,)}),
    "turned": ("t = Transpose<perm = [1, 0]>(x) y = Gemm<transA = 1>(t, w)", (400, 32), {"w": (32, 24)}),
    "conv": ("y = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(x, w)", (30, 16, 9, 9), {"w": (24, 16, 3, 3)}),
    "grouped": ("y = Conv<group = 4, dilations = [2, 1]>(x, w)", (30, 16, 9, 9), {"w": (24, 4, 3, 3)}),
    "depthwise": ('y = Conv<group = 16, auto_pad = "SAME_UPPER">(x, w)', (30, 16, 9, 9), {"w": (16, 1, 3, 3)}),
    "signal": ("y = Conv(x, w)", (60, 16, 20), {"w": (24, 16, 3)}),
    "deep": ("a = MatMul(x, w) r = Relu(a) y = MatMul(r, v)", (400, 32), {"w": (32, 48), "v": (48, 24)}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    "options",
    [{"dtype": "int4", "granularity": "channel"}, {"dtype": "uint4", "calibration": "mse", "granularity": "channel"}],
    ids=str,
)
def test_outputs_are_nearer_than_with_nearest_rounding(case: str, options: dict[str, Any]) -> None:
    body, shape, weights = CASES[case]
    sizes = ",".join(["N", *map(str, shape[1:])])
    rank = ",".join("ABCD"[: len(shape)])
    subject = model(f"g (float[{sizes}] x) => (float[{rank}] y) {{ {body} }}", weights)
    feeds, fresh = ({"x": correlated(*shape, seed=0)}, {"x": correlated(*shape, seed=0)[::-1].copy()})
    errors = []
    for rounding in ("nearest", "gptq"):
        result, changes = stored(subject, feeds, rounding=rounding, **options)
        assert not changes.refused
        a, b = plain_run(subject, fresh)["y"], plain_run(result, fresh)["y"]
        errors.append(np.square(a - b).mean())
        assert ("errors made up for" in changes.done[-1].what) == (rounding == "gptq")
    assert errors[1] < 0.9 * errors[0]


REFINED: list[dict[str, Any]] = [
    {"dtype": "int4", "granularity": "channel"},
    {"dtype": "uint4", "block_size": 16, "format": "qdq"},
    {"dtype": "int2", "block_size": 16, "format": "matmulnbits", "accuracy_level": 1},
]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("options", REFINED, ids=str)
def test_refined_integers_and_scales_are_nearer_yet(case: str, options: dict[str, Any]) -> None:
    body, shape, weights = CASES[case]
    sizes, rank = ",".join(["N", *map(str, shape[1:])]), ",".join("ABCD"[: len(shape)])
    subject = model(f"g (float[{sizes}] x) => (float[{rank}] y) {{ {body} }}", weights)
    feeds, errors = {"x": correlated(*shape, seed=0)}, []
    for rounding in ("gptq", "quantease"):
        result, _ = stored(subject, feeds, rounding=rounding, calibration="mse", **options)
        a, b = plain_run(subject, feeds)["y"], plain_run(result, feeds)["y"]
        errors.append(np.square(a - b).mean())
    assert errors[1] < 0.99 * errors[0]


@pytest.mark.parametrize("own", [True, False], ids=["rows of its own", "the same rows"])
@pytest.mark.parametrize("rounding", ["gptq", "quantease"])
def test_each_expert_makes_up_for_its_own_errors(own: bool, rounding: str) -> None:
    data = np.stack([correlated(200, 32, seed=seed) for seed in range(3 if own else 1)])[None]
    subject = model(
        f"g (float[N,{len(data[0])},200,32] x) => (float[N,3,200,16] y) {{ y = MatMul(x, w) }}", {"w": (3, 32, 16)}
    )
    errors = []
    for way in ("nearest", rounding):
        result, changes = stored(subject, {"x": data}, rounding=way, dtype="int4", block_size=16, format="qdq")
        assert not changes.refused
        a, b = plain_run(subject, {"x": data})["y"], plain_run(result, {"x": data})["y"]
        errors.append(np.square(a - b).mean((0, 2, 3)))
    assert (errors[1] < 0.7 * errors[0]).all()


@pytest.mark.parametrize("form", ["qdq", "matmulnbits"])
def test_both_formats_hold_the_same_integers(form: str, literally: Callable[[ir.Model, Feeds], Feeds]) -> None:
    """Left to itself, onnxruntime rounds activations to 8 bits where it makes MatMulNBits of DequantizeLinear."""
    subject = model("g (float[N,64] x) => (float[N,8] y) { y = MatMul(x, w) }", {"w": (64, 8)})
    feeds = {"x": correlated(300, 64)}
    result, _ = stored(subject, feeds, dtype="uint4", block_size=16, rounding="gptq", format=form, accuracy_level=1)
    other, _ = stored(subject, feeds, dtype="uint4", block_size=16, rounding="gptq", format="qdq")
    a, b = (literally(m, feeds)["y"] for m in (result, other))
    assert np.abs(a - b).max() < 1e-5 * np.abs(a).max()


def test_what_stays_rounded_to_nearest_is_named() -> None:
    subject = model(
        """g (int64[N,4] i) => (float[N,4,6] y, float[6,8] c) {
            e = Gather(t, i) d = MatMul(e, w) m = Transpose<perm = [1, 0]>(v) y = MatMul(d, m)
            k = Identity(p) c = MatMul(k, q) }""",
        {"t": (30, 8), "w": (8, 16), "v": (6, 16), "p": (6, 4), "q": (4, 8)},
    )
    feeds = {"i": np.random.default_rng(0).integers(0, 30, (40, 4))}
    result, changes = stored(subject, feeds, rounding="gptq")
    reasons = {r.subject: r.reason for r in changes.refused}
    assert set(reasons) == {"p", "q"}
    assert "operand of MatMul" in reasons["p"]
    assert "is constant" in reasons["q"]
    assert [c.subject for c in changes.done if "made up for" in c.what] == ["w", "v"]
    for name, a in plain_run(subject, feeds).items():
        assert np.abs(a - plain_run(result, feeds)[name]).max() < 0.03 * np.abs(a).max()


def test_inner_graphs_are_stored_and_rounded_to_nearest() -> None:
    text = """<ir_version: 9, opset_import: ["" : 18]> g (float[N,32] x, bool c) => (float[N,8] y) {
        y = If (c) <then_branch = t () => (float[N,8] p) { p = MatMul(x, w) },
                    else_branch = e () => (float[N,8] q) { n = Neg(x) q = MatMul(n, w) }> }"""
    proto = onnx.parser.parse_model(text)
    array = np.random.default_rng(0).normal(size=(32, 8)).astype(np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(array, "w"))
    subject = ir.from_proto(proto)
    feeds = {"x": correlated(40, 32), "c": np.ones(40, bool)}
    step = QuantizeWeights(minimum_size=16, block_size=16, dtype="int4", format="matmulnbits")
    result = subject.clone()
    step.apply(result, step.plan(subject, Context(subject)))
    assert [n.op_type for n in result.graph.all_nodes()].count("MatMulNBits") == 2
    for chosen in (True, False):
        one = {"x": feeds["x"], "c": np.array(chosen)}
        a, b = plain_run(subject, one)["y"], plain_run(result, one)["y"]
        assert np.square(a - b).mean() < 0.02 * np.square(a).mean()


@pytest.mark.slow
def test_a_real_network_of_4_bits_is_nearer_on_images_that_it_has_not_seen(kit: Path) -> None:
    subject = load(kit / "models" / "resnet20_cifar10.onnx")
    pixels = np.load(kit / "data" / "cifar10.npz")
    seen, fresh = (
        {
            "image": np.ascontiguousarray(
                (pixels[part][:96].astype(np.float32) / 255 - 0.45).transpose(0, 3, 1, 2) / 0.22
            )
        }
        for part in ("train_x", "test_x")
    )
    exact, errors = plain_run(subject, fresh), []
    for rounding in ("nearest", "gptq"):
        result, changes = stored(subject, seen, dtype="int4", granularity="channel", rounding=rounding)
        assert not changes.refused
        found = plain_run(result, fresh)
        errors.append(sum(np.square(a - found[name]).sum() for name, a in exact.items()))
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize(
    ("dtype", "samples", "calibration", "rounding"),
    [
        ("uint4", True, "mse", "gptq"),
        ("uint4", False, "mse", "nearest"),
        ("int8", True, "minmax", "nearest"),
    ],
)
def test_few_bits_get_the_best_by_default(dtype: Any, samples: bool, calibration: Any, rounding: Any) -> None:
    random = np.random.default_rng(0)
    weight = random.standard_normal((32, 32)).astype(np.float32)
    subject = model("g (float[N,32] x) => (float[N,32] y) { y = MatMul(x, w) }", {"w": weight})
    feeds = {"x": random.standard_normal((64, 32)).astype(np.float32)}
    context = Context(subject, samples=load_samples(feeds, subject) if samples else None)
    given = QuantizeWeights(dtype=dtype, calibration=calibration, rounding=rounding).plan(subject, context)
    plan = QuantizeWeights(dtype=dtype).plan(subject, context)
    assert np.array_equal(plan.weights["w"].encode(weight), given.weights["w"].encode(weight))
    assert np.array_equal(plan.weights["w"].scale, given.weights["w"].scale)
    assert not given.notes and (dtype == "int8" or f"calibration = mse, rounding = {rounding}" in plan.notes[0])
