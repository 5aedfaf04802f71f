"""`Quantize`: numbers against numpy, integer kernels in onnxruntime, and what is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from corpus.machine import SATURATES
from corpus.oracle import plain_run
from corpus.text import model

from onnxcompress import apply
from onnxcompress.contract import Changes, Context
from onnxcompress.errors import OptionError, PassError
from onnxcompress.graph import edit
from onnxcompress.passes import FreezeInputs, Quantize
from onnxcompress.samples.samples import load_samples

Feeds = dict[str, np.ndarray]
Quantizer = Callable[..., tuple[ir.Model, Changes]]
Kernels = Callable[[Any], Counter[str]]
Run = Callable[[ir.Model, Feeds], Feeds]

CONV = "Conv<pads = [1, 1, 1, 1]>"
W = {"w1": (8, 4, 3, 3), "b1": (8,), "w2": (4, 8, 3, 3), "b2": (4,)}
FLOATS_ONLY = ("Conv", "Gemm", "MatMul", "FusedConv", "FusedMatMul", "Relu", "Clip", "Add", "Mul", "Concat")


def image(channels: int = 4, batch: int = 2, size: int = 8) -> Feeds:
    return {"x": np.random.default_rng(1).normal(size=(batch, channels, size, size)).astype(np.float32)}


def rows(width: int, batch: int = 64) -> Feeds:
    return {"x": np.random.default_rng(1).normal(size=(batch, width)).astype(np.float32)}


def net(body: str, weights: dict[str, Any] | None = None, shape: str = "N,4,8,8", out: str = "N,C,H,V") -> ir.Model:
    return model(f"g (float[{shape}] x) => (float[{out}] y) {{ {body} }}", W if weights is None else weights)


def close(a: np.ndarray, b: np.ndarray) -> float:
    """Signal to quantization noise, in dB."""
    noise = np.square(a.astype(np.float64) - b).mean()
    return float(10 * np.log10(np.square(a.astype(np.float64)).mean() / max(noise, 1e-30)))


# --- numbers ---------------------------------------------------------------------------------------------------------


def fake(x: np.ndarray, low: float, high: float) -> tuple[np.ndarray, np.float32]:
    """Quantize to uint8 and back, written out anew."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = np.float32((high - low) / 255)
    zero = np.round(-low / scale)
    return (np.clip(np.round(x / scale) + zero, 0, 255) - zero).astype(np.float32) * scale, scale


def fake_weight(w: np.ndarray, largest: int) -> tuple[np.ndarray, np.ndarray]:
    scale = (np.abs(w).max(axis=0) / np.float32(largest)).astype(np.float32)
    return np.clip(np.round(w / scale), -largest, largest) * scale, scale


@pytest.mark.parametrize(("target", "largest"), [("onnxruntime-cpu", 127), ("onnxruntime-cpu-avx2", 64)])
def test_numbers_are_those_of_a_numpy_emulation(
    quantized: Quantizer, literally: Run, target: str, largest: int
) -> None:
    subject = model(
        "g (float[N,16] x) => (float[N,5] y) { h = Gemm(x, w1, b1) r = Relu(h) y = Gemm(r, w2, b2) }",
        {"w1": (16, 12), "b1": (12,), "w2": (12, 5), "b2": (5,)},
    )
    feeds = rows(16)
    result, _ = quantized(subject, feeds, target=target)
    w1, b1, w2, b2 = (subject.graph.initializers[n].const_value.numpy() for n in ("w1", "b1", "w2", "b2"))  # type: ignore[union-attr]
    x, hidden = feeds["x"], np.maximum(feeds["x"] @ w1 + b1, 0)
    xq, xs = fake(x, x.min(), x.max())
    w1q, s1 = fake_weight(w1, largest)
    w2q, s2 = fake_weight(w2, largest)
    h = np.maximum(xq @ w1q + np.round(b1 / (xs * s1)) * (xs * s1), 0)
    hq, hs = fake(h, 0, hidden.max())
    expected = hq @ w2q + np.round(b2 / (hs * s2)) * (hs * s2)
    step = hs * np.abs(w2q).max()  # a value on the edge between two integers may fall to either side
    for run in (literally, *(() if SATURATES and largest == 127 else (plain_run,))):
        found = run(result, feeds)["y"]
        assert np.abs(found - expected).max() <= 1.01 * step
        assert np.median(np.abs(found - expected)) <= 1e-5


