"""What an override gives to a layer is what the pass with that option gives to it, and nothing else changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from corpus.text import model

from onnxcompress import passes
from onnxcompress.contract import Context
from onnxcompress.graph import shapes
from onnxcompress.samples.samples import load_samples

CHAIN = """g (float[N,32] x) => (float[N,8] y) {
    [first] a = MatMul(x, w1) b = Relu(a) [second] c = MatMul(b, w2) d = Relu(c) [third] y = MatMul(d, w3) }"""
WEIGHTS = {"w1": (32, 32), "w2": (32, 32), "w3": (32, 8)}
RANDOM = np.random.default_rng(0)
DATA = {"x": (RANDOM.standard_normal((256, 8)) @ RANDOM.standard_normal((8, 32))).astype(np.float32)}
"""Inputs that hang together, so that errors of rounding can make up for each other."""


def made(name: str, **options: Any) -> dict[str, bytes]:
    """Return what the constants of the result hold, by name; those of one weight begin with its name."""
    subject = model(CHAIN, WEIGHTS)
    shapes.infer(subject)
    step = getattr(passes, name)(**options)
    step.apply(subject, step.plan(subject.clone(), Context(subject, samples=load_samples(DATA, subject))))
    constants = {n: v.const_value for n, v in subject.graph.initializers.items() if v.const_value is not None}
    return {n: f"{tensor.dtype} {tensor.shape} ".encode() + tensor.tobytes() for n, tensor in constants.items()}


def of(found: dict[str, bytes], *names: str) -> dict[str, bytes]:
    return {name: value for name, value in found.items() if name.startswith(names)}


PLAIN = {"rounding": "nearest", "correct": False}
SMALL = {"minimum_size": 1}
FEW = {**SMALL, "dtype": "uint4", "rounding": "nearest"}
CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("QuantizeWeights", SMALL, {"dtype": "uint8"}),
    ("QuantizeWeights", SMALL, {"symmetric": False}),
    ("QuantizeWeights", SMALL, {"granularity": "tensor"}),
    ("QuantizeWeights", SMALL, {"block_size": 16}),
    ("QuantizeWeights", SMALL, {"granularity": "block", "block_size": 16}),
    ("QuantizeWeights", {**SMALL, "block_size": 16}, {"granularity": "channel"}),
    ("QuantizeWeights", {**SMALL, "block_size": 16}, {"block_size": 4}),
    ("QuantizeWeights", {**SMALL, "block_size": 16}, {"format": "matmulnbits"}),
    (
        "QuantizeWeights",
        {**FEW, "granularity": "channel"},
        {"calibration": "minmax"},
    ),
    (
        "QuantizeWeights",
        FEW,
        {"dtype": "uint8", "granularity": "tensor"},
    ),
    ("QuantizeWeights", SMALL, {"minimum_size": 2000}),
    ("QuantizeDynamic", {}, {"granularity": "tensor"}),
    ("QuantizeDynamic", {"reduce_range": False}, {"reduce_range": True}),
    ("QuantizeDynamic", {}, {"weights": "uint8"}),
    ("Quantize", PLAIN, {"granularity": "tensor"}),
]


@pytest.mark.parametrize(("name", "base", "own"), CASES, ids=str)
def test_an_override_is_the_option_for_one_layer(name: str, base: dict[str, Any], own: dict[str, Any]) -> None:
    together = {"granularity": None, "block_size": None} if name == "QuantizeWeights" and "granularity" in own else {}
    plain, all_of_them = made(name, **base), made(name, **(base | together | own))
    found = made(name, **base, overrides={"second": own})
    assert of(found, "w2") == of(all_of_them, "w2") != of(plain, "w2")
    assert of(found, "w1", "w3") == of(plain, "w1", "w3")


@pytest.mark.parametrize("name", ["Quantize", "QuantizeWeights"])
def test_one_layer_alone_is_rounded_by_gptq(name: str) -> None:
    base = PLAIN if name == "Quantize" else SMALL
    plain = made(name, **base)
    found = made(name, **base, overrides={"first": {"rounding": "gptq"}})
    everywhere = made(name, **(base | {"rounding": "gptq"}))
    assert of(found, "w1_quantized") == of(everywhere, "w1_quantized") != of(plain, "w1_quantized")
    assert of(found, "w2", "w3") == of(plain, "w2", "w3")


def test_the_later_of_two_overrides_holds() -> None:
    one = made("QuantizeWeights", **SMALL, overrides={"type:MatMul": {"dtype": "uint8"}, "second": {"dtype": "int8"}})
    assert of(one, "w2") == of(made("QuantizeWeights", **SMALL), "w2")
    other = made("QuantizeWeights", **SMALL, overrides={"second": {"dtype": "int8"}, "type:MatMul": {"dtype": "uint8"}})
    assert other == made("QuantizeWeights", **SMALL, dtype="uint8")


def test_fragile_operators_may_be_narrow_one_by_one() -> None:
    subject = model("g (float[N,4] x) => (float[N,4] y) { [a] b = Exp(x) [c] y = Exp(b) }", {})
    shapes.infer(subject)
    step = passes.ConvertFloat(overrides={"c": {"keep_fragile": False}})
    plan = step.plan(subject, Context(subject))
    assert plan.nodes == ("y",)
    reason = "Exp leaves the range or the precision of float16 first (keep_fragile); it stays in float32"
    assert {refusal.subject: refusal.reason for refusal in plan.refused} == {"a (Exp)": reason}


def test_samples_are_needed_where_one_layer_asks_for_them() -> None:
    assert not passes.QuantizeWeights().needs.samples
    assert passes.QuantizeWeights(overrides={"w1": {"rounding": "gptq"}}).needs.samples


def test_what_the_user_gave_is_not_changed() -> None:
    given: dict[str, dict[str, Any]] = {"w1": {"symmetric": True}}
    step = passes.QuantizeWeights(overrides=given)
    given["w1"]["symmetric"] = "maybe"
    assert step.overrides == {"w1": {"symmetric": True}}
