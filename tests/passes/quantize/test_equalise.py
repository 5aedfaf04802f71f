"""Equalisation: the function stays, the ranges become alike, and what cannot be scaled is told."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from corpus.oracle import assert_same, drawn_feeds, plain_run
from corpus.random_graphs import random_graph
from corpus.text import model
from corpus.topologies import TOPOLOGIES

from onnxcompress.contract import Context, Plan
from onnxcompress.graph import edit, shapes
from onnxcompress.passes import Quantize
from onnxcompress.passes.quantize.equalise import smooth_quant as factors
from onnxcompress.passes.quantize.equalise.axes import Scalable
from onnxcompress.passes.quantize.equalise.equalisation import Equalisation, apply_equalisation, equalise
from onnxcompress.passes.quantize.prepare.prepare import FORMS, prepare
from onnxcompress.samples.samples import load_samples

CONV = "Conv<pads = [1, 1, 1, 1]>"
GAINS = 10.0 ** np.linspace(-1.5, 1.5, 8)
"""What makes the channels of a hidden tensor unlike each other."""

Feeds = dict[str, np.ndarray]


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng((seed, *shape))
    return (random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def uneven(weight: np.ndarray, axis: int = 0, *, inverse: bool = False) -> np.ndarray:
    """Multiply along an axis by `GAINS`, over and over."""
    size = weight.shape[axis]
    gains = np.resize(1 / GAINS if inverse else GAINS, size)
    return (np.moveaxis(np.moveaxis(weight, axis, -1) * gains, -1, axis)).astype(np.float32)


W: dict[str, Any] = {
    "w1": uneven(drawn(8, 4, 3, 3)),
    "b1": uneven(drawn(8)),
    "w2": uneven(drawn(8, 8, 3, 3, seed=1), 1, inverse=True),
    "b2": drawn(8, seed=1),
    "w3": drawn(4, 8, 3, 3, seed=2),
    "dw": uneven(drawn(8, 1, 3, 3, seed=3), inverse=True),
    "slope": np.full((8, 1, 1), 0.2, np.float32),
    "six": np.array(6, np.float32),
    "zero": np.array(0, np.float32),
}


def net(body: str, weights: dict[str, Any] = W, shape: str = "N,4,8,8", out: str = "N,C,H,V") -> ir.Model:
    used = {name: weight for name, weight in weights.items() if f"{name}" in body}
    return model(f"g (float[{shape}] x) => (float[{out}] y) {{ {body} }}", used)


def feeds_of(subject: ir.Model, batch: int = 16) -> Feeds:
    shape = [d if isinstance(d, int) else batch for d in subject.graph.inputs[0].shape or ()]
    return {"x": np.random.default_rng(1).normal(size=shape).astype(np.float32)}


def equalised(subject: ir.Model, feeds: Feeds, **options: Any) -> tuple[ir.Model, Equalisation]:
    shapes.infer(subject)
    before = ir.to_proto(subject).SerializeToString(deterministic=True)
    found = equalise(subject, Context(subject, samples=load_samples(feeds, subject)), **options)
    assert ir.to_proto(subject).SerializeToString(deterministic=True) == before
    copy = subject.clone()
    apply_equalisation(copy, found)
    onnx.checker.check_model(ir.to_proto(copy), full_check=True)
    return copy, found


def values_of(subject: ir.Model, feeds: Feeds, name: str) -> np.ndarray:
    """Run a model and return a tensor inside."""
    proto = ir.to_proto(subject)
    proto.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return plain_run(proto, feeds)[name]


def spread(array: np.ndarray, axis: int = 1) -> float:
    """Return how much the ranges of the channels differ: the standard deviation of their logarithms."""
    peaks = np.abs(np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)).max(1)
    return float(np.log(peaks[peaks > 0]).std())


def sqnr(a: np.ndarray, b: np.ndarray) -> float:
    noise = np.square(a.astype(np.float64) - b).mean()
    return float(10 * np.log10(np.square(a.astype(np.float64)).mean() / max(noise, 1e-30)))


NETS: dict[str, tuple[str, str]] = {
    "relu": (f"c = {CONV}(x, w1, b1) r = Relu(c) y = {CONV}(r, w2, b2)", "r"),
    "no bias": (f"c = {CONV}(x, w1) y = {CONV}(c, w2)", "c"),
    "leaky": (f"c = {CONV}(x, w1, b1) r = LeakyRelu<alpha = 0.1>(c) y = {CONV}(r, w2, b2)", "r"),
    "prelu": (f"c = {CONV}(x, w1, b1) r = PRelu(c, slope) y = {CONV}(r, w2, b2)", "r"),
    "gated": (
        f"c = {CONV}(x, w1b) g = Sigmoid(c) d = {CONV}(x, w1, b1) r = Mul(g, d) y = {CONV}(r, w2, b2)",
        "r",
    ),
    "pool": (f"c = {CONV}(x, w1, b1) p = MaxPool<kernel_shape = [2, 2]>(c) y = {CONV}(p, w2, b2)", "p"),
    "residual": (
        f"c = {CONV}(x, w1, b1) r = Relu(c) d = {CONV}(r, w22, b2) s = Add(d, r) t = Relu(s) y = {CONV}(t, w33)",
        "r",
    ),
    "depthwise": (
        f"c = {CONV}(x, w1, b1) r = Relu(c) d = Conv<pads = [1, 1, 1, 1], group = 8>(r, dw, b2) "
        f"e = Relu(d) y = {CONV}(e, w3)",
        "r",
    ),
    "concat": (
        f"c = {CONV}(x, w1, b1) r = Relu(c) d = {CONV}(x, w3t) s = Concat<axis = 1>(r, d) y = {CONV}(s, w12)",
        "r",
    ),
    "reshape": (
        f"c = {CONV}(x, w1, b1) r = Relu(c) to = Constant<value = int64[3] {{0, 8, -1}}>() f = Reshape(r, to) "
        "back = Constant<value = int64[4] {0, 8, 8, 8}>() g = Reshape(f, back) "
        f"y = {CONV}(g, w2, b2)",
        "r",
    ),
    "relu6": (f"c = {CONV}(x, w1, b1) r = Clip(c, zero, large) y = {CONV}(r, w2, b2)", "r"),
}
EXTRA = {
    "w1b": drawn(8, 4, 3, 3, seed=9),
    "w22": uneven(W["w2"]),
    "w33": uneven(W["w3"], 1, inverse=True),
    "w3t": drawn(4, 4, 3, 3, seed=5),
    "w12": uneven(drawn(4, 12, 3, 3, seed=6), 1, inverse=True),
    "large": np.array(1e3, np.float32),
}


@pytest.mark.parametrize("name", NETS)
def test_the_function_stays_and_the_ranges_become_alike(name: str) -> None:
    body, tensor = NETS[name]
    subject = net(body, W | EXTRA)
    feeds = feeds_of(subject)
    result, found = equalised(subject, feeds)
    assert found.factors
    assert_same(plain_run(subject, feeds), plain_run(result, feeds), 1e-5)
    before, after = (spread(values_of(m, feeds, tensor)) for m in (subject, result))
    assert after < 0.6 * before


@pytest.mark.parametrize("name", NETS)
def test_textbook_quantization_is_better_behind_it(name: str) -> None:
    subject = net(NETS[name][0], W | EXTRA)
    feeds = feeds_of(subject)
    found = []
    for before in (False, True):
        step = Quantize(equalise=before, correct=False, rounding="nearest")
        copy = subject.clone()
        step.apply(copy, step.plan(copy, Context(copy, samples=load_samples(feeds, copy))))
        found.append(sqnr(plain_run(subject, feeds)["y"], plain_run(copy, feeds)["y"]))
    assert found[1] > found[0] + 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Holder(Plan):
    found: Equalisation


def test_it_is_plain_data_in_a_plan() -> None:
    subject = net(f"c = {CONV}(x, w1, high) r = Relu(c) y = Conv(r, w2)", {**W, "high": np.full(8, 50, np.float32)})
    feeds = feeds_of(subject)
    result, found = equalised(subject, feeds)
    assert found.shifts
    assert found.factors
    apply_equalisation(subject, Holder.from_json(Holder(found=found).to_json()).found)
    first, second = (ir.to_proto(m).SerializeToString(deterministic=True) for m in (result, subject))
    assert first == second


def test_layers_that_share_a_bias_share_their_factors() -> None:
    body = (
        f"c = {CONV}(x, w1, b1) r = Relu(c) e = {CONV}(r, w2, b2) d = {CONV}(x, wd, b1) s = Relu(d) "
        f"f = {CONV}(s, we, b2) y = Concat<axis = 1>(e, f)"
    )
    subject = net(body, W | {"wd": uneven(drawn(8, 4, 3, 3, seed=7)), "we": W["w2"] * 2})
    feeds = feeds_of(subject)
    result, found = equalised(subject, feeds)
    biases = {f.node: f.factors for f in found.factors if f.input == 2}
    assert set(biases) == {"c", "d"}
    np.testing.assert_array_equal(biases["c"], biases["d"])
    assert_same(plain_run(subject, feeds), plain_run(result, feeds), 1e-5)


def test_classic_factors_make_rows_and_columns_as_large_as_each_other() -> None:
    subject = net("c = Conv(x, w1, b1) r = Relu(c) y = Conv(r, w2, b2)")
    feeds = feeds_of(subject)
    result, _ = equalised(subject, feeds, per_channel=False)
    assert_same(plain_run(subject, feeds), plain_run(result, feeds), 1e-5)
    nodes = {edit.output_name(node): node for node in result.graph}
    w1, w2 = (np.abs(edit.constant(nodes[n].inputs[1]).numpy()) for n in ("c", "y"))  # type: ignore[union-attr]
    np.testing.assert_allclose(w1.max((1, 2, 3)), w2.max((0, 2, 3)), rtol=1e-4)


# --- Clip ------------------------------------------------------------------------------------------------------------


def test_channels_that_reach_a_bound_keep_their_scale() -> None:
    subject = net(f"c = {CONV}(x, w1, b1) r = Clip(c, zero, six) y = {CONV}(r, w2, b2)")
    feeds = feeds_of(subject)
    peaks = values_of(subject, feeds, "c").max((0, 2, 3))
    assert (peaks >= 6).any()
    assert (peaks < 1).any()
    result, found = equalised(subject, feeds)
    chosen = next(f.factors for f in found.factors if (f.node, f.input) == ("c", 0 + 1))
    assert (chosen[peaks >= 6] == 1).all()
    assert (chosen[peaks < 6] != 1).any()
    assert (chosen * peaks <= np.maximum(6, peaks) * 1.0001).all()
    assert_same(plain_run(subject, feeds), plain_run(result, feeds), 1e-5)


# --- behind a normalisation ------------------------------------------------------------------------------------------

HEADS = {
    "gamma": np.resize(GAINS, 16).astype(np.float32),
    "beta": np.resize(GAINS[::-1] / 10, 16).astype(np.float32),
    **{f"w{n}": uneven(drawn(16, 16, seed=i), 0, inverse=True) for i, n in enumerate("qkv")},
    "two": np.array(2, np.float32),
    "mean": drawn(16),
    "var": np.ones(16, np.float32),
    "eps": np.array(1e-5, np.float32),
}
ONE = "n = LayerNormalization(x, gamma, beta)"
WRITTEN_OUT = (
    "m = ReduceMean<keepdims = 1>(x, last) d = Sub(x, m) p = Pow(d, two) v = ReduceMean<keepdims = 1>(p, last) "
    "e = Add(v, eps) sd = Sqrt(e) u = Div(d, sd) g = Mul(u, gamma) n = Add(g, beta)"
)

BATCH = (
    "t = Transpose<perm = [0, 2, 1]>(x) b = BatchNormalization(t, gamma, beta, mean, var) "
    "n = Transpose<perm = [0, 2, 1]>(b)"
)


@pytest.mark.parametrize("normalisation", [ONE, WRITTEN_OUT, BATCH])
def test_the_readers_of_a_normalisation_share_its_factors(normalisation: str) -> None:
    attention = (
        "q = MatMul(n, wq) k = MatMul(n, wk) v1 = MatMul(n, wv) kt = Transpose<perm = [0, 2, 1]>(k) "
        "s = MatMul(q, kt) a = Softmax(s) y = MatMul(a, v1)"
    )
    subject = net(normalisation + attention, HEADS | {"last": np.array([-1])}, "N,6,16", "N,S,D")
    feeds = feeds_of(subject)
    result, found = equalised(subject, feeds)
    columns = {f.node: f.factors for f in found.factors if f.node in ("q", "k", "v1") and f.axis == 0}
    assert len(columns) == 3
    np.testing.assert_array_equal(columns["q"], columns["k"])
    np.testing.assert_array_equal(columns["q"], columns["v1"])
    assert spread(values_of(result, feeds, "n"), 2) < 0.6 * spread(values_of(subject, feeds, "n"), 2)
    assert_same(plain_run(subject, feeds), plain_run(result, feeds), 1e-4)


# --- what stays ------------------------------------------------------------------------------------------------------

FROZEN = {
    "sigmoid": (f"c = {CONV}(x, w1, b1) r = Sigmoid(c) y = {CONV}(r, w2)", "Sigmoid"),
    "two tensors multiplied": (
        f"c = {CONV}(x, w1, b1) d = Sigmoid(c) r = Mul(c, d) y = {CONV}(r, w2)",
        "scaling its input does not scale its output",
    ),
    "softmax": (f"c = {CONV}(x, w1, b1) r = Softmax<axis = 1>(c) y = {CONV}(r, w2)", "Softmax"),
    "an output": (f"c = {CONV}(x, w1, b1) y = Relu(c) z = {CONV}(y, w2)", "graph output"),
    "one constant for all": (f"c = {CONV}(x, w1, b1) r = Add(c, six) y = {CONV}(r, w2)", "one constant"),
}


@pytest.mark.parametrize("name", FROZEN)
def test_what_cannot_be_scaled_is_told(name: str) -> None:
    body, reason = FROZEN[name]
    outputs = "float[N,C,H,V] y" + (", float[N,D,H,V] z" if "z =" in body else "")
    weights = W | {"w1b": drawn(8, 4, 3, 3, seed=9)}
    used = {n: w for n, w in weights.items() if n in body}
    subject = model(f"g (float[N,4,8,8] x) => ({outputs}) {{ {body} }}", used)
    feeds = feeds_of(subject)
    result, found = equalised(subject, feeds)
    assert not found.factors
    assert any(reason in refusal.reason for refusal in found.refused), found.refused
    assert_same(plain_run(subject, feeds), plain_run(result, feeds), 0)


# --- absorption ------------------------------------------------------------------------------------------------------


def test_a_bias_that_is_always_high_moves_behind_the_relu() -> None:
    high = np.where(np.arange(8) % 2, 40, 0).astype(np.float32)
    subject = net(f"c = {CONV}(x, w1, b) r = Relu(c) y = Conv(r, w2)", {**W, "b": high})
    feeds = feeds_of(subject)
    lowest = values_of(subject, feeds, "c").min((0, 2, 3))
    result, found = equalised(subject, feeds)
    shift = next(s.values for s in found.shifts if s.node == "c")
    assert ((shift < 0) == (lowest > 0)).mean() > 0.7
    assert (shift[lowest <= 0] == 0).all()
    assert (-shift <= np.maximum(lowest, 0)).all()
    assert_same(plain_run(subject, feeds), plain_run(result, feeds), 1e-4)


def test_a_bias_stays_where_the_reader_pads() -> None:
    high = np.full(8, 1e3, np.float32)
    subject = net(f"c = {CONV}(x, w1, b) r = Relu(c) y = {CONV}(r, w2)", {**W, "b": high})
    _, found = equalised(subject, feeds_of(subject))
    assert not found.shifts


# --- any factors at all ----------------------------------------------------------------------------------------------


def at_random(scalable: Scalable, measured: Mapping[tuple[str, int], factors.Measured], **_: Any) -> np.ndarray:
    low, high = factors.limits(scalable, measured)
    return np.clip(2.0 ** np.random.default_rng(0).uniform(-3, 3, scalable.size), low, high)


GRAPHS: dict[str, Callable[[], ir.Model]] = {name: make for name, (make, _) in TOPOLOGIES.items()} | {
    f"random {seed}": partial(random_graph, seed) for seed in range(16)
}


@pytest.mark.parametrize("name", GRAPHS)
def test_the_function_stays_whatever_the_factors(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxcompress.passes.quantize.equalise.equalisation.choose", at_random)
    subject = GRAPHS[name]()
    prepare(subject, FORMS["quantize"])
    feeds = drawn_feeds(subject, batch=4)
    result, _ = equalised(subject, feeds)
    assert_same(plain_run(subject, feeds), plain_run(result, feeds), 1e-4)