def test_alpha_and_beta_go_into_weight_and_bias(quantized: Quantizer, kernels: Kernels) -> None:
    subject = model(
        "g (float[N,16] x) => (float[N,5] y) { y = Gemm<alpha = 0.5, beta = 3.0, transB = 1>(x, w, b) }",
        {"w": (5, 16), "b": (1, 5)},
    )
    feeds = rows(16)
    result, _ = quantized(subject, feeds)
    assert kernels(result)["QGemm"] == 1
    assert close(plain_run(subject, feeds)["y"], plain_run(result, feeds)["y"]) > 30


def test_a_bias_too_large_for_int32_raises_the_scale_of_its_weights(quantized: Quantizer) -> None:
    w = np.full((3, 4, 1, 1), 1e-9, np.float32)
    w[1], w[2] = 0, 1
    bias = np.array([100, 0.123, -2], np.float32)
    subject = net("y = Conv(x, w, b)", {"w": w, "b": bias})
    feeds = image()
    result, _ = quantized(subject, feeds)
    a, b = plain_run(subject, feeds)["y"], plain_run(result, feeds)["y"]
    assert np.abs(a - b).max() <= (a.max() - a.min()) / 255
    stored = result.graph.initializers["b_quantized"].const_value.numpy()  # type: ignore[union-attr]
    assert stored.dtype == np.int32
    scale = result.graph.initializers["b_scale"].const_value.numpy()  # type: ignore[union-attr]
    assert (np.abs(stored * scale.astype(np.float64) - bias) <= 0.5001 * scale).all()
    assert scale[1] < 1e-9  # a channel without weights keeps its bias exact


def test_all_zero_ranges_are_stored_with_a_safe_scale(quantized: Quantizer) -> None:
    subject = net(f"c = {CONV}(x, w1, b1) r = Relu(c) y = {CONV}(r, w2, b2)", W | {"b1": np.full(8, -99, np.float32)})
    feeds = image()
    result, _ = quantized(subject, feeds)
    for name, value in result.graph.initializers.items():
        if name.endswith("_scale"):
            assert value.const_value is not None
            scale = value.const_value.numpy()
            assert np.isfinite(scale).all()
            assert (scale >= np.finfo(np.float32).tiny).all()
    assert close(plain_run(subject, feeds)["y"], plain_run(result, feeds)["y"]) > 30


# --- placement -------------------------------------------------------------------------------------------------------

