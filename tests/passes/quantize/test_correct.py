"""Layers without a bias to correct."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from corpus.oracle import plain_run
from corpus.text import model

from onnxcompress.contract import Context
from onnxcompress.passes import Quantize
from onnxcompress.samples.samples import load_samples

PRODUCTS = "g (float[N,7,24] x) => (float[N,7,6] y) { a = MatMul(x, w1) r = Relu(a) y = MatMul(r, w2) }"
WITH_BIAS = "g (float[N,24] x) => (float[N,6] y) { a = Gemm(x, w1, b1) r = Relu(a) y = Gemm(r, w2, b2) }"


def correlated(seed: int, *shape: int) -> np.ndarray:
    """Draw vectors of 24 numbers that lie near 6 dimensions."""
    random = np.random.default_rng(seed)
    basis = np.random.default_rng(7).standard_normal((6, 24))
    return (random.standard_normal((*shape, 6)) @ basis + random.standard_normal((*shape, 24)) / 20).astype(np.float32)


@pytest.mark.parametrize(
    ("text", "shape", "options"), [(PRODUCTS, (7,), {}), (WITH_BIAS, (), {"correct": False})], ids=["MatMul", "Gemm"]
)
def test_rounding_makes_up_for_its_errors_without_a_bias_to_correct(
    text: str, shape: tuple[int, ...], options: dict[str, Any]
) -> None:
    weights: dict[str, tuple[int, ...] | np.ndarray] = {"w1": (24, 32), "w2": (32, 6)}
    weights |= {"b1": (32,), "b2": (6,)} if text == WITH_BIAS else {}
    subject, x = model(text, weights), correlated(0, 200, *shape)
    new = {"x": correlated(1, 300, *shape)}
    expected = plain_run(subject, new)["y"]
    errors = {}
    for rounding in ("nearest", "gptq"):
        step, copy = Quantize(rounding=rounding, **options), subject.clone()
        step.apply(copy, step.plan(copy, Context(copy, samples=load_samples({"x": x}, copy))))
        kept = [v for v in copy.graph.initializers.values() if v.name and v.name.startswith("b")]
        assert options or not [v for v in kept if v.const_value is not None and v.const_value.numpy().any()]
        errors[rounding] = float(np.square(plain_run(copy, new)["y"] - expected).mean())
    assert errors["gptq"] < 0.85 * errors["nearest"]
