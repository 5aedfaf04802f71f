"""A layer's weight, bias and axes are what onnxruntime computes with, whatever the operator is called."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from corpus import text
from corpus.oracle import plain_run

from onnxcompress.contract import Context
from onnxcompress.errors import PassError
from onnxcompress.graph import constants, edit, operators
from onnxcompress.graph.bias import add_to_outputs
from onnxcompress.graph.cost import macs
from onnxcompress.graph.layer import Layer, axes_of
from onnxcompress.graph.weights import find_weights
from onnxcompress.passes import QuantizeWeights

HEADER = '<ir_version: 9, opset_import: ["" : 18, "com.microsoft" : 1]>\n'

LAYERS = {
    "Conv": ("Conv(x, w, b)", (6, 4, 3, 2), (6,)),
    "depthwise": ("Conv<group = 4>(x, w, b)", (8, 1, 3, 3), (8,)),
    "ConvTranspose": ("ConvTranspose(x, w, b)", (4, 6, 3, 2), (6,)),
    "grouped ConvTranspose": ("ConvTranspose<group = 2>(x, w, b)", (4, 3, 2, 2), (6,)),
    "Gemm": ("Gemm<alpha = 0.5, beta = 3.0>(x, w, b)", (5, 6), (6,)),
    "Gemm with rows of weights": ("Gemm<transB = 1>(x, w, b)", (6, 5), (1, 6)),
    "Gemm with one bias for all": ("Gemm<transB = 1, beta = 2.0>(x, w, b)", (6, 5), (1,)),
    "MatMul": ("MatMul(x, w)", (5, 6), None),
    "FusedConv": ("com.microsoft.FusedConv(x, w, b)", (6, 4, 3, 3), (6,)),
    "FusedMatMul": ("com.microsoft.FusedMatMul<transB = 1, alpha = 0.25>(x, w)", (6, 5), None),
}


def parse(call: str, weights: dict[str, tuple[int, ...] | np.ndarray | None], rank: int, out: int) -> ir.Model:
    """Return a model of one node that reads x, of some axes that are all free, and what is drawn."""
    read, given = (",".join(f"{letter}{axis}" for axis in range(n)) for letter, n in (("I", rank), ("O", out)))
    proto = onnx.parser.parse_model(f"{HEADER} g (float[{read}] x) => (float[{given}] y) {{ y = {call} }}")
    random = np.random.default_rng(0)
    for name, weight in weights.items():
        if weight is not None:
            array = weight if isinstance(weight, np.ndarray) else text.drawn(random, name, weight)
            proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return ir.from_proto(proto)


def one_window(layer: Layer) -> tuple[int, ...]:
    """Return the extents of an input for which a convolution makes one output, or has one position to spread."""
    transposed = layer.op == "ConvTranspose"
    return (3, layer.inputs, *(1 if transposed else size for size in layer.kernel))


@pytest.fixture(params=LAYERS)
def subject(request: pytest.FixtureRequest) -> tuple[ir.Model, Layer, np.ndarray]:
    """A model of one layer, the layer, and an input for it."""
    call, weight, bias = LAYERS[request.param]
    model = parse(call, {"w": weight, "b": bias}, len(weight), len(weight))
    layer = Layer.of(model.graph[0], among=operators.LAYERS)
    assert layer is not None
    return model, layer, np.random.default_rng(1).standard_normal(one_window(layer)).astype(np.float32)


def test_blocks_and_bias_are_what_is_computed(subject: tuple[ir.Model, Layer, np.ndarray]) -> None:
    model, layer, x = subject
    given = plain_run(model, {"x": x})["y"].reshape(len(x), layer.groups, layer.outputs // layer.groups, -1)
    blocks = layer.blocks(layer.weight)
    if layer.op == "ConvTranspose":
        apart = blocks.reshape(*blocks.shape[:2], -1, math.prod(layer.kernel))
        made = np.einsum("goik,ngi->ngok", apart, x.reshape(len(x), layer.groups, -1))
    else:
        made = np.einsum("goi,ngi->ngo", blocks, x.reshape(len(x), layer.groups, -1))[..., None]
    np.testing.assert_allclose(made + layer.bias.reshape(1, layer.groups, -1, 1), given, atol=1e-5)
    assert layer.columns * layer.outputs == layer.weight.size
    assert layer.why_not() == ""


def test_blocks_can_be_undone(subject: tuple[ir.Model, Layer, np.ndarray]) -> None:
    _, layer, _ = subject
    array = np.arange(layer.stored.size).reshape(layer.shape)
    np.testing.assert_array_equal(layer.whole(layer.blocks(array)), array)


@pytest.mark.parametrize("side", ["inputs", "outputs"])
def test_scaling_the_weight_scales_channels(subject: tuple[ir.Model, Layer, np.ndarray], side: str) -> None:
    model, layer, x = subject
    factors = np.linspace(0.5, 2, layer.inputs if side == "inputs" else layer.outputs)
    along = factors.reshape([-1 if axis == 1 else 1 for axis in range(x.ndim)])
    inputs = side == "inputs"
    before = plain_run(model, {"x": (x * along).astype(np.float32) if inputs else x})["y"]
    weight = layer.scaled_inputs(factors) if inputs else layer.scaled_outputs(factors)
    bias = layer.bias if inputs else layer.bias * factors
    layer.store(edit.Inserter(model.graph), weight, bias)
    np.testing.assert_allclose(plain_run(model, {"x": x})["y"], before if inputs else before * along, atol=1e-5)


def test_what_is_added_to_the_outputs_is_there(subject: tuple[ir.Model, Layer, np.ndarray]) -> None:
    model, layer, x = subject
    addition = np.linspace(-1, 1, layer.outputs)
    before = plain_run(model, {"x": x})["y"]
    add_to_outputs(model.graph, {"y": addition})
    along = addition.reshape([-1 if axis == 1 else 1 for axis in range(x.ndim)])
    np.testing.assert_allclose(plain_run(model, {"x": x})["y"], before + along, atol=1e-5)


OTHERS = {
    "LSTM": ("LSTM<hidden_size = 3>(x, w, r, b)", {"w": (1, 12, 4), "r": (1, 12, 3), "b": (1, 24)}, (5, 2, 4), 4),
    "GRU": ("GRU<hidden_size = 3>(x, w, r)", {"w": (1, 9, 4), "r": (1, 9, 3)}, (5, 2, 4), 4),
    "both directions": (
        'RNN<hidden_size = 3, direction = "bidirectional">(x, w, r)',
        {"w": (2, 3, 4), "r": (2, 3, 3)},
        (5, 2, 4),
        4,
    ),
    "FusedGemm": (
        'com.microsoft.FusedGemm<alpha = 2.0, activation = "Relu">(x, w, b)',
        {"w": (4, 6), "b": (6,)},
        (3, 4),
        2,
    ),
    "Attention": ("com.microsoft.Attention<num_heads = 2>(x, w, b)", {"w": (4, 12), "b": (12,)}, (2, 5, 4), 3),
}


@pytest.mark.parametrize("name", OTHERS)
def test_inputs_of_other_layers_are_scaled_too(name: str) -> None:
    call, weights, shape, rank = OTHERS[name]
    model = parse(call, weights, len(shape), rank)
    layer, x = Layer.of(model.graph[0], among=operators.LAYERS), np.random.default_rng(1).standard_normal(shape)
    assert layer is not None
    factors = np.linspace(0.5, 2, layer.inputs)
    before = plain_run(model, {"x": (x * factors).astype(np.float32)})["y"]
    edit.set_constant(layer.value, (layer.scaled_inputs(factors) / layer.alpha).astype(np.float32))
    np.testing.assert_allclose(plain_run(model, {"x": x.astype(np.float32)})["y"], before, atol=1e-5)
    assert layer.why_not().endswith("does more than multiply and add")
    assert len(Layer.each_of(model.graph[0])) == (2 if "r" in weights or name == "FusedGemm" else 1)


@pytest.mark.parametrize("name", [*LAYERS, *OTHERS])
def test_every_layer_has_its_weights_found_once(name: str) -> None:
    if name in LAYERS:
        call, weight, bias = LAYERS[name]
        model = parse(call, {"w": weight, "b": bias}, len(weight), len(weight))
    else:
        call, weights, shape, rank = OTHERS[name]
        model = parse(call, weights, len(shape), rank)
    found = list(find_weights(model.graph))
    assert [weight.value.name for weight in found] == (["w", "r"] if "r" in model.graph.initializers else ["w"])
    for weight in found:
        assert weight.axis != weight.summed
        assert min(weight.axis, weight.summed) >= 0


def test_what_an_activation_is_fused_into_is_no_sum() -> None:
    model = parse('com.microsoft.FusedConv<activation = "Relu">(x, w)', {"w": (6, 4, 1, 1)}, 4, 4)
    layer = Layer.of(model.graph[0], among=operators.LAYERS)
    assert layer is not None
    assert "does more than multiply and add" in layer.why_not()


@pytest.mark.parametrize(
    ("index", "rank", "flags", "expected"),
    [
        (0, 2, "", (0, 1)),
        (1, 2, "", (1, 0)),
        (0, 2, "<transA = 1>", (1, 0)),
        (1, 2, "<transB = 1>", (0, 1)),
        (0, 2, "<transB = 1>", (0, 1)),
    ],
)
def test_axes_of_a_gemm(index: int, rank: int, flags: str, expected: tuple[int, int]) -> None:
    node = parse(f"Gemm{flags}(x, w)", {"w": (4, 4)}, 2, 2).graph[0]
    assert axes_of(node, index, rank) == expected


def test_a_weight_is_seen_through_what_moves_it() -> None:
    body = """g (float[N,5] x) => (float[N,6] y) {
        d = DequantizeLinear(q, s) t = Transpose<perm = [1, 0]>(d) i = Identity(t) y = MatMul(x, i) }"""
    model = text.model(body, {"q": np.arange(30, dtype=np.int8).reshape(6, 5), "s": np.array(0.5, np.float32)})
    node = next(node for node in model.graph if node.op_type == "MatMul")
    with pytest.raises(PassError, match="the weight of"):
        _ = Layer(node).weight
    seen = Layer(node, read=lambda value: constants.find(value, dequantized=True))
    np.testing.assert_array_equal(seen.weight, np.arange(30).reshape(6, 5).T * 0.5)
    assert (seen.outputs, seen.inputs) == (6, 5)


FUSED = {
    "Attention": ("com.microsoft.Attention<num_heads = 2>(x, w, b)", {"w": (16, 48), "b": (48,)}, (2, 5, 16), 3, 48),
    "FusedConv": ('com.microsoft.FusedConv<activation = "Relu">(x, w)', {"w": (24, 16, 3, 3)}, (2, 16, 6, 6), 4, 24),
    "FusedMatMul": ("com.microsoft.FusedMatMul<transB = 1, alpha = 0.25>(x, w)", {"w": (48, 32)}, (3, 32), 2, 48),
}


@pytest.mark.parametrize("name", FUSED)
def test_weights_of_fused_operators_are_stored_with_one_scale_for_each_output(name: str) -> None:
    call, weights, shape, rank, outputs = FUSED[name]
    model = parse(call, weights, len(shape), rank)
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    before = plain_run(model, {"x": x})["y"]
    step = QuantizeWeights(minimum_size=64)
    plan = step.plan(model, Context(model))
    step.apply(model, plan)
    assert plan.weights["w"].scale.size == outputs
    assert model.graph.initializers["w_quantized"].dtype == ir.DataType.INT8
    after = plain_run(model, {"x": x})["y"]
    assert np.linalg.norm(after - before) < 0.01 * np.linalg.norm(before)


def test_an_integer_convolution_multiplies_as_often_as_the_float_one() -> None:
    plain = text.model("g (float[1,4,8,8] x) => (float[1,6,6,6] y) { y = Conv(x, w) }", {"w": (6, 4, 3, 3)})
    body = "g (uint8[1,4,8,8] x) => (uint8[1,6,6,6] y) { y = QLinearConv(x, s, z, w, s, z, s, z) }"
    weights = {"w": np.ones((6, 4, 3, 3), np.uint8), "s": np.array(0.5, np.float32), "z": np.array(0, np.uint8)}
    assert macs(text.model(body, weights)) == macs(plain) == {"y": 6 * 6 * 6 * 4 * 9}
