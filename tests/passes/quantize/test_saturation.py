"""CPUs on which onnxruntime adds integer products in 16 bits: what is chosen there, and what others are not to lose."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from corpus.machine import SATURATES
from corpus.oracle import plain_run
from corpus.text import model

from onnxcompress import apply
from onnxcompress.contract import Context
from onnxcompress.passes import Quantize, QuantizeDynamic
from onnxcompress.runtime import saturation
from onnxcompress.runtime.session import open_session
from onnxcompress.samples.samples import load_samples
from onnxcompress.targets import here, lint, local_target

Feeds = dict[str, np.ndarray]
TEXT = """g (float[N,64] x) => (float[N,8] y) {
    h = Gemm(x, w1, b1) r = Relu(h) k = Gemm(r, w2, b2) s = Relu(k) y = Gemm(s, w3, b3) }"""


def net() -> ir.Model:
    """Weights and inputs that are positive, so that sums of neighbours are large."""
    random = np.random.default_rng(0)
    shapes = {"w1": (64, 64), "w2": (64, 64), "w3": (64, 8)}
    weights = {name: random.uniform(0.5, 1, shape).astype(np.float32) for name, shape in shapes.items()}
    return model(TEXT, {**weights, "b1": (64,), "b2": (64,), "b3": (8,)})


def feeds(seed: int = 0) -> Feeds:
    return {"x": np.random.default_rng(seed).uniform(0, 1, (64, 64)).astype(np.float32)}


def noise(a: np.ndarray, b: np.ndarray) -> float:
    """SQNR in dB of what varies: `y` is mostly its mean."""
    return float(10 * np.log10(a.var() / np.square(a.astype(np.float64) - b).mean()))


@pytest.fixture
def on_machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def pretend(*, saturates: bool, machine: str = "x86_64") -> None:
        monkeypatch.setattr("onnxcompress.targets.here.cpu_loses_products", lambda: saturates)
        monkeypatch.setattr("onnxcompress.passes.quantize.static.scheme.products_saturate", lambda: saturates)
        monkeypatch.setattr("onnxcompress.passes.quantize.quantize_dynamic.products_saturate", lambda: saturates)
        monkeypatch.setattr(here.platform, "machine", lambda: machine)

    return pretend


def test_the_machine_is_asked() -> None:
    assert saturation.products_saturate() is SATURATES


@pytest.mark.parametrize(
    ("saturates", "machine", "target", "largest"),
    [
        (False, "x86_64", "onnxruntime-cpu", 127),
        (True, "AMD64", "onnxruntime-cpu-avx2", 64),
        (False, "aarch64", "onnxruntime-cpu-arm", 127),
        (False, "arm64", "onnxruntime-cpu-arm", 127),
    ],
)
def test_the_default_is_for_the_machine_at_hand(
    on_machine: Callable[..., None], saturates: bool, machine: str, target: str, largest: int
) -> None:
    on_machine(saturates=saturates, machine=machine)
    assert local_target() == target
    result, report = apply(net(), [Quantize()], data=feeds())  # type: ignore[arg-type]
    assert not lint(result, target).findings
    stored = [result.graph.initializers[f"w{i}_quantized"].const_value.numpy() for i in (1, 2, 3)]  # type: ignore[union-attr]
    assert max(np.abs(array.astype(int)).max() for array in stored) == largest
    assert any("has no VNNI: weights have 7 bits" in note for note in report.steps[0].notes) is saturates


@pytest.mark.parametrize(("saturates", "largest"), [(False, 127), (True, 64)])
def test_dynamic_quantization_uses_7_bits_where_it_must(
    on_machine: Callable[..., None], saturates: bool, largest: int
) -> None:
    on_machine(saturates=saturates)
    found: dict[str, Any] = {}
    for weights in ("int8", "uint8"):
        step = QuantizeDynamic(weights=weights)  # type: ignore[arg-type]
        found[weights] = step.plan(net(), Context(net())).weights[0].largest
    assert found == {"int8": largest, "uint8": 127}


def test_a_model_for_this_machine_loses_nothing_on_it() -> None:
    subject = net()
    result, _ = apply(subject, [Quantize()], data=feeds())  # type: ignore[arg-type]
    a, b = plain_run(subject, feeds(1))["y"], plain_run(result, feeds(1))["y"]
    assert noise(a, b) > 25


@pytest.mark.parametrize("max_drop", [None, 0.0])
def test_a_model_for_another_machine_is_right_there(
    literally: Callable[[ir.Model, Feeds], Feeds], max_drop: float | None
) -> None:
    """Corrections, and the attempts that are judged, are what QuantizeLinear says, not what kernels here make of it."""
    subject = net()
    step = Quantize(target="onnxruntime-cpu", max_drop=max_drop, exclude=("y",))
    context = Context(subject, samples=load_samples(feeds(), subject), metric="cosine")
    plan = step.plan(subject, context)
    copy = subject.clone()
    step.apply(copy, plan)
    a, b = plain_run(subject, feeds(1))["y"], literally(copy, feeds(1))["y"]
    assert noise(a, b) > 30
    assert any("what is measured holds for this machine only" in note for note in plan.notes) is SATURATES
    exact = open_session(copy, exact=True).run(feeds(1))["y"]
    assert noise(a, exact) == pytest.approx(noise(a, b), abs=1)
