"""Multiply-accumulates, against loops that count them and against the same model in another form."""

from __future__ import annotations

from itertools import product as each

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from corpus.topologies import conv_chain
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxcompress import apply
from onnxcompress.graph import cost
from onnxcompress.graph.macs import COUNTERS, count
from onnxcompress.graph.operators import INTEGER_OPERATORS, OTHERS
from onnxcompress.passes import Quantize, QuantizeDynamic

Shapes = tuple[tuple[int, ...] | None, ...]


def counted(
    op: str, shapes: Shapes, out: tuple[int, ...] = (), domain: str = "com.microsoft", **options: object
) -> int | None:
    names = [f"i{n}" if shape is not None else "" for n, shape in enumerate(shapes)]
    node = ir.serde.deserialize_node(onnx.helper.make_node(op, names, ["y"], domain=domain, **options))
    known = {value: shape for value, shape in zip(node.inputs, shapes, strict=True) if value is not None}
    known[node.outputs[0]] = out
    return count(node, known.get)  # type: ignore[arg-type]


SCALE: tuple[int, ...] = ()
EQUATIONS = ["ij,jk->ik", "bij,bjk->bik", "bi,bj->bij", "bhqd,bhkd->bhqk", "ij,ij->", "i,j", "...ij,jk->...ik"]
PRODUCTS: dict[str, tuple[str, Shapes]] = {
    "MatMulInteger": ("", ((2, 5, 3), (3, 7))),
    "QLinearMatMul": ("", ((2, 5, 3), SCALE, SCALE, (3, 7), SCALE, SCALE, SCALE, SCALE)),
    "DynamicQuantizeMatMul": ("com.microsoft", ((2, 5, 3), (3, 7), SCALE)),
    "MatMulIntegerToFloat": ("com.microsoft", ((2, 5, 3), (3, 7), SCALE, SCALE)),
    "FusedMatMul": ("com.microsoft", ((2, 5, 3), (3, 7))),
}


@pytest.mark.parametrize("op", PRODUCTS)
def test_matrix_products_of_all_kinds(op: str) -> None:
    domain, shapes = PRODUCTS[op]
    assert counted(op, shapes, domain=domain) == sum(1 for _ in each(range(2), range(5), range(3), range(7)))


def test_products_with_a_transposed_operand() -> None:
    assert counted("QGemm", ((5, 3), SCALE, SCALE, (7, 3), SCALE, SCALE), transB=1) == 5 * 3 * 7
    assert counted("FusedMatMul", ((4, 3, 5), (4, 7, 3)), transA=1, transB=1) == 4 * 5 * 3 * 7


def test_weights_in_4_bits_count_as_the_product_that_they_are() -> None:
    assert counted("MatMulNBits", ((2, 5, 64), (7, 2, 16), (14,)), K=64, N=7, bits=4, block_size=32) == 2 * 5 * 64 * 7


def test_integer_convolutions_count_as_those_in_float() -> None:
    out = (1, 8, 6, 6)
    assert counted("ConvInteger", ((1, 4, 6, 6), (8, 2, 3, 3)), out, domain="", group=2) == 8 * 36 * 2 * 9
    shapes = ((1, 4, 6, 6), SCALE, SCALE, (8, 2, 3, 3), SCALE, SCALE, SCALE, SCALE)
    assert counted("QLinearConv", shapes, out, domain="", group=2) == 8 * 36 * 2 * 9


def loops(batch: int, heads: int, tokens: int, seen: int, size: int, other: int) -> int:
    """Queries with keys, and the weights with values, one product after the other."""
    done = 0
    for _ in each(range(batch), range(heads), range(tokens), range(seen)):
        done += size + other
    return done


def test_attention_of_all_kinds() -> None:
    b, h, g, s, t, p, d, e = 2, 4, 2, 3, 5, 6, 8, 7
    whole = loops(b, h, s, t, d, e)
    assert counted("Attention", ((b, h, s, d), (b, g, t, d), (b, g, t, e)), domain="") == whole
    flat = ((b, s, h * d), (b, t, g * d), (b, t, g * e))
    assert counted("Attention", flat, domain="", q_num_heads=h, kv_num_heads=g) == whole
    assert counted("MultiHeadAttention", ((b, s, h * d), (b, t, h * d), (b, t, h * e)), num_heads=h) == whole
    past = (b, g, p, d)
    rest = (None, None, (b, p), ())
    cached = loops(b, h, s, s + p, d, d)
    grouped = ((b, s, h * d), (b, s, g * d), (b, s, g * d), past, past, *rest[2:])
    assert counted("GroupQueryAttention", grouped, num_heads=h, kv_num_heads=g) == cached
    packed = ((b, s, (h + 2 * g) * d), None, None, past, past, *rest[2:])
    assert counted("GroupQueryAttention", packed, num_heads=h, kv_num_heads=g) == cached
    width = h * d
    projected = b * s * 20 * 3 * width + loops(b, h, s, s, d, d)
    assert counted("Attention", ((b, s, 20), (20, 3 * width), (3 * width,)), num_heads=h) == projected
    assert counted("QAttention", ((b, s, 20), (20, 3 * width), (3 * width,), (), ()), num_heads=h) == projected


