"""onnxruntime's own operators: the table against the engine's schemas, shapes against what the engine gives."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime as ort
import onnxruntime.capi.onnxruntime_pybind11_state as engine
import pytest

from onnxcompress.graph.checker import check_model
from onnxcompress.graph.contrib.schemas import MICROSOFT, SIGNATURES
from onnxcompress.graph.contrib.shapes import RULES
from onnxcompress.graph.cost import cost

HEADER = '<ir_version: 10, opset_import: ["" : 17, "com.microsoft" : 1, "my.domain" : 1]>'


@pytest.mark.skipif(not hasattr(engine, "get_all_operator_schema"), reason="this engine does not tell its schemas")
def test_the_table_says_what_the_engine_does() -> None:
    checked = 0
    for schema in engine.get_all_operator_schema():
        op = f"{MICROSOFT}::{schema.name}" if schema.domain == MICROSOFT else schema.name
        if schema.domain not in ("", MICROSOFT) or op not in SIGNATURES:
            continue
        known, checked = SIGNATURES[op], checked + 1
        for ours, theirs in ((known.inputs, schema.inputs), (known.outputs, schema.outputs)):
            least = min(len(ours), len(theirs))  # later versions add some at the end
            assert [port.name for port in ours[:least]] == [port.name for port in theirs[:least]], op
            optional = engine.schemadef.OpSchema.FormalParameterOption.Optional
            assert [p.kind == "?" for p in ours[:least]] == [p.option == optional for p in theirs[:least]], op
        types = {name: kind for name, kind, _ in known.attributes}
        common = types.keys() & schema.attributes.keys()
        assert {n: str(schema.attributes[n].type).rpartition(".")[2].lower() for n in common} == {
            n: types[n] for n in common
        }
        assert {n for n, a in schema.attributes.items() if a.required} <= types.keys(), op
    assert checked > 100


def test_each_rule_is_one_of_an_operator_of_the_table() -> None:
    assert RULES.keys() <= SIGNATURES.keys()


A, B = "float[2,3,8] a", "float[8] b"
CASES = {
    "attention": (
        "float[2,3,8] a, float[8,24] w, float[24] b, float[2,2,2,5,4] past",
        "y, present = com.microsoft.Attention<num_heads=2, unidirectional=1>(a, w, b, , past)",
    ),
    "bias gelu": (f"{A}, {B}", "y = com.microsoft.BiasGelu(a, b)"),
    "dynamic matmul": (
        "float[2,3,8] a, int8[8,6] w, float[6] s",
        "y = com.microsoft.DynamicQuantizeMatMul(a, w, s)",
    ),
    "embedding": (
        "int32[2,3] a, int32[2,3] s, float[9,8] w, float[5,8] p, float[2,8] t, float[8] g, float[8] b",
        "y, m, z = com.microsoft.EmbedLayerNormalization(a, s, w, p, t, g, b)",
    ),
    "fast gelu": (A, "y = com.microsoft.FastGelu(a)"),
    "fused conv": (
        "float[1,3,9,9] a, float[4,3,3,3] w, float[4] b",
        'y = com.microsoft.FusedConv<activation="Relu", strides=[2,2], pads=[1,1,1,1]>(a, w, b)',
    ),
    "fused gemm": (
        "float[8,3] a, float[6,8] w",
        'y = com.microsoft.FusedGemm<activation="Relu", transA=1, transB=1>(a, w)',
    ),
    "fused matmul": ("float[2,8,3] a, float[2,6,8] w", "y = com.microsoft.FusedMatMul<transA=1, transB=1>(a, w)"),
    "gqa": (
        "float[2,1,16] a, float[2,1,8] k, float[2,1,8] v, float[2,1,5,8] pk, float[2,1,5,8] pv, int32[2] s",
        "t = Constant<value = int32 {6}>() y, k2, v2 = "
        "com.microsoft.GroupQueryAttention<num_heads=2, kv_num_heads=1>(a, k, v, pk, pv, s, t)",
    ),
    "gqa packed": (
        "float[2,3,32] a, int32[2] s",
        "t = Constant<value = int32 {3}>() y, k2, v2 = "
        "com.microsoft.GroupQueryAttention<num_heads=2, kv_num_heads=1>(a, , , , , s, t)",
    ),
    "gather quantized": (
        "uint8[9,16] w, int64[2,3] i, float[9,1] s",
        "y = com.microsoft.GatherBlockQuantized<bits=4, block_size=32>(w, i, s)",
    ),
    "inverse": ("float[2,3,3] a", "y = com.microsoft.Inverse(a)"),
    "integer matmul": (
        "uint8[2,3,8] a, uint8[8,6] w, float s, float t",
        "y = com.microsoft.MatMulIntegerToFloat(a, w, s, t)",
    ),
    "linear attention": (
        "float[2,3,8] q, float[2,3,8] k, float[2,3,12] v",
        'y, z = com.microsoft.LinearAttention<q_num_heads=2, kv_num_heads=2, update_rule="linear">(q, k, v)',
    ),
    "convolution with state": (
        "float[2,4,7] a, float[4,1,3] w",
        "y, z = com.microsoft.CausalConvWithState(a, w)",
    ),
    "mha": (
        "float[2,3,8] q, float[2,4,8] k, float[2,4,12] v",
        "y, k2, v2 = com.microsoft.MultiHeadAttention<num_heads=2>(q, k, v)",
    ),
    "mha past": (
        "float[2,1,8] q, float[2,1,8] k, float[2,1,8] v, float[2,2,5,4] pk, float[2,2,5,4] pv",
        "y, k2, v2 = com.microsoft.MultiHeadAttention<num_heads=2>(q, k, v, , , , pk, pv)",
    ),
    "moe": (
        "float[5,8] a, float[5,2] r, float[2,16,8] w, float[2,8,16] x",
        'y = com.microsoft.MoE<k=1, activation_type="relu">(a, r, w, , x)',
    ),
    "nbits": (
        "float[2,3,32] a, uint8[6,1,16] w, float[6,1] s",
        "y = com.microsoft.MatMulNBits<K=32, N=6, bits=4, block_size=32>(a, w, s)",
    ),
    "norm": (f"{A}, {B}", "y = SimplifiedLayerNormalization<axis=-1>(a, b)"),
    "q add": (
        "uint8[2,3,8] a, float s, uint8 z, uint8[3,1] b",
        "y = com.microsoft.QLinearAdd(a, s, z, b, s, z, s, z)",
    ),
    "q concat": (
        "float s, uint8 z, uint8[2,3] a, uint8[2,4] b",
        "y = com.microsoft.QLinearConcat<axis=1>(s, z, a, s, z, b, s, z)",
    ),
    "q conv last": (
        "uint8[1,9,9,3] a, float s, uint8 z, uint8[4,3,3,3] w",
        "y = com.microsoft.QLinearConv<channels_last=1>(a, s, z, w, s, z, s, z)",
    ),
    "q gemm": (
        "uint8[3,8] a, float s, uint8 z, uint8[6,8] w",
        "y = com.microsoft.QGemm<transB=1>(a, s, z, w, s, z)",
    ),
    "q pool": (
        "uint8[1,3,9,9] a, float s, uint8 z",
        "y = com.microsoft.QLinearAveragePool<kernel_shape=[3,3], strides=[2,2]>(a, s, z, s, z)",
    ),
    "quick gelu": (A, "y = com.microsoft.QuickGelu(a)"),
    "rotary": (
        "float[2,3,8] a, int64[2,3] p, float[9,2] c, float[9,2] s",
        "y = com.microsoft.RotaryEmbedding<num_heads=2>(a, p, c, s)",
    ),
    "skip norm": (
        f"{A}, float[2,3,8] s, {B}",
        "y, mean, deviation, z = com.microsoft.SkipLayerNormalization(a, s, b)",
    ),
    "skip simplified": (
        f"{A}, float[2,3,8] s, {B}",
        "y, , , z = com.microsoft.SkipSimplifiedLayerNormalization(a, s, b)",
    ),
    "trilu": ("float[2,3,8] a", "y = com.microsoft.Trilu(a)"),
}


def _model(inputs: str, body: str) -> onnx.ModelProto:
    model = onnx.parser.parse_model(f"{HEADER} g ({inputs}) => () {{ {body} }}")
    names = [name for name in model.graph.node[-1].output if name]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return model


@pytest.mark.parametrize("case", CASES)
def test_shapes_are_those_that_the_engine_gives(case: str) -> None:
    model = _model(*CASES[case])
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    check_model(inferred, full=True)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {}
    for value in model.graph.input:
        kind = value.type.tensor_type
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        shape = [d.dim_value for d in kind.shape.dim]
        eye = np.eye(3) if case == "inverse" else 1.0
        feeds[value.name] = np.array(np.ones(shape) * (eye if dtype == np.float32 else 0), dtype)
    if case.startswith("gqa"):
        feeds["s"] = np.array([5, 5] if case == "gqa" else [2, 2], np.int32)
    for value, array in zip(inferred.graph.output, session.run(None, feeds), strict=True):
        kind = value.type.tensor_type
        assert onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type) == array.dtype, value.name
        assert tuple(d.dim_value for d in kind.shape.dim) == array.shape, value.name


def test_names_of_extents_pass_through() -> None:
    model = _model("float[batch,tokens,32] a, uint8[6,1,16] w, float[6,1] s", CASES["nbits"][1])
    (output,) = onnx.shape_inference.infer_shapes(model).graph.output
    assert [d.dim_param or d.dim_value for d in output.type.tensor_type.shape.dim] == ["batch", "tokens", 6]


def test_what_does_not_fit_is_not_known() -> None:
    model = _model("float[2,3,8] a, float[9] b, float[2,8] w", "c = BiasGelu(a, b) y = com.microsoft.FusedGemm(a, w)")
    del model.graph.node[0]
    (output,) = onnx.shape_inference.infer_shapes(model).graph.output
    assert output.type.tensor_type.elem_type == onnx.TensorProto.FLOAT


def _counted(inputs: str, body: str, shapes: dict[str, tuple[str, tuple[int, ...]]]) -> tuple[int, int]:
    proto = _model(inputs, body)
    for name, (dtype, shape) in shapes.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(shape, dtype), name))
    found = cost(ir.from_proto(proto))
    return found.parameters, found.macs


def test_weights_that_stand_several_to_a_byte_count_each() -> None:
    body = (
        "h = com.microsoft.GatherBlockQuantized<bits=4, block_size=32>(w, i, s) "
        "y = com.microsoft.MatMulNBits<K=32, N=6, bits=4, block_size=32>(h, v, t)"
    )
    shapes = {"w": ("uint8", (9, 16)), "s": ("float32", (9, 1)), "v": ("uint8", (6, 1, 16)), "t": ("float32", (6, 1))}
    assert _counted("int64[2,3] i", body, shapes) == (9 * 32 + 32 * 6, 2 * 3 * 32 * 6)


def test_tokens_go_through_some_of_the_experts() -> None:
    body = "y = com.microsoft.MoE<k=2>(a, r, w, , x)"
    shapes = {"w": ("float32", (4, 16, 8)), "x": ("float32", (4, 8, 16))}
    assert _counted("float[5,8] a, float[5,4] r", body, shapes) == (2 * 4 * 16 * 8, 5 * 2 * 2 * 16 * 8)
    body = "y = com.microsoft.QMoE<k=2, expert_weight_bits=4>(a, r, w, s, , x, t)"
    shapes = {
        "w": ("uint8", (4, 16, 4)),
        "s": ("float32", (4, 16)),
        "x": ("uint8", (4, 8, 8)),
        "t": ("float32", (4, 8)),
    }
    assert _counted("float[5,8] a, float[5,4] r", body, shapes) == (2 * 4 * 16 * 8, 5 * 2 * 2 * 16 * 8)


def test_weights_of_integer_operators_count() -> None:
    body = "y = QLinearConv(a, s, z, w, v, z, s, z)"
    shapes = {"s": ("float32", ()), "z": ("uint8", ()), "w": ("uint8", (4, 3, 3, 3)), "v": ("float32", (4,))}
    assert _counted("uint8[1,3,5,5] a", body, shapes) == (4 * 27, 9 * 4 * 27)


@pytest.mark.parametrize(
    "body",
    [
        "y = com.microsoft.FastGelu<of_a_later_version=1>(a)",
        "y = com.microsoft.NobodyKnows(a)",
        "y = my.domain.Foo(a)",
    ],
)
def test_what_a_later_engine_or_another_library_has_is_left_to_it(body: str) -> None:
    model = _model("float[2,3,8] a", body)
    del model.graph.output[:]
    check_model(model)
