"""`Quantize` with its own defaults: what correction, compensation and targets change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from corpus.oracle import plain_run
from corpus.text import model
from corpus.versions import skip_before

from onnxcompress import apply
from onnxcompress.contract import Changes, Context
from onnxcompress.errors import OptionError
from onnxcompress.passes import Quantize
from onnxcompress.samples.samples import load_samples
from onnxcompress.targets import lint, target_names

Feeds = dict[str, np.ndarray]
Quantizer = Callable[..., tuple[ir.Model, Changes]]
Kernels = Callable[[Any], Counter[str]]

NET = """g (float[N,4,10,10] x) => (float[N,5] y) {
    a = Conv<pads = [1, 1, 1, 1]>(x, w1, b1) r = Clip(a, low, high)
    d = Conv<group = 8, pads = [1, 1, 1, 1]>(r, w2) e = Relu(d) f = Conv(e, w3, b3) s = Add(f, r)
    t = Relu(s) p = GlobalAveragePool(t) q = Flatten(p) y = Gemm(q, w4, b4) }"""


def network() -> ir.Model:
    random = np.random.default_rng(3)
    wide = np.exp(random.normal(size=8)).astype(np.float32)  # channels of very different size
    shapes = {"w1": (8, 4, 3, 3), "b1": (8,), "w2": (8, 1, 3, 3), "w3": (8, 8, 1, 1), "b3": (8,), "b4": (5,)}
    arrays = {name: random.normal(size=shape).astype(np.float32) / 3 for name, shape in shapes.items()}
    arrays["w1"] *= wide.reshape(8, 1, 1, 1)
    arrays["w4"] = random.normal(size=(8, 5)).astype(np.float32)
    return model(NET, arrays | {"low": np.array(0, np.float32), "high": np.array(6, np.float32)})


def images(seed: int, count: int = 64) -> Feeds:
    """Correlated ones, as natural images are."""
    noise = np.random.default_rng(seed).normal(size=(count, 4, 12, 12))
    smooth = sum(noise[..., i : i + 10, j : j + 10] for i in range(3) for j in range(3)) / 3
    return {"x": (smooth + smooth[:, ::-1] / 2).astype(np.float32)}


def noise(subject: ir.Model, result: ir.Model) -> tuple[float, float]:
    """Mean square error, and that of the mean, on samples that nothing was fitted to."""
    a, b = (plain_run(m, images(99, 256))["y"].astype(np.float64) for m in (subject, result))
    return float(np.square(b - a).mean()), float(np.square((b - a).mean(0)).mean())


def quantize(subject: ir.Model, **options: Any) -> ir.Model:
    step, copy = Quantize(**options), subject.clone()
    step.apply(copy, step.plan(copy, Context(copy, samples=load_samples(images(0), copy))))
    return copy


def test_biases_make_each_output_right_on_average() -> None:
    subject = network()
    plain, corrected = (
        noise(subject, quantize(subject, equalise=False, correct=correct, rounding="nearest", activations="int8"))
        for correct in (False, True)
    )
    assert corrected[1] < plain[1] / 2


def test_compensated_rounding_is_nearer_to_the_original() -> None:
    subject = network()
    nearest, compensated = (noise(subject, quantize(subject, rounding=r))[0] for r in ("nearest", "gptq"))
    assert compensated < nearest


def test_bias_is_the_mean_error_of_the_layer() -> None:
    subject = model("g (float[N,16] x) => (float[N,6] y) { y = Gemm(x, w) }", {"w": (16, 6)})
    x = np.random.default_rng(1).normal(size=(64, 16)).astype(np.float32) + 0.3
    step = Quantize(equalise=False, rounding="nearest")
    plan = step.plan(subject, Context(subject, samples=load_samples({"x": x}, subject)))
    (weight,), (activation,) = plan.weights, plan.activations
    w = subject.graph.initializers["w"].const_value.numpy()  # type: ignore[union-attr]
    wq = np.clip(np.rint(w / weight.scale), -127, 127) * weight.scale
    xq = (
        np.clip(np.rint(x / activation.scale) + activation.zero_point, 0, 255) - activation.zero_point
    ) * activation.scale
    assert weight.bias is not None and weight.bias_scale is not None
    found = weight.bias * weight.bias_scale.astype(np.float64)
    assert (np.abs(found - (x @ w - xq @ wq).mean(0)) <= 0.51 * weight.bias_scale).all()


def test_zeros_stay_zeros_and_clusters_stay_clusters() -> None:
    subject = network()
    w3 = subject.graph.initializers["w3"].const_value.numpy().copy()  # type: ignore[union-attr]
    w3[np.abs(w3) < 0.2] = 0
    subject.graph.initializers["w3"].const_value = ir.tensor(w3, name="w3")
    w1 = subject.graph.initializers["w1"].const_value.numpy()  # type: ignore[union-attr]
    clustered = np.round(w1 * 4) / 4
    subject.graph.initializers["w1"].const_value = ir.tensor(clustered.astype(np.float32), name="w1")
    step = Quantize(equalise=False)
    plan = step.plan(subject, Context(subject, samples=load_samples(images(0), subject)))
    integers = {weight.node: weight.integers for weight in plan.weights}
    assert integers["f"] is not None and not integers["f"][w3 == 0].any()
    assert integers["a"] is not None
    for row, stored in zip(clustered.reshape(8, -1), integers["a"].reshape(8, -1), strict=True):
        assert all(len(set(stored[row == value].tolist())) == 1 for value in np.unique(row))


@pytest.mark.parametrize("target", target_names())
def test_what_is_quantized_for_a_target_lints_clean(target: str, quantized: Quantizer) -> None:
    subject = network()
    result, changes = quantized(subject, images(0), target=target)
    assert [f for f in lint(result, target).findings if f.effect == "rejected"] == []
    assert any("computes on integers" in change.what for change in changes.done)
    a, b = (plain_run(m, images(1))["y"].astype(np.float64) for m in (subject, result))
    assert 10 * np.log10(np.square(a).mean() / np.square(a - b).mean()) > 20


@pytest.mark.parametrize(("activations", "decibels"), [("uint16", 35), ("int16", 35), ("float8e4m3fn", 15)])
def test_other_types_of_activations(activations: str, decibels: float, quantized: Quantizer) -> None:
    skip_before("1.32", "fuses integer kernels with 8-bit floats", when=activations.startswith("float8"))
    subject = network()
    result, _ = quantized(subject, images(0), activations=activations)
    types = {n.inputs[2].dtype.name.lower() for n in result.graph if n.op_type == "QuantizeLinear"}  # type: ignore[union-attr]
    assert types == {activations}
    _, report = apply(subject, [Quantize(activations=activations)], data=images(0), metric="sqnr")  # type: ignore[arg-type]
    assert report.stages[-1].metric is not None
    assert report.stages[-1].metric > decibels


def test_scales_are_powers_of_two_where_the_target_wants_them(quantized: Quantizer) -> None:
    result, _ = quantized(network(), images(0), target="npu-power-of-two")
    found = [v.const_value.numpy() for n, v in result.graph.initializers.items() if "scale" in n]  # type: ignore[union-attr]
    assert found
    assert all((np.frexp(array)[0] == 0.5).all() for array in found)


def test_an_unknown_target_is_named() -> None:
    subject = network()
    with pytest.raises(OptionError, match="onnxruntime-cpu"):
        Quantize(target="onnxruntime-cpy").plan(subject, Context(subject, samples=load_samples(images(0), subject)))


@pytest.mark.parametrize("calibration", ["minmax", "moving_average", "percentile", "entropy", "mse"])
def test_every_way_to_find_ranges(calibration: str, quantized: Quantizer) -> None:
    subject = network()
    result, _ = quantized(subject, images(0), calibration=calibration)
    a, b = (plain_run(m, images(1))["y"].astype(np.float64) for m in (subject, result))
    assert 10 * np.log10(np.square(a).mean() / np.square(a - b).mean()) > 15


def test_single_layers_are_ranked_by_what_they_cost_alone() -> None:
    from onnxcompress import sensitivity

    found = sensitivity(network(), images(0), Quantize(correct=False, rounding="nearest"), metric="cosine")
    assert set(found.curves) == {"a", "d", "f", "y"}
    for (point,) in found.curves.values():
        assert point.sqnr is not None and 15 < point.sqnr < 80
    with pytest.raises(OptionError, match="no option 'sparsity'"):
        sensitivity(network(), images(0), Quantize(), shares=[0.5])