PATTERNS: dict[str, tuple[str, dict[str, int]]] = {
    "relu": (f"c = {CONV}(x, w1, b1) r = Relu(c) y = {CONV}(r, w2, b2)", {"QLinearConv": 2}),
    "no bias": (f"c = {CONV}(x, w1) y = {CONV}(c, w2)", {"QLinearConv": 2}),
    "relu6": (
        f"lo = Constant<value = float {{0}}>() hi = Constant<value = float {{0.4}}>() c = {CONV}(x, w1, b1) "
        f"r = Clip(c, lo, hi) y = {CONV}(r, w2, b2)",
        {"QLinearConv": 2},
    ),
    "clip around zero": (
        f"lo = Constant<value = float {{-0.3}}>() hi = Constant<value = float {{0.4}}>() c = {CONV}(x, w1, b1) "
        f"r = Clip(c, lo, hi) y = {CONV}(r, w2, b2)",
        {"QLinearConv": 2},
    ),
    "residual": (
        f"c = {CONV}(x, w1, b1) r = Relu(c) d = {CONV}(r, w2, b2) s = Add(d, x) t = Relu(s) y = {CONV}(t, w1)",
        {"QLinearConv": 3, "QLinearAdd": 1},
    ),
    "bias behind": (
        f"c = {CONV}(x, w1) a = Add(c, cb) r = Relu(a) y = {CONV}(r, w2, b2)",
        {"QLinearConv": 2},
    ),
    "hard swish": (
        "three = Constant<value = float {3}>() lo = Constant<value = float {0}>() hi = Constant<value = float {6}>() "
        f"six = Constant<value = float {{6}}>() c = {CONV}(x, w1, b1) a = Add(c, three) k = Clip(a, lo, hi) "
        f"m = Mul(c, k) d = Div(m, six) y = {CONV}(d, w2, b2)",
        {"QLinearConv": 2, "QLinearAdd": 1, "QLinearMul": 1},
    ),
    "swish": (
        f"c = {CONV}(x, w1, b1) s = Sigmoid(c) m = Mul(c, s) y = {CONV}(m, w2, b2)",
        {"QLinearConv": 2, "QLinearSigmoid": 1, "QLinearMul": 1},
    ),
    "leaky": (
        f"c = {CONV}(x, w1, b1) l = LeakyRelu(c) y = {CONV}(l, w2, b2)",
        {"QLinearConv": 2, "QLinearLeakyRelu": 1},
    ),
    "pool": (
        f"c = {CONV}(x, w1, b1) r = Relu(c) p = MaxPool<kernel_shape = [2, 2]>(r) y = {CONV}(p, w2, b2)",
        {"QLinearConv": 2},
    ),
    "shuffle": (
        "five = Constant<value = int64[5] {0, 2, 4, 8, 8}>() four = Constant<value = int64[4] {0, 8, 8, 8}>() "
        f"c = {CONV}(x, w1, b1) e = Reshape(c, five) t = Transpose<perm = [0, 2, 1, 3, 4]>(e) f = Reshape(t, four) "
        f"y = {CONV}(f, w2, b2)",
        {"QLinearConv": 2},
    ),
    "split and concat": (
        f"c = {CONV}(x, w1, b1) p, q = Split<axis = 1, num_outputs = 2>(c) k = Concat<axis = 1>(q, p) "
        f"y = {CONV}(k, w2, b2)",
        {"QLinearConv": 2, "QLinearConcat": 1},
    ),
    "upsample": (
        f"s = Constant<value = float[4] {{1, 1, 2, 2}}>() c = {CONV}(x, w1, b1) "
        f'u = Resize<mode = "nearest">(c, , s) y = {CONV}(u, w2, b2)',
        {"QLinearConv": 2},
    ),
}


@pytest.mark.parametrize("case", PATTERNS)
def test_everything_between_two_convolutions_computes_on_integers(
    case: str, quantized: Quantizer, kernels: Kernels
) -> None:
    body, wanted = PATTERNS[case]
    biases = {"cb": np.linspace(-1, 1, 8, dtype=np.float32).reshape(8, 1, 1)} if "cb" in body else {}
    used = {n: s for n, s in (W | biases).items() if n in body.replace(")", ",").replace(" ", ",").split(",")}
    subject = net(body, used)
    feeds = image()
    result, changes = quantized(subject, feeds)
    assert not changes.refused
    found = kernels(result)
    assert {op: found[op] for op in wanted} == wanted
    assert found["QuantizeLinear"] == found["DequantizeLinear"] == 1  # at the input and at the output
    assert not [op for op in FLOATS_ONLY if op in found]
    assert close(plain_run(subject, feeds)["y"], plain_run(result, feeds)["y"]) > 25


def test_the_head_of_a_classifier(quantized: Quantizer, kernels: Kernels) -> None:
    subject = net(
        f"c = {CONV}(x, w1, b1) r = Relu(c) g = GlobalAveragePool(r) f = Flatten(g) y = Gemm<transB = 1>(f, w, b)",
        {"w1": (8, 4, 3, 3), "b1": (8,), "w": (10, 8), "b": (10,)},
        out="N,10",
    )
    feeds = image()
    result, _ = quantized(subject, feeds)
    found = kernels(result)
    assert (found["QLinearConv"], found["QLinearGlobalAveragePool"], found["QGemm"]) == (1, 1, 1)
    assert (found["QuantizeLinear"], found["DequantizeLinear"]) == (1, 0)  # QGemm gives float by itself
    assert close(plain_run(subject, feeds)["y"], plain_run(result, feeds)["y"]) > 25