def test_recurrent_layers_count_both_products_in_each_step() -> None:
    done = sum(4 * 5 * (3 + 5) for _ in each(range(6), range(2)))
    assert counted("LSTM", ((6, 2, 3), (1, 20, 3), (1, 20, 5)), domain="", hidden_size=5) == done
    assert counted("DynamicQuantizeLSTM", ((6, 2, 3), (1, 3, 20), (1, 5, 20)), hidden_size=5) == done


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(EQUATIONS), st.data())
def test_einsum_of_two_is_what_a_loop_over_all_labels_does(equation: str, data: st.DataObject) -> None:
    plain = equation.replace("...", "z")
    sizes = {label: data.draw(st.integers(1, 4), label=label) for label in sorted(set(plain) - set(",->"))}
    shapes = tuple(tuple(sizes[label] for label in term) for term in plain.split("->")[0].split(","))
    count = sum(1 for _ in each(*(range(size) for size in sizes.values())))
    assert counted("Einsum", shapes, domain="", equation=equation) == count


def test_einsum_sums_first_what_one_operand_alone_has() -> None:
    assert counted("Einsum", ((3, 4), (4, 5)), domain="", equation="xj,jk->k") == 4 * 5
    assert counted("Einsum", ((3, 4),), domain="", equation="ij->i") == 0
    assert counted("Einsum", ((2, 3), (3, 4), (4, 5)), domain="", equation="ij,jk,kl->il") == 2 * 3 * 4 + 2 * 4 * 5


def test_what_is_not_known_is_none_and_never_negative() -> None:
    assert counted("MatMul", ((2, -1), (-1, 3)), domain="") is None
    assert counted("MatMul", ((2, 3), (5, 4, 3, 7), (1,)), domain="com.unknown") is None
    assert counted("QMoE", ((2, 3),)) is None
    assert counted("Relu", ((2, 3),), domain="") == 0


def test_each_integer_operator_with_products_is_counted_or_known_not_to_be() -> None:
    without = {"DynamicQuantizeLinear", "com.microsoft::QEmbedLayerNormalization", "com.microsoft::QLinearConcat"}
    without |= {"com.microsoft::QLinearWhere", "com.microsoft::QMoE"}
    assert OTHERS - without <= COUNTERS.keys()
    products = {op for op in INTEGER_OPERATORS if any(word in op for word in ("Conv", "MatMul", "Gemm"))}
    assert products <= COUNTERS.keys()


def test_a_quantized_model_has_the_products_of_the_float_one() -> None:
    """As QuantizeLinear and DequantizeLinear, as the integer operators that ONNX Runtime makes, as dynamic ones."""
    feeds = {"x": np.random.default_rng(0).normal(size=(8, 3, 8, 8)).astype(np.float32)}
    subject = conv_chain()
    wanted = sum(cost.macs(subject).values())
    for step in (Quantize(), QuantizeDynamic()):
        made, report = apply(subject, [step], data=feeds)
        assert sum(cost.macs(made).values()) == wanted > 0
        assert {stage.macs for stage in report.stages} == {wanted}


def test_shapes_go_on_behind_operators_of_the_runtime() -> None:
    packed = {"K": 64, "N": 32, "bits": 4, "block_size": 32}
    nodes = [
        onnx.helper.make_node("MatMulNBits", ["x", "w", "s"], ["a"], domain="com.microsoft", **packed),
        onnx.helper.make_node("SkipSimplifiedLayerNormalization", ["a", "a", "n"], ["b"], domain="com.microsoft"),
        onnx.helper.make_node("Relu", ["b"], ["c"]),
        onnx.helper.make_node("MatMul", ["c", "v"], ["y"]),
    ]
    weights = {"w": np.zeros((32, 2, 16), np.uint8), "s": np.ones(64, np.float32), "n": np.ones(32, np.float32)}
    weights["v"] = np.ones((32, 9), np.float32)
    ports = [onnx.helper.make_tensor_value_info(n, 1, shape) for n, shape in (("x", (2, 5, 64)), ("y", (2, 5, 9)))]
    held = [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()]
    proto = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", ports[:1], ports[1:], held))
    proto.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    assert cost.macs(ir.from_proto(proto)) == {"a": 10 * 64 * 32, "y": 10 * 32 * 9}
