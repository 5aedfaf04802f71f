"""`Quantize(overrides=...)`: single layers that read activations of 16 bits among others of 8."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest
from corpus.oracle import plain_run
from corpus.text import model

from onnxcompress.contract import Changes
from onnxcompress.errors import OptionError, PassError
from onnxcompress.targets import lint

Feeds = dict[str, np.ndarray]
Quantizer = Callable[..., tuple[ir.Model, Changes]]
Literally = Callable[[ir.Model, Feeds], Feeds]
Floats = npt.NDArray[np.float64]


def int16(*terms: str) -> dict[str, dict[str, str]]:
    return {term: {"activations": "uint16"} for term in terms}


CHAIN = """g (float[N,8,1,1] x) => (float[N,4,1,1] y) {
    a = Conv(x, w1) r = Relu(a) b = Conv(r, w2) s = Relu(b) y = Conv(s, w3) }"""
FORK = """g (float[N,8,1,1] x) => (float[N,4,1,1] u, float[N,4,1,1] v) {
    a = Conv(x, w1) r = Relu(a) u = Conv(r, w2) v = Conv(r, w3) }"""
WEIGHTS = {"w1": (8, 8, 1, 1), "w2": (4, 8, 1, 1), "w3": (4, 8, 1, 1)}


def chain() -> ir.Model:
    """One channel of `r` is 200 times as large as the others, and what reads it does not need it."""
    random = np.random.default_rng(5)
    w1, w2 = (random.normal(size=(8, 8, 1, 1)).astype(np.float32) for _ in range(2))
    w1[0] *= 200
    w2[:, 0] = 0
    return model(CHAIN, {"w1": w1, "w2": w2, "w3": (4, 8, 1, 1)})


def rows(seed: int, count: int = 64) -> Feeds:
    return {"x": np.random.default_rng(seed).normal(size=(count, 8, 1, 1)).astype(np.float32)}


def decibels(subject: ir.Model, result: ir.Model) -> float:
    a, b = (plain_run(m, rows(9, 512))["y"].astype(np.float64) for m in (subject, result))
    return float(10 * np.log10(np.square(a).sum() / np.square(a - b).sum()))


def types(subject: ir.Model) -> dict[str, str]:
    """Each QuantizeLinear → the type that it gives."""
    found: dict[str, str] = {}
    for node in subject.graph:
        if node.op_type == "QuantizeLinear":
            point: Any = node.inputs[2]
            found[str(node.name)] = point.dtype.name
    return found


def test_only_what_an_int16_layer_reads_is_stored_in_16_bits(quantized: Quantizer) -> None:
    result, changes = quantized(chain(), rows(0), target="qnn", overrides=int16("b"))
    assert [name for name, dtype in types(result).items() if dtype == "UINT16"] == ["r_quantized"]
    assert result.opset_imports[""] == 21
    assert lint(result, "qnn").findings == lint(quantized(chain(), rows(0), target="qnn")[0], "qnn").findings
    assert [change.subject for change in changes.done if "activations of uint16" in change.what] == ["b (Conv)"]


def test_a_layer_with_a_bad_range_gains_from_16_bits_and_others_do_not(quantized: Quantizer) -> None:
    subject = chain()
    narrow, bad, good = (
        decibels(subject, quantized(subject, rows(0), target="qnn", overrides=int16(*names))[0])
        for names in ((), ("b",), ("y",))
    )
    assert bad > narrow + 10
    assert abs(good - narrow) < 1


def rounded(values: Floats, seen: Floats, top: int) -> Floats:
    """Round as integers from 0 to `top` do that cover the range of `seen`, and 0."""
    low, high = min(seen.min(), 0.0), max(seen.max(), 0.0)
    scale = np.float32((high - low) / top)
    zero_point = np.rint(-low / scale)
    integers: Floats = np.clip(np.rint(values / scale) + zero_point, 0, top)
    return (integers - zero_point) * scale


def test_a_tensor_read_in_16_bits_and_in_8_is_right_for_both(quantized: Quantizer, literally: Literally) -> None:
    subject, feeds = model(FORK, WEIGHTS), rows(0)
    result, _ = quantized(subject, feeds, target="qnn", overrides=int16("u"))
    assert sorted(types(result).values()) == ["UINT16", *["UINT8"] * 4], "r twice; x, u and v in 8"
    x = feeds["x"][..., 0, 0].astype(np.float64)
    w1, w2, w3 = (subject.graph.initializers[n].const_value.numpy()[..., 0, 0].T.astype(float) for n in WEIGHTS)  # type: ignore[union-attr]
    q1, q2, q3 = (np.rint(w / (s := np.abs(w).max(0) / 127)) * s for w in (w1, w2, w3))
    seen = np.maximum(x @ w1, 0)
    read = np.maximum(rounded(x, x, 255) @ q1, 0)
    in_16, in_8 = rounded(read, seen, 65535), rounded(read, seen, 255)
    for run in (literally, plain_run):
        u, v = (run(result, feeds)[name][..., 0, 0] for name in "uv")
        # The outputs have 8 bits. A sum of floats that falls between two integers may be rounded to either.
        assert np.mean(np.abs(u - rounded(in_16 @ q2, seen @ w2, 255)) < 1e-5) > 0.99
        assert np.mean(np.abs(v - rounded(in_8 @ q3, seen @ w3, 255)) < 1e-5) > 0.99
        assert np.mean(np.abs(u - rounded(in_8 @ q2, seen @ w2, 255)) < 1e-5) < 0.95
        assert np.mean(np.abs(v - rounded(in_16 @ q3, seen @ w3, 255)) < 1e-5) < 0.95


def test_an_unknown_name_is_an_error_with_the_nearest_one(quantized: Quantizer) -> None:
    with pytest.raises(PassError, match=r"overrides: 'bb' matches nothing in the model.*'b'"):
        quantized(chain(), rows(0), target="qnn", overrides=int16("b", "bb"))


def test_what_a_layer_in_float_reads_may_be_stored_in_16_bits(quantized: Quantizer) -> None:
    subject = chain()
    narrow, _ = quantized(subject, rows(0), target="qnn", exclude=("b",))
    result, changes = quantized(subject, rows(0), target="qnn", exclude=("b",), overrides=int16("b"))
    assert {refusal.subject for refusal in changes.refused} == {"b (Conv)"}
    assert types(result) == types(narrow) | {"r_quantized": "UINT16"}
    assert decibels(subject, result) > decibels(subject, narrow) + 10


def test_a_name_that_reads_no_integers_is_listed(quantized: Quantizer) -> None:
    subject = model("g (float[N,8] x) => (float[N,4] y) { t = Tanh(x) a = Gemm(t, w) y = Exp(a) }", {"w": (8, 4)})
    _, changes = quantized(subject, {"x": rows(0)["x"][..., 0, 0]}, target="qnn", overrides=int16("t"))
    assert [refusal.subject for refusal in changes.refused if "overrides names it" in refusal.reason] == ["t"]


def test_a_target_without_16_bits_refuses_int16_layers(quantized: Quantizer) -> None:
    with pytest.raises(
        OptionError,
        match="overrides.b.activations = 'uint16': target 'onnxruntime-cpu-?[a-z0-9]*' does not compute on uint16",
    ):
        quantized(chain(), rows(0), overrides=int16("b"))


def test_activations_that_have_16_bits_have_none_wider(quantized: Quantizer) -> None:
    with pytest.raises(OptionError, match=r"overrides.b.activations = 'int16': activations are uint16; none"):
        quantized(chain(), rows(0), target="qnn", activations="uint16", overrides={"b": {"activations": "int16"}})