@pytest.mark.parametrize(
    ("shape", "kernel"), [("64,16", "QGemm"), ("2,32,16", "QGemm"), ("N,S,16", "MatMulIntegerToFloat")]
)
def test_matmul_and_add_stay_an_integer_kernel(shape: str, kernel: str, quantized: Quantizer, kernels: Kernels) -> None:
    subject = model(
        f"g (float[{shape}] x) => (float[{shape}] y) {{ m = MatMul(x, w) y = Add(b, m) }}", {"w": (16, 16), "b": (16,)}
    )
    dims = [int(d) if d.isdigit() else 8 for d in shape.split(",")]
    feeds = {"x": np.random.default_rng(0).normal(size=dims).astype(np.float32)}
    result, _ = quantized(subject, feeds)
    assert kernels(result)[kernel] == 1
    assert close(plain_run(subject, feeds)["y"], plain_run(result, feeds)["y"]) > 30


def test_attention_multiplies_activations_by_activations(quantized: Quantizer, kernels: Kernels) -> None:
    subject = model(
        """g (float[N,6,16] x) => (float[N,6,16] y) {
            q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv) t = Transpose<perm = [0, 2, 1]>(k)
            s = MatMul(q, t) z = Mul(s, c) p = Softmax<axis = -1>(z) a = MatMul(p, v) y = MatMul(a, wo) }""",
        {"wq": (16, 16), "wk": (16, 16), "wv": (16, 16), "wo": (16, 16), "c": np.array(0.25, np.float32)},
    )
    feeds = {"x": np.random.default_rng(0).normal(size=(4, 6, 16)).astype(np.float32)}
    result, changes = quantized(subject, feeds)
    assert not changes.refused
    found = kernels(result)
    assert found["QLinearMatMul"] + found["MatMulIntegerToFloat"] == 6
    assert close(plain_run(subject, feeds)["y"], plain_run(result, feeds)["y"]) > 20


def test_a_cheap_operator_away_from_compute_stays_float(quantized: Quantizer) -> None:
    subject = net(f"a = Add(x, x) s = Sigmoid(a) c = {CONV}(s, w1) m = Mul(c, c) y = Sqrt(m)", {"w1": (8, 4, 3, 3)})
    result, _ = quantized(subject, image())
    readers = {e.op_type for n in result.graph if n.op_type == "DequantizeLinear" for e, _ in n.outputs[0].uses()}
    assert readers == {"Conv", "Mul"}
    assert sum(n.op_type == "QuantizeLinear" for n in result.graph) == 2


def test_data_movement_shares_the_scale_of_its_source(quantized: Quantizer) -> None:
    body, _ = PATTERNS["shuffle"]
    result, _ = quantized(net(body), image())
    scales = {n.outputs[0].name: n.inputs[1] for n in result.graph if n.op_type == "QuantizeLinear"}
    assert len({scales[f"{t}_quantized"] for t in ("c", "e", "t", "f")}) == 1


def test_outputs_keep_their_names_and_order(quantized: Quantizer) -> None:
    subject = model(
        f"""g (float[N,4,8,8] x) => (float[N,8,8,8] c, float[N,4,8,8] y) {{
            c = {CONV}(x, w1, b1) y = {CONV}(c, w2, b2) }}""",
        W,
    )
    feeds = image()
    result, _ = quantized(subject, feeds)
    a, b = plain_run(subject, feeds), plain_run(result, feeds)
    assert list(a) == list(b)
    assert min(close(a[name], b[name]) for name in a) > 25


def test_int8_activations(quantized: Quantizer) -> None:
    subject, feeds = net(PATTERNS["residual"][0]), image()
    result, _ = quantized(subject, feeds, activations="int8")
    assert {n.inputs[2].dtype for n in result.graph if n.op_type == "QuantizeLinear"} == {ir.DataType.INT8}  # type: ignore[union-attr]
    assert close(plain_run(subject, feeds)["y"], plain_run(result, feeds)["y"]) > 25


def test_one_scale_for_each_weight(quantized: Quantizer, kernels: Kernels) -> None:
    subject, feeds = net(PATTERNS["relu"][0]), image()
    result, _ = quantized(subject, feeds, granularity="tensor")
    assert kernels(result)["QLinearConv"] == 2
    assert all("axis" not in node.attributes for node in result.graph)
    assert close(plain_run(subject, feeds)["y"], plain_run(result, feeds)["y"]) > 25


