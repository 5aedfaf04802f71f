"""What users give `Quantize` that it cannot use: a clear error, or a refusal by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from corpus.oracle import plain_run
from corpus.text import model

import onnxcompress
from onnxcompress.contract import Changes
from onnxcompress.errors import DataError, PassError
from onnxcompress.passes import Quantize, QuantizeWeights

Feeds = dict[str, np.ndarray]
Quantizer = Callable[..., tuple[ir.Model, Changes]]

WEIGHTS = {"w1": (8, 4, 3, 3), "b1": (8,), "w2": (4, 8, 3, 3)}
X = np.random.default_rng(1).normal(size=(4, 4, 8, 8)).astype(np.float32)


def net(**weights: Any) -> ir.Model:
    return model(
        "g (float[N,4,8,8] x) => (float[N,4,4,4] y) { [one] c = Conv(x, w1, b1) r = Relu(c) [two] y = Conv(r, w2) }",
        WEIGHTS | weights,
    )


SAMPLES: dict[str, tuple[Any, str]] = {
    "none": (None, "quantize needs samples"),
    "an empty list": ([], "no samples"),
    "no rows": ({"x": X[:0]}, "no samples"),
    "labels only": ({"labels": np.zeros(4, np.int64)}, "'x'"),
    "other inputs": ({"z": X, "w": X}, "'x'"),
    "NaN": ({"x": np.where(X > 3, np.nan, X * 10)}, "NaN"),
    "infinity": ({"x": np.full_like(X, np.inf)}, "(NaN|nfinity|Inf)"),
    "another shape": ({"x": X[:, :3]}, "'x'"),
}


@pytest.mark.parametrize("case", SAMPLES)
def test_samples_that_cannot_be_used(case: str) -> None:
    data, message = SAMPLES[case]
    with pytest.raises(DataError, match=message):
        onnxcompress.apply(net(), [Quantize()], data=data)


def test_one_sample_is_enough(quantized: Quantizer) -> None:
    subject = net()
    result, changes = quantized(subject, {"x": X[:1]})
    assert not changes.refused
    before, after = (plain_run(m, {"x": X[:1]})["y"] for m in (subject, result))
    assert np.abs(before - after).max() < 0.05 * np.abs(before).max()


def test_a_sample_of_zeros_gives_finite_scales(quantized: Quantizer) -> None:
    subject = net(b1=np.zeros(8, np.float32))
    result, _ = quantized(subject, {"x": np.zeros_like(X)})
    for name, value in result.graph.initializers.items():
        if name.endswith("_scale"):
            scale = value.const_value.numpy()  # type: ignore[union-attr]
            assert (np.isfinite(scale) & (scale >= np.finfo(np.float32).tiny)).all()
    assert np.abs(plain_run(result, {"x": np.zeros_like(X)})["y"]).max() == 0


FIRST, SECOND = "one (Conv)", "two (Conv)"
NO_SCALE: dict[str, tuple[dict[str, Any], float, dict[str, str]]] = {
    "weights that underflow": (
        {"w1": np.full((8, 4, 3, 3), 1e-30, np.float32)},
        1,
        {FIRST: "its weight, of at most 1e-30"},
    ),
    "weights that overflow": (
        {"w2": np.full((4, 8, 3, 3), 1e30, np.float32)},
        1,
        {SECOND: "its weight, of at most 1e+30"},
    ),
    "a bias that overflows": ({"b1": np.full(8, -1e30, np.float32)}, 1, {FIRST: "its bias, of up to 1e+30"}),
    "denormal weights": ({"w1": np.full((8, 4, 3, 3), 1e-40, np.float32)}, 1, {FIRST: "its weight, of at most 1e-40"}),
    "an input that underflows": ({"b1": np.ones(8, np.float32)}, 1e-30, {FIRST: "too small a range"}),
    "an input that overflows": ({}, 1e30, {FIRST: "too wide a range", SECOND: "too wide a range"}),
}


@pytest.mark.parametrize("case", NO_SCALE)
def test_what_has_no_scale_stays_float_and_is_named(case: str, quantized: Quantizer) -> None:
    weights, factor, expected = NO_SCALE[case]
    subject, feeds = net(**weights), {"x": X * np.float32(factor)}
    result, changes = quantized(subject, feeds)
    found = {r.subject: r.reason for r in changes.refused}
    for name, reason in expected.items():
        assert reason in found[name]
    before, after = (plain_run(m, feeds)["y"].astype(np.float64) for m in (subject, result))
    assert np.isfinite(after).all()
    assert np.abs(before - after).max() <= 0.05 * np.abs(before).max()


def test_a_channel_that_underflows_is_stored_as_zeros(quantized: Quantizer) -> None:
    w = np.random.default_rng(0).normal(size=(8, 4, 3, 3)).astype(np.float32)
    w[3] *= np.float32(1e-35)
    subject = net(w1=w)
    result, changes = quantized(subject, {"x": X})
    assert not changes.refused
    before, after = (plain_run(m, {"x": X})["y"] for m in (subject, result))
    assert np.abs(before - after).max() < 0.05 * np.abs(before).max()


ALREADY = {
    "quantized": [Quantize()],
    "weights quantized": [QuantizeWeights(minimum_size=1)],
}


@pytest.mark.parametrize("case", ALREADY)
def test_a_quantized_model_is_recognised(case: str) -> None:
    done, _ = onnxcompress.apply(net(), ALREADY[case], data={"x": X})
    with pytest.raises(PassError, match=r"already quantized: .*DequantizeLinear\); give the float model"):
        onnxcompress.apply(done, [Quantize()], data={"x": X})


def test_a_model_of_another_quantizer_is_recognised() -> None:
    subject = net()
    node = ir.node("MatMulNBits", list(subject.graph[-1].inputs), domain="com.microsoft", name="blocks")
    subject.graph.append(node)
    node.outputs[0].name = "extra"
    with pytest.raises(PassError, match="already quantized: blocks"):
        Quantize().plan(subject, None)  # type: ignore[arg-type]
