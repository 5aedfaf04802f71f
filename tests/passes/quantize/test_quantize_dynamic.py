"""`QuantizeDynamic` against the same arithmetic in numpy, and what it refuses."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from corpus.machine import LARGEST, SATURATES
from corpus.oracle import drawn_feeds, plain_run
from corpus.text import model
from corpus.versions import skip_before

from onnxcompress import apply, load
from onnxcompress.contract import Changes, Context
from onnxcompress.errors import PassError
from onnxcompress.graph import edit
from onnxcompress.passes import FoldConstants, QuantizeDynamic
from onnxcompress.passes.quantize.quantize_dynamic import DynamicPlan


def quantized(subject: ir.Model, **options: Any) -> tuple[ir.Model, Changes]:
    """Apply the pass, and its plan once more from JSON: both must give the same bytes."""
    step = QuantizeDynamic(**options)
    before = ir.to_proto(subject).SerializeToString(deterministic=True)
    plan = step.plan(subject, Context(subject))
    assert ir.to_proto(subject).SerializeToString(deterministic=True) == before
    copies = [subject.clone(), subject.clone()]
    changes = step.apply(copies[0], plan)
    step.apply(copies[1], DynamicPlan.from_json(plan.to_json()))
    first, second = (ir.to_proto(copy).SerializeToString(deterministic=True) for copy in copies)
    assert first == second
    onnx.checker.check_model(ir.to_proto(copies[0]), full_check=True)
    return copies[0], changes


def kinds(subject: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in subject.graph.all_nodes())


def rounded_input(x: np.ndarray) -> np.ndarray:
    """What DynamicQuantizeLinear makes of a tensor, as its specification says, and back."""
    low, high = min(x.min(), np.float32(0)), max(x.max(), np.float32(0))
    scale = np.float32((high - low) / np.float32(255))
    zero = np.clip(np.rint(-low / scale), 0, 255)
    return (np.clip(np.rint(x / scale) + zero, 0, 255) - zero) * np.float64(scale)


def rounded_weight(w: np.ndarray, axis: int | None, largest: int = LARGEST) -> np.ndarray:
    others = tuple(i for i in range(w.ndim) if i != axis) if axis is not None else None
    scale = (np.abs(w).max(axis=others, keepdims=True) / largest).astype(np.float32).astype(np.float64)
    return np.rint(w / scale) * scale


CHOICES: list[Any] = [
    ({}, True, LARGEST),
    ({"granularity": "tensor"}, False, LARGEST),
    pytest.param(
        ({"reduce_range": False}, True, 127), marks=pytest.mark.skipif(SATURATES, reason="sums saturate here")
    ),
    ({"weights": "uint8"}, True, 127),
    ({"weights": "uint8", "granularity": "tensor", "reduce_range": True}, False, 64),
    ({"reduce_range": True}, True, 64),
]


@pytest.mark.parametrize("opset", [11, 13, 18, 21])
@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_matmul_is_the_arithmetic_of_its_integers(opset: int, choice: tuple[dict[str, Any], bool, int]) -> None:
    options, per_channel, largest = choice
    subject = model("g (float[N,5,32] x) => (float[N,5,8] y) { y = MatMul(x, w) }", {"w": (32, 8)}, opset=opset)
    w = subject.graph.initializers["w"].const_value.numpy()  # type: ignore[union-attr]
    result, changes = quantized(subject, **options)
    feeds = drawn_feeds(subject)
    expected = rounded_input(feeds["x"]) @ rounded_weight(w, 1 if per_channel else None, largest)
    np.testing.assert_allclose(plain_run(result, feeds)["y"], expected, rtol=1e-5, atol=1e-5)
    assert kinds(result)["MatMulInteger"] == 1 and kinds(result)["MatMul"] == 0
    assert not changes.refused


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_gemm_keeps_its_factors_and_bias(choice: tuple[dict[str, Any], bool, int]) -> None:
    options, per_channel, largest = choice
    body = "y = Gemm<transB = 1, alpha = 0.5, beta = 2.0>(x, w, b)"
    subject = model(f"g (float[N,32] x) => (float[N,8] y) {{ {body} }}", {"w": (8, 32), "b": (8,)})
    w, b = (subject.graph.initializers[name].const_value.numpy() for name in "wb")  # type: ignore[union-attr]
    result, _ = quantized(subject, **options)
    feeds = drawn_feeds(subject)
    rounded = rounded_weight(w.T * np.float32(0.5), 1 if per_channel else None, largest)
    expected = rounded_input(feeds["x"]) @ rounded + 2 * b
    np.testing.assert_allclose(plain_run(result, feeds)["y"], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("choice", CHOICES, ids=str)
@pytest.mark.parametrize("attributes", ["pads = [1,1,1,1]", "group = 2, strides = [2,2]", 'auto_pad = "SAME_UPPER"'])
def test_conv_is_the_float_conv_of_rounded_values(choice: tuple[dict[str, Any], bool, int], attributes: str) -> None:
    options, per_channel, largest = choice
    groups = 2 if "group" in attributes else 1
    text = f"g (float[2,4,9,9] x) => (float[N,C,H,W] y) {{ y = Conv<{attributes}>(x, w, b) }}"
    subject = model(text, {"w": (6, 4 // groups, 3, 3), "b": (6,)})
    result, _ = quantized(subject, conv=True, **options)
    feeds = drawn_feeds(subject)
    w, b = (subject.graph.initializers[name].const_value.numpy() for name in "wb")  # type: ignore[union-attr]
    weights = {"w": rounded_weight(w, 0 if per_channel else None, largest).astype(np.float32), "b": b}
    expected = plain_run(model(text, weights), {"x": rounded_input(feeds["x"]).astype(np.float32)})["y"]
    np.testing.assert_allclose(plain_run(result, feeds)["y"], expected, rtol=1e-4, atol=1e-5)
    assert kinds(result)["ConvInteger"] == 1


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_lstm_stores_rounded_weights(directions: int, choice: tuple[dict[str, Any], bool, int]) -> None:
    """Its kernel quantizes inputs step by step: near the float LSTM, with weights half a step off at most."""
    way = ', direction = "bidirectional"' if directions == 2 else ""
    text = f"""g (float[5,2,24] x) => (float[S,D,B,H] y, float[D,B,H] c) {{
        y, h, c = LSTM<hidden_size = 16{way}>(x, w, r, b) }}"""
    subject = model(
        text,
        {"w": (directions, 64, 24), "r": (directions, 64, 16), "b": (directions, 128)},
    )
    options, per_channel, _ = choice
    result, changes = quantized(subject, **options)
    feeds = drawn_feeds(subject)
    before, after = plain_run(subject, feeds), plain_run(result, feeds)
    for name in before:
        assert np.abs(before[name] - after[name]).max() < 0.06 * np.abs(before[name]).max()
    node = next(n for n in result.graph if n.op_type == "DynamicQuantizeLSTM")
    for place, name in ((1, "w"), (2, "r")):
        integers, scale, zero = (
            node.inputs[i].const_value.numpy()  # type: ignore[union-attr]
            for i in (place, 6 + 2 * place, 7 + 2 * place)
        )
        original = subject.graph.initializers[name].const_value.numpy()  # type: ignore[union-attr]
        wide = scale.reshape(directions, -1, 1).astype(np.float64)
        restored = (integers.transpose(0, 2, 1).astype(int) - int(zero.ravel()[0])) * wide
        assert (np.abs(restored - original) <= wide * 0.50001).all()
        assert scale.shape == ((directions, 64) if per_channel else (directions,))
    assert len(changes.done) == 1


def test_readers_of_one_tensor_share_its_integers_and_onnxruntime_fuses_them(tmp_path: Path) -> None:
    text = """g (float[N,32] x) => (float[N,32] q, float[N,32] k, float[N,16] y) {
        a = MatMul(x, wq) q = Add(a, b) k = MatMul(x, wk) v = Relu(q) y = MatMul(v, wv) }"""
    subject = model(text, {"wq": (32, 32), "wk": (32, 32), "wv": (32, 16), "b": (32,)})
    result, _ = quantized(subject)
    assert kinds(result)["DynamicQuantizeLinear"] == 2
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(ir.to_proto(result).SerializeToString(), options, providers=["CPUExecutionProvider"])
    fused = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert fused == {"DynamicQuantizeLinear": 1, "MatMulIntegerToFloat": 2, "Relu": 1, "DynamicQuantizeMatMul": 1}


def test_tied_weights_stay_tied() -> None:
    subject = model(
        "g (float[N,32] x) => (float[N,32] y) { a = MatMul(x, w) y = MatMul(a, w) }",
        {"w": (32, 32)},
    )
    result, _ = quantized(subject)
    matrices = [v for v in result.graph.initializers.values() if v.shape == ir.Shape([32, 32])]
    assert len(matrices) == 1
    assert len(matrices[0].uses()) == 2


INNER = """g (float[2,16] x, bool c) => (float[2,8] y) {
    h = Relu(x)
    y = If(c) <then_branch = t () => (float[2,8] p) { p = MatMul(h, w) },
               else_branch = e () => (float[2,8] m) { n = MatMul(h, w) m = Neg(n) }> }"""


def test_inner_graphs_are_quantized_and_share_what_is_outside() -> None:
    subject = model(INNER, {"w": (16, 8)})
    result, changes = quantized(subject)
    assert len(changes.done) == 2 and not changes.refused
    assert kinds(result)["DynamicQuantizeLinear"] == 1
    assert [v.shape for v in result.graph.initializers.values() if v.dtype == ir.DataType.INT8] == [ir.Shape([16, 8])]
    x = drawn_feeds(subject)["x"]
    expected = rounded_input(np.maximum(x, 0)) @ rounded_weight(
        subject.graph.initializers["w"].const_value.numpy(),  # type: ignore[union-attr]
        1,
    )
    for flag, sign in ((True, 1), (False, -1)):
        found = plain_run(result, {"x": x, "c": np.array(flag)})["y"]
        np.testing.assert_allclose(found, sign * expected, rtol=1e-5, atol=1e-5)


def test_local_functions_are_inlined() -> None:
    proto = onnx.parser.parse_model("""<ir_version: 9, opset_import: ["" : 18, "local" : 1]>
        g (float[N,2] x) => (float[N,2] y) { h = local.f(x) y = local.f(h) }
        <domain: "local", opset_import: ["" : 18]>
        f (a) => (b) { w = Constant<value = float[2,2] {1.0, 2.0, -3.0, 4.0}>() b = MatMul(a, w) }""")
    subject = ir.from_proto(proto)
    result, changes = quantized(subject)
    assert any(change.what.startswith("local functions inlined: ") for change in changes.done)
    assert kinds(result)["MatMulInteger"] == 2 and not result.functions
    x = np.array([[0.5, -1.0], [2.0, 3.0]], np.float32)
    w = rounded_weight(np.array([[1, 2], [-3, 4]], np.float32), 1)
    hidden = (rounded_input(x) @ w).astype(np.float32)
    np.testing.assert_allclose(plain_run(result, {"x": x})["y"], rounded_input(hidden) @ w, rtol=1e-5, atol=1e-5)


REFUSED = {
    "y = MatMul(x, x2)": "neither of its operands is a constant",
    "y = MatMul(w, x)": "the left of its operands is a constant",
    "y = Gemm<transA = 1>(x, w)": "transA",
    "a = Unsqueeze(x, ax) b = Conv(a, k) y = Squeeze(b, ax)": "conv=true",
    "h, y3 = GRU<hidden_size = 4>(x3, gw, gr) y = Squeeze(y3, ax)": "no dynamic GRU",
    "c = Cast<to = 10>(x) d = Cast<to = 10>(w) e = MatMul(c, d) y = Cast<to = 1>(e)": "computes in float16",
    "y = MatMul(x, bad)": "NaN or Inf",
    'y = Einsum<equation = "ij,jk->ik">(x, w)': "no integer Einsum",
}


@pytest.mark.parametrize("body", REFUSED)
def test_what_stays_in_float_is_named(body: str) -> None:
    weights: dict[str, Any] = {
        "w": (4, 4),
        "bad": np.full((4, 4), np.inf, np.float32),
        "ax": np.array([0]),
        "k": (4, 4, 1),
        "gw": (1, 12, 4),
        "gr": (1, 12, 4),
    }
    used = {name: value for name, value in weights.items() if name in re.findall(r"\w+", body)}
    text = f"g (float[4,4] x, float[4,4] x2, float[3,1,4] x3) => (float[A,B] y) {{ {body} }}"
    result, changes = quantized(model(text, used))
    assert not changes.done
    assert any(REFUSED[body] in refusal.reason for refusal in changes.refused)
    assert "DynamicQuantizeLinear" not in kinds(result)


def test_excluded_nodes_stay() -> None:
    text = "g (float[N,8] x) => (float[N,8] y) { a = MatMul(x, w) y = MatMul(a, v) }"
    result, changes = quantized(model(text, {"w": (8, 8), "v": (8, 8)}), exclude=("a",))
    assert [(r.subject, r.reason) for r in changes.refused] == [("a (MatMul)", "excluded by 'a'")]
    assert kinds(result)["MatMul"] == kinds(result)["MatMulInteger"] == 1


def test_a_plan_of_another_model_is_an_error() -> None:
    subject = model("g (float[N,8] x) => (float[N,8] y) { y = MatMul(x, w) }", {"w": (8, 8)})
    plan = QuantizeDynamic().plan(subject, Context(subject))
    other = model("g (float[N,8] x) => (float[N,8] z) { z = MatMul(x, w) }", {"w": (8, 8)})
    with pytest.raises(PassError, match="'y'"):
        QuantizeDynamic().apply(other, plan)


def test_real_vit(kit: Path, tmp_path: Path) -> None:
    result, report = apply(kit / "models" / "vit_cifar10.onnx", [QuantizeDynamic()], output=tmp_path / "d.onnx")
    assert len([d for d in report.steps[0].done if "integers" in d.what]) == 13
    assert kinds(result)["MatMulInteger"] == 13


@pytest.mark.slow
def test_real_lstm_inside_an_if(kit: Path, tmp_path: Path) -> None:
    source = kit / "models" / "silero_vad.onnx"
    result, _ = apply(source, [FoldConstants(), QuantizeDynamic()], output=tmp_path / "d.onnx")
    assert kinds(result)["DynamicQuantizeLSTM"] == 4 and kinds(load(source))["LSTM"] == 4
    noise = np.random.default_rng(0).normal(size=(1, 512)).astype(np.float32) * np.float32(0.1)
    feeds = {"input": noise, "state": np.zeros((2, 1, 128), np.float32), "sr": np.array(16000)}
    before, after = plain_run(source, feeds), plain_run(tmp_path / "d.onnx", feeds)
    np.testing.assert_allclose(after["output"], before["output"], atol=0.01)


def test_a_loop_quantizes_its_own_state_in_each_turn() -> None:
    text = """g (float[3,4] x) => (float[3,4] y) {
        y = Loop(count, go, x) <body = b (int64 i, bool c, float[3,4] s) => (bool d, float[3,4] t) {
            d = Identity(c) t = MatMul(s, w) }> }"""
    subject = model(text, {"w": (4, 4), "count": np.array(2), "go": np.array(True)})
    result, changes = quantized(subject)
    assert len(changes.done) == 1 and kinds(result)["MatMulInteger"] == 1
    w = rounded_weight(subject.graph.initializers["w"].const_value.numpy(), 1)  # type: ignore[union-attr]
    x = drawn_feeds(subject)["x"]
    expected = rounded_input((rounded_input(x) @ w).astype(np.float32)) @ w
    np.testing.assert_allclose(plain_run(result, {"x": x})["y"], expected, rtol=1e-4, atol=1e-5)


# --- attention -------------------------------------------------------------------------------------------------------


def attention(inputs: str = "x, w, b", more: str = "", weights: dict[str, tuple[int, ...]] | None = None) -> ir.Model:
    """Four heads of four channels, over five positions; `m` is a mask and `p` the keys and values of three before."""
    given = {"m": ", int32[2,T] m", "p": ", float[2,2,4,3,4] p", "e": ", float[2,4,5,5] e"}
    others = "".join(text for name, text in given.items() if name in re.split(", *", inputs))
    out, outputs = ("y, n", ", float[2,2,4,T,4] n") if "p" in inputs else ("y", "")
    text = f"""<ir_version: 9, opset_import: ["" : 18, "com.microsoft" : 1]>
        g (float[2,5,16] x{others}) => (float[2,5,16] y{outputs}) {{
            {out} = com.microsoft.Attention<num_heads = 4{more}>({inputs}) }}"""
    proto = onnx.parser.parse_model(text)
    random = np.random.default_rng(0)
    for name, shape in (weights or {"w": (16, 48), "b": (48,)}).items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(random.normal(size=shape).astype(np.float32), name))
    return ir.from_proto(proto)


def attention_feeds(subject: ir.Model) -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    feeds: dict[str, np.ndarray] = {"x": random.normal(size=(2, 5, 16)).astype(np.float32)}
    names = {value.name for value in subject.graph.inputs}
    if "m" in names:
        feeds["m"] = np.array([[1] * 8, [1] * 6 + [0] * 2], np.int32)[:, : 8 if "p" in names else 5]
        feeds["m"][0, 1] = 0
    if "p" in names:
        feeds["p"] = random.normal(size=(2, 2, 4, 3, 4)).astype(np.float32)
    return feeds


@pytest.mark.parametrize("choice", CHOICES, ids=str)
@pytest.mark.parametrize(
    ("inputs", "more"),
    [
        ("x, w, b", ""),
        ("x, w, b", ", unidirectional = 1, scale = 0.3"),
        ("x, w, b, m", ""),
        ("x, w, b, m", ", mask_filter_value = -50.0"),
        ("x, w, b, , p", ", unidirectional = 1"),
        ("x, w, b, m, p", ""),
    ],
)
def test_attention_is_that_of_rounded_values(choice: tuple[dict[str, Any], bool, int], inputs: str, more: str) -> None:
    options, per_channel, largest = choice
    subject = attention(inputs, more)
    result, changes = quantized(subject, **options)
    assert kinds(result)["QAttention"] == 1 and kinds(result)["Attention"] == 0
    assert not changes.refused
    feeds = attention_feeds(subject)
    rounded = attention(inputs, more)
    w = rounded.graph.initializers["w"].const_value.numpy()  # type: ignore[union-attr]
    edit.set_constant(
        rounded.graph.initializers["w"], rounded_weight(w, 1 if per_channel else None, largest).astype("f")
    )
    expected = plain_run(rounded, {**feeds, "x": rounded_input(feeds["x"]).astype(np.float32)})
    found = plain_run(result, feeds)
    assert list(found) == list(expected)
    for name in found:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-5)


def test_attention_without_a_bias_and_attentions_that_share_a_weight() -> None:
    skip_before("1.32", "crashes with an Attention without a bias")
    subject = attention("x, w", weights={"w": (16, 48)})
    feeds = attention_feeds(subject)
    expected = plain_run(subject, feeds)["y"]
    found = plain_run(quantized(subject)[0], feeds)["y"]
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()
    first = subject.graph[0]
    second = ir.Node("com.microsoft", "Attention", [first.outputs[0], first.inputs[1]], list(first.attributes.values()))
    second.outputs[0].name, second.outputs[0].type, second.outputs[0].shape = (
        "z",
        first.outputs[0].type,
        first.outputs[0].shape,
    )
    subject.graph.append(second)
    subject.graph.outputs.append(second.outputs[0])
    result, _ = quantized(subject)
    assert kinds(result)["QAttention"] == 2
    assert (
        sum(
            value.const_value.dtype == ir.DataType.INT8 and value.const_value.size > 1
            for value in result.graph.initializers.values()
        )
        == 1
    )  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("inputs", "more", "reason"),
    [
        ("x, w, b, , , e", "", "takes no bias of the attention"),
        ("x, w, b", ", qkv_hidden_sizes = [16, 16, 16]", "has no attribute qkv_hidden_sizes"),
        ("x, x, b", "", "its weight is not a constant of float32"),
    ],
)
def test_attention_that_has_no_integer_kernel_is_named(inputs: str, more: str, reason: str) -> None:
    subject = attention(inputs, more)
    subject.graph[0].name = "layer"
    plan = QuantizeDynamic().plan(subject, Context(subject))
    assert not plan.weights
    assert plan.refused[0].subject == "layer (com.microsoft::Attention)"
    assert reason in plan.refused[0].reason


def test_types_behind_fused_operators_are_those_of_weights() -> None:
    """ONNX does not know what operators of com.microsoft give."""
    proto = onnx.parser.parse_model("""<ir_version: 9, opset_import: ["" : 18, "com.microsoft" : 1]>
        g (float[2,5,16] x) => (float[2,5,16] y) {
            h = com.microsoft.BiasGelu(x, c) a = com.microsoft.Attention<num_heads = 4>(h, w, b)
            k = com.microsoft.BiasGelu(a, c) y = MatMul(k, v) }""")
    random = np.random.default_rng(0)
    for name, shape in {"c": (16,), "w": (16, 48), "b": (48,), "v": (16, 16)}.items():
        array = random.normal(size=shape).astype(np.float32) / 4
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    subject = ir.from_proto(proto)
    result, changes = quantized(subject)
    assert not changes.refused
    assert (kinds(result)["QAttention"], kinds(result)["MatMulInteger"]) == (1, 1)
    feeds = {"x": random.normal(size=(2, 5, 16)).astype(np.float32)}
    a, b = plain_run(subject, feeds)["y"], plain_run(result, feeds)["y"]
    assert np.abs(a - b).max() < 0.05 * np.abs(a).max()