# --- weights wherever they are ---------------------------------------------------------------------------------------


KINDS: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "1-D convolution": ("N,4,16", "N,8,14", "y = Conv(x, w, b)", {"w": (8, 4, 3), "b": (8,)}),
    "3-D convolution": ("N,4,6,6,6", "N,8,4,4,4", "y = Conv(x, w, b)", {"w": (8, 4, 3, 3, 3), "b": (8,)}),
    "depthwise": ("N,8,6,6", "N,8,4,4", "y = Conv<group = 8>(x, w, b)", {"w": (8, 1, 3, 3), "b": (8,)}),
    "grouped, strided": (
        "N,8,9,9",
        "N,8,5,5",
        "y = Conv<group = 2, strides = [2, 2], pads = [1, 1, 1, 1]>(x, w)",
        {"w": (8, 4, 3, 3)},
    ),
    "transposed input": ("6,8", "8,4", "y = Gemm<transA = 1>(x, w, b)", {"w": (6, 4), "b": (4,)}),
    "one bias": ("N,8", "N,4", "y = Gemm(x, w, b)", {"w": (8, 4), "b": (1,)}),
    "vector": ("N,8", "N", "y = MatMul(x, w)", {"w": (8,)}),
    "stack of matrices": ("3,5,8", "3,5,4", "y = MatMul(x, w)", {"w": (3, 8, 4)}),
    "constant from the left": ("8,5", "4,5", "y = MatMul(w, x)", {"w": (4, 8)}),
    "squared": ("N,4,6,6", "N,4,2,2", "c = Conv(x, w) m = Mul(c, c) y = Conv(m, w)", {"w": (4, 4, 3, 3)}),
    "concat with a constant": (
        "1,4,6,6",
        "1,4,2,2",
        "c = Conv(x, w) k = Concat<axis = 1>(c, o) y = Conv(k, v)",
        {"w": (4, 4, 3, 3), "o": (1, 2, 4, 4), "v": (4, 6, 3, 3)},
    ),
    "scaled behind": (
        "N,4,6,6",
        "N,4,4,4",
        "c = Conv(x, w) r = Relu(c) y = Mul(r, h)",
        {"w": (4, 4, 3, 3), "h": np.array(0.3, np.float32)},
    ),
}


@pytest.mark.parametrize("case", KINDS)
def test_each_kind_of_compute(case: str, quantized: Quantizer, kernels: Kernels) -> None:
    shape, out, body, weights = KINDS[case]
    subject = model(f"g (float[{shape}] x) => (float[{out}] y) {{ {body} }}", weights)
    dims = [int(d) if d.isdigit() else 8 for d in shape.split(",")]
    feeds = {"x": np.random.default_rng(0).normal(size=dims).astype(np.float32)}
    result, changes = quantized(subject, feeds)
    assert not changes.refused
    found = kernels(result)
    assert not {"Conv", "Gemm", "MatMul", "FusedConv", "FusedGemm", "Mul", "Concat"} & found.keys()
    assert close(plain_run(subject, feeds)["y"], plain_run(result, feeds)["y"]) > 25


def test_shared_weights_and_biases_are_stored_once(quantized: Quantizer, kernels: Kernels) -> None:
    subject = net(f"c = {CONV}(x, w, b) r = Relu(c) y = {CONV}(r, w, b)", {"w": (4, 4, 3, 3), "b": (4,)})
    feeds = image()
    result, _ = quantized(subject, feeds)
    stored = [v.const_value for v in result.graph.initializers.values() if v.const_value is not None]
    assert [t.size for t in stored if t.dtype == ir.DataType.INT8 and t.size > 4] == [144]
    assert kernels(result)["QLinearConv"] == 2
    assert close(plain_run(subject, feeds)["y"], plain_run(result, feeds)["y"]) > 25


