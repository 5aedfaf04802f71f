"""`equalise` of weights: the function stays, the predicted error does not grow, the true one gets less."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from corpus.oracle import assert_same, plain_run
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxcompress.contract import Changes, Context
from onnxcompress.errors import OptionError
from onnxcompress.graph import edit
from onnxcompress.passes import QuantizeWeights
from onnxcompress.passes.quantize.equalise.equalisation import Equalisation, apply_equalisation
from onnxcompress.passes.quantize.equalise.least_error import least_error
from onnxcompress.passes.quantize.prepare.prepare import FORMS, prepared
from onnxcompress.passes.quantize.quantize_weights import WeightPlan
from onnxcompress.samples.samples import load_samples

HEADER = '<ir_version: 10, opset_import: ["" : 23, "com.microsoft" : 1]>\n'
WIDTH, HIDDEN = 16, 32

NORMS = {
    "layer": "n = LayerNormalization(x, g, s)",
    "rms": "n = RMSNormalization(x, g)",
    "simplified": "n = SimplifiedLayerNormalization(x, g)",
    "skip": "n, v, w, t = com.microsoft.SkipSimplifiedLayerNormalization(x, x, g)",
    "skip, centred": "n = com.microsoft.SkipLayerNormalization(x, x, g, s)",
    "in full": (
        "p = Pow(x, two) m = ReduceMean(p, last) e = Add(m, tiny) q = Sqrt(e) d = Div(one, q) o = Mul(x, d) "
        "n = Mul(g, o)"
    ),
}
MLP = "a = MatMul(n, gate) h = Sigmoid(a) l = Mul(a, h) u = MatMul(n, up) f = Mul(l, u) y = MatMul(f, down)"


def drawn(norm: str, seed: int, spread: float = 1.5) -> ir.Model:
    """Return a gated layer behind a normalisation; its channels are unlike each other."""
    text = f"g (float[N,5,{WIDTH}] x) => (float[N,5,{WIDTH}] y) {{ {NORMS[norm]} {MLP} }}"
    random = np.random.default_rng(seed)
    weights: dict[str, Any] = {
        "g": np.exp(spread * random.normal(size=WIDTH)), "s": random.normal(size=WIDTH),
        "gate": random.normal(size=(WIDTH, HIDDEN)) / 4, "down": random.normal(size=(HIDDEN, WIDTH)),
        "up": random.normal(size=(WIDTH, HIDDEN)) * np.exp(spread * random.normal(size=HIDDEN)),
        "two": np.full(1, 2), "tiny": np.full(1, 1e-5), "one": np.full(1, 1),
    }  # fmt: skip
    proto = onnx.parser.parse_model(HEADER + text)
    for name, array in weights.items():
        if f"{name}" in NORMS[norm] + MLP:
            proto.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(array), name))
    if "last" in text:
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.int64([-1]), "last"))
    return ir.from_proto(proto)


def feeds(seed: int = 0) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(seed).normal(size=(64, 5, WIDTH)).astype(np.float32)}


def rounded(value: ir.Value, array: np.ndarray) -> np.ndarray:
    """Round to 4 bits with one scale for each output channel."""
    step = np.abs(array).max(0, keepdims=True) / 7
    return np.asarray(np.rint(array / step) * step, np.float64)


def chosen(subject: ir.Model) -> tuple[ir.Model, Equalisation]:
    work = prepared(subject, Context(subject), FORMS["quantize-weights"]).model
    found = least_error(work, Context(work, samples=load_samples(feeds(), work)), rounded)
    copy = work.clone()
    apply_equalisation(copy, found)
    return copy, found


@pytest.mark.parametrize("norm", NORMS)
def test_the_function_stays_and_every_layer_is_reached(norm: str) -> None:
    subject = drawn(norm, 0)
    copy, found = chosen(subject)
    assert {factor.node for factor in found.factors} >= {"a", "u", "y", "n"}
    assert not found.refused
    assert_same(plain_run(subject, feeds(1)), plain_run(copy, feeds(1)), 1e-4)


@given(norm=st.sampled_from(["layer", "rms", "in full"]), seed=st.integers(0, 50), spread=st.floats(0, 3))
@settings(max_examples=10, deadline=None)
def test_the_predicted_error_never_grows(norm: str, seed: int, spread: float) -> None:
    """Of what reads the normalisation together, and of what reads the gated product."""
    subject = drawn(norm, seed, spread)
    copy, _ = chosen(subject)
    assert_same(plain_run(subject, feeds(1)), plain_run(copy, feeds(1)), 1e-4)
    for names, data in ((("gate", "up"), "n"), (("down",), "f")):
        assert sum(_error(copy, subject, n, data) for n in names) <= 1.001 * sum(
            _error(subject, subject, n, data) for n in names
        )


def _error(subject: ir.Model, original: ir.Model, name: str, data: str) -> float:
    """Return what rounding a weight costs at the output of its layer, in the units of the original's outputs."""
    proto = ir.to_proto(subject)
    proto.graph.output.append(onnx.helper.make_tensor_value_info(data, onnx.TensorProto.FLOAT, None))
    value = subject.graph.initializers[name]
    weight = edit.array(value).astype(np.float64)
    rows = plain_run(proto, feeds())[data].reshape(-1, len(weight))
    now, then = rows @ weight, _outputs(original, name, data)
    gains = np.linalg.norm(then, axis=0) / np.linalg.norm(now, axis=0)  # of `up`, which makes what `down` reads
    return float(np.square(rows @ (rounded(value, weight) - weight) * gains).sum())


def _outputs(subject: ir.Model, name: str, data: str) -> np.ndarray:
    proto = ir.to_proto(subject)
    proto.graph.output.append(onnx.helper.make_tensor_value_info(data, onnx.TensorProto.FLOAT, None))
    weight = edit.array(subject.graph.initializers[name]).astype(np.float64)
    return np.asarray(plain_run(proto, feeds())[data].reshape(-1, len(weight)) @ weight)


def stored(subject: ir.Model, **options: Any) -> tuple[ir.Model, Changes]:
    step = QuantizeWeights(minimum_size=16, dtype="int4", granularity="channel", **options)
    assert step.needs.samples == ("equalise" in options)
    plan, result = step.plan(subject, Context(subject, samples=load_samples(feeds(), subject))), subject.clone()
    return result, step.apply(result, WeightPlan.from_json(plan.to_json()))


def test_weights_of_four_bits_lose_less() -> None:
    subject = drawn("rms", 3)
    wanted = plain_run(subject, feeds(1))["y"]
    plain, better = (np.square(plain_run(stored(subject, **o)[0], feeds(1))["y"] - wanted).mean() for o in ({}, ON))
    assert better < 0.8 * plain


ON = {"equalise": True}


def test_a_weight_is_selected_by_the_name_that_it_has() -> None:
    _, changes = stored(drawn("rms", 3), equalise=True, include=("down",))
    assert "down" in {change.subject for change in changes.done}
    assert "gate" not in {change.subject for change in changes.done}


def test_one_scale_for_a_tensor_cannot_follow() -> None:
    with pytest.raises(OptionError, match="equalise = true: .*expected 'channel' or 'block'"):
        QuantizeWeights(equalise=True, granularity="tensor")