def test_weights_behind_constants_transposes_casts_and_identities(quantized: Quantizer, kernels: Kernels) -> None:
    subject = model(
        """g (float[N,3] x) => (float[N,4] y) {
            c = Constant<value = float[2, 3] {1, -2, 3, 4, 5, -6}>() t = Transpose<perm = [1, 0]>(c) h = MatMul(x, t)
            i = Identity(w) d = Cast<to = 1>(i) y = MatMul(h, d) }""",
        {"w": np.arange(8, dtype=np.float64).reshape(2, 4)},
    )
    feeds = rows(3)
    result, changes = quantized(subject, feeds)
    assert not changes.refused
    assert not {"Transpose", "Cast", "Identity"} & {n.op_type for n in result.graph}
    found = kernels(result)
    assert found["QLinearMatMul"] + found["MatMulIntegerToFloat"] == 2
    assert close(plain_run(subject, feeds)["y"], plain_run(result, feeds)["y"]) > 30


def test_weights_that_are_inputs_as_well(quantized: Quantizer, kernels: Kernels) -> None:
    text = """<ir_version: 4, opset_import: ["" : 13]>
        g (float[2,4,8,8] x, float[8,4,3,3] w1) => (float[2,8,6,6] y) { y = Conv(x, w1) }"""
    proto = onnx.parser.parse_model(text)
    weight = np.random.default_rng(0).normal(size=(8, 4, 3, 3)).astype(np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w1"))
    frozen, _ = apply(ir.from_proto(proto), [FreezeInputs()])
    result, _ = quantized(frozen, image())
    assert [v.name for v in result.graph.inputs] == ["x"]
    assert kernels(result)["QLinearConv"] == 1


def test_a_tied_embedding_is_stored_twice_and_says_so(quantized: Quantizer) -> None:
    subject = model(
        """g (int64[N,3] i) => (float[N,3,50] y) {
            e = Gather(t, i) u = Transpose<perm = [1, 0]>(t) y = MatMul(e, u) }""",
        {"t": (50, 8)},
    )
    _, changes = quantized(subject, {"i": np.arange(30).reshape(10, 3)})
    assert [r.subject for r in changes.refused] == ["t"]
    assert "Gather) reads it in float, so that it is stored twice" in changes.refused[0].reason


def test_weights_of_a_copy_are_not_written_to(quantized: Quantizer) -> None:
    subject = net(PATTERNS["relu"][0])
    before = subject.graph.initializers["w1"].const_value.numpy().copy()  # type: ignore[union-attr]
    quantized(subject, image())
    np.testing.assert_array_equal(subject.graph.initializers["w1"].const_value.numpy(), before)  # type: ignore[union-attr]


# --- older opsets ----------------------------------------------------------------------------------------------------


def test_opset_11_is_raised(quantized: Quantizer, kernels: Kernels) -> None:
    subject = model(
        """g (float[2,4,8,8] x) => (float[2,10] y) { c = Conv(x, w1, b1) k = Clip(c, lo, hi)
            q = Unsqueeze<axes = [0]>(k) z = Squeeze<axes = [0]>(q) g = GlobalAveragePool(z) f = Flatten(g)
            h = Gemm(f, w, b) y = Softmax(h) }""",
        {
            "w1": (8, 4, 3, 3),
            "b1": (8,),
            "w": (8, 10),
            "b": (10,),
            "lo": np.array(0, np.float32),
            "hi": np.array(6, np.float32),
        },
        opset=11,
    )
    subject.metadata_props["author"] = "somebody"
    feeds = image()
    result, changes = quantized(subject, feeds)
    assert result.opset_imports[""] == 13
    assert result.metadata_props["author"] == "somebody"
    assert "opset raised to 13" in [change.what for change in changes.done]
    found = kernels(result)
    assert (found["QLinearConv"], found["QGemm"]) == (1, 1)
    np.testing.assert_allclose(plain_run(subject, feeds)["y"], plain_run(result, feeds)["y"], atol=0.02)


def test_resizing_before_opset_11_keeps_its_meaning(quantized: Quantizer) -> None:
    subject = model(
        'g (float[2,4,8,8] x) => (float[N,C,H,V] y) { u = Upsample<mode = "linear">(x, s) y = Conv(u, w) }',
        {"w": (8, 4, 3, 3), "s": np.array([1, 1, 2, 2], np.float32)},
        opset=9,
    )
    feeds = image()
    result, _ = quantized(subject, feeds)
    assert close(plain_run(subject, feeds)["y"], plain_run(result, feeds)["y"]) > 30


def test_an_operator_that_cannot_be_converted_is_named() -> None:
    text = '<ir_version: 4, opset_import: ["" : 9]> g (float[1,4] x) => (float[1,4] y) { y = Frobnicate(x) }'
    subject = ir.from_proto(onnx.parser.parse_model(text))
    with pytest.raises(PassError, match="Frobnicate"):
        Quantize().plan(subject, Context(subject))


# --- refusals --------------------------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "weight": (
        "m = ReduceMax<keepdims = 0>(x) w = Mul(w0, m) y = Conv(x, w)",
        {"w0": (8, 4, 3, 3)},
        "Conv.*weight is not a constant",
    ),
    "bias": ("m = ReduceMax<keepdims = 0>(x) b = Mul(b1, m) y = Conv(x, w1, b)", W, "Conv.*bias is not a constant"),
    "nan": ("y = Conv(x, w)", {"w": np.full((8, 4, 3, 3), np.nan, np.float32)}, "Conv.*NaN"),
    "double": (
        "d = Cast<to = 11>(x) c = MatMul(d, w) y = Cast<to = 1>(c)",
        {"w": np.ones((8, 4), np.float64)},
        "MatMul.*computes in double",
    ),
    "norm": (
        "c = Conv(x, w1) r = Relu(c) y = BatchNormalization(r, a, b, m, n_var)",
        W | {"a": (8,), "b": (8,), "m": (8,), "n_var": (8,)},
        "BatchNormalization.*not be folded",
    ),
    "transposed": ("y = ConvTranspose(x, w)", {"w": (4, 8, 3, 3)}, "ConvTranspose.*no integer ConvTranspose"),
    "nothing": ("y = Relu(x)", {}, "model.*no Conv, Gemm or MatMul"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_quantized_is_named_with_the_reason(case: str, quantized: Quantizer) -> None:
    import re

    body, weights, pattern = REFUSED[case]
    used = {n: s for n, s in weights.items() if re.search(rf"\b{n}\b", body)}
    result, changes = quantized(net(body, used), image())
    assert any(re.search(pattern, f"{r.subject}: {r.reason}") for r in changes.refused), changes.refused
    plain_run(result, image())


def test_a_mask_of_minus_infinity_leaves_its_operators_float(quantized: Quantizer) -> None:
    subject = net(
        f"c = {CONV}(x, w1, b1) m = Mul(c, big) y = {CONV}(m, w2, b2)",
        W | {"big": np.array([3e30, 1] * 4, np.float32).reshape(8, 1, 1)},
    )
    _, changes = quantized(subject, image())
    assert any("too wide a range" in r.reason for r in changes.refused)


def test_excluded_nodes_stay_float(quantized: Quantizer) -> None:
    subject = net(f"[stem] c = {CONV}(x, w1, b1) r = Relu(c) [head] y = {CONV}(r, w2, b2)")
    result, changes = quantized(subject, image(), exclude=("he*",))
    assert [(r.subject, r.reason) for r in changes.refused] == [("head (Conv)", "excluded by 'he*'")]
    head = next(n for n in result.graph if n.name == "head")
    assert [edit.constant(v) is not None for v in head.inputs] == [False, True, True]
    with pytest.raises(PassError, match=r"'haed' matches nothing in the model; did you mean 'head'\?"):
        quantized(subject, image(), exclude=("haed",))


def test_a_quantized_model_is_not_quantized_again(quantized: Quantizer) -> None:
    subject, feeds = net(PATTERNS["relu"][0]), image()
    result, _ = quantized(subject, feeds)
    with pytest.raises(PassError, match="already quantized"):
        quantized(result, feeds)


def test_options_are_checked() -> None:
    with pytest.raises(OptionError, match="activations"):
        Quantize(activations="int4")  # type: ignore[arg-type]


def test_a_plan_for_another_model_is_refused() -> None:
    subject, feeds = net(PATTERNS["relu"][0]), image()
    plan = Quantize().plan(subject, Context(subject, samples=load_samples(feeds, subject)))
    other = net("a = Conv(x, w1) y = Relu(a)", {"w1": (8, 4, 3, 3)})
    with pytest.raises(PassError, match="does not have"):
        Quantize().apply(other, plan)
