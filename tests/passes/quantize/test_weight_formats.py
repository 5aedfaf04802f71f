"""Formats of stored weights: what numpy makes of the bytes is what onnxruntime computes with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from corpus.oracle import plain_run
from corpus.text import model
from corpus.versions import skip_before

from onnxcompress.contract import Changes, Context, Needs
from onnxcompress.errors import OptionError
from onnxcompress.passes import QuantizeWeights
from onnxcompress.passes.quantize.quantize_weights import WeightPlan
from onnxcompress.passes.quantize.weight_only import formats
from onnxcompress.passes.quantize.weight_only.storage import StoredWeight
from onnxcompress.samples.samples import load_samples

Feeds = dict[str, np.ndarray]

BITS = {"int8": 8, "uint8": 8, "int4": 4, "uint4": 4, "int3": 3, "uint3": 3, "int2": 2, "uint2": 2}

HELD = BITS | {"int3": 4, "uint3": 4}
"""In how many bits they lie, if they are not compact."""

PLAIN: dict[str, Any] = {"calibration": "minmax", "compact": False, "accuracy_level": 1}


def stored(subject: ir.Model, feeds: Feeds | None = None, **options: Any) -> tuple[ir.Model, Changes]:
    """Plan, send the plan through JSON, apply, check."""
    step = QuantizeWeights(minimum_size=16, **{"format": "qdq"} | options)
    context = Context(subject, samples=None if feeds is None else load_samples(feeds, subject))
    plan, result = step.plan(subject, context), subject.clone()
    changes = step.apply(result, WeightPlan.from_json(plan.to_json()))
    onnx.checker.check_model(ir.to_proto(result), full_check=True)
    return result, changes


def tensors(result: ir.Model) -> Feeds:
    return {t.name: onnx.numpy_helper.to_array(t) for t in ir.to_proto(result).graph.initializer}


def in_blocks(values: np.ndarray, block: int, axis: int, length: int) -> np.ndarray:
    return np.take(np.repeat(values.astype(np.float64), block, axis), np.arange(length), axis)


def operators(result: ir.Model) -> list[str]:
    return [node.op_type for node in result.graph.all_nodes()]


@pytest.mark.parametrize("dtype", BITS)
@pytest.mark.parametrize("length", [64, 70])
@pytest.mark.parametrize("calibration", ["minmax", "mse"])
def test_blocks_of_a_matrix(dtype: str, length: int, calibration: str) -> None:
    weight = np.random.default_rng(0).normal(size=(length, 8)).astype(np.float32)
    subject = model(f"g (float[N,{length}] x) => (float[N,8] y) {{ y = MatMul(x, w) }}", {"w": weight})
    result, changes = stored(subject, dtype=dtype, block_size=32, calibration=calibration)
    opset = 25 if "2" in dtype else 21
    assert result.opset_imports[""] == opset
    assert changes.done[0].what == f"opset raised to {opset}"
    found = tensors(result)
    integers, scale, zero = (found[f"w_{part}"] for part in ("quantized", "scale", "zero_point"))
    assert integers.dtype.name == zero.dtype.name == dtype.replace("3", "4")
    assert np.ptp(integers.astype(int)) < 1 << BITS[dtype]
    assert scale.shape == zero.shape == (-(-length // 32), 8)
    assert (scale > 0).all()
    assert (zero.astype(int) == 0).all() == (not dtype.startswith("u"))
    step = in_blocks(scale, 32, 0, length)
    meant = step * (integers.astype(np.float64) - in_blocks(zero, 32, 0, length))
    if calibration == "minmax":
        assert (np.abs(weight - meant) <= step * 0.5001).all()
    x = np.eye(length, dtype=np.float32)
    np.testing.assert_allclose(plain_run(result, {"x": x})["y"], meant, atol=1e-5)


LAYERS: dict[str, tuple[str, dict[str, Any], dict[str, int]]] = {  # with the axis that is cut into blocks
    "conv": ("y = Conv(x, w)", {"w": (8, 16, 3, 1)}, {"w": 1}),
    "transposed": ("y = ConvTranspose(x, w)", {"w": (16, 8, 3, 3)}, {"w": 0}),
    "gemm": (
        "f = Flatten(x) g = Gemm<transB = 1>(f, w) y = Unsqueeze(g, a)",
        {"w": (6, 1024), "a": np.array([2, 3])},
        {"w": 1},
    ),
    "stack": ("y = MatMul(w, x)", {"w": (16, 5, 32)}, {"w": 2}),
    "left": ("y = MatMul(w, x)", {"w": (5, 32)}, {"w": 1}),
    "lstm": (
        "f = Reshape(x, s) y, h, l = LSTM<hidden_size = 16>(f, w, r)",
        {"w": (1, 64, 32), "r": (1, 64, 16), "s": np.array([4, -1, 32])},
        {"w": 2, "r": 2},
    ),
}


@pytest.mark.parametrize("case", LAYERS)
@pytest.mark.parametrize("dtype", ["int4", "uint8"])
def test_blocks_lie_along_what_an_operator_sums_over(case: str, dtype: str) -> None:
    body, weights, axes = LAYERS[case]
    subject = model(f"g (float[2,16,32,2] x) => (float[A,B,C,D] y) {{ {body} }}", weights)
    feeds = {"x": np.random.default_rng(0).normal(size=(2, 16, 32, 2)).astype(np.float32)}
    result, changes = stored(subject, dtype=dtype, block_size=16)
    assert not changes.refused
    found = {str(n.inputs[0].name): n for n in result.graph if n.op_type == "DequantizeLinear"}  # type: ignore[union-attr]
    by_hand = subject.clone()
    for name, axis in axes.items():
        node = found[f"{name}_quantized"]
        assert (node.attributes["axis"].as_int(), node.attributes["block_size"].as_int()) == (axis, 16)
        integers, scale, zero = (tensors(result)[f"{name}_{part}"] for part in ("quantized", "scale", "zero_point"))
        length = integers.shape[axis]
        meant = in_blocks(scale, 16, axis, length) * (integers.astype(float) - in_blocks(zero, 16, axis, length))
        by_hand.graph.initializers[name].const_value = ir.tensor(meant.astype(np.float32), name=name)
    a, b = plain_run(by_hand, feeds)["y"], plain_run(result, feeds)["y"]
    assert np.abs(a - b).max() < 1e-5 * np.abs(a).max()


def test_2_bits_of_rows_that_fill_no_bytes_are_stored_in_4() -> None:
    subject = model("g (float[N,64] x) => (float[N,6] y) { y = MatMul(x, w) }", {"w": (64, 6)})
    result, changes = stored(subject, dtype="int2", block_size=32)
    assert [(r.subject, "whole bytes" in r.reason) for r in changes.refused] == [("w", True)]
    assert tensors(result)["w_quantized"].dtype.name == "int4"
    x = np.random.default_rng(0).normal(size=(9, 64)).astype(np.float32)
    a, b = plain_run(subject, {"x": x})["y"], plain_run(result, {"x": x})["y"]
    assert np.square(a - b).mean() < 0.02 * np.square(a).mean()


def unpacked(packed: np.ndarray, bits: int, count: int) -> np.ndarray:
    each = np.unpackbits(packed[..., None], axis=-1, bitorder="little").reshape(*packed.shape[:-1], -1, bits)
    return (each.astype(int) << np.arange(bits)).sum(-1)[..., :count]


@pytest.mark.parametrize("dtype", BITS)
@pytest.mark.parametrize("length", [64, 70, 96])
@pytest.mark.parametrize("half", [False, True])
def test_matmulnbits(dtype: str, length: int, half: bool) -> None:
    kind = np.float16 if half else np.float32
    weight = np.random.default_rng(0).normal(size=(length, 6)).astype(kind)
    name = "float16" if half else "float"
    subject = model(f"g ({name}[N,{length}] x) => ({name}[N,6] y) {{ y = MatMul(x, w) }}", {"w": weight})
    result, changes = stored(subject, dtype=dtype, block_size=32, format="matmulnbits", **PLAIN)
    assert "MatMulNBits" in changes.done[0].what
    assert operators(result) == ["MatMulNBits"]
    assert result.opset_imports[""] == 18
    found, bits, blocks = tensors(result), HELD[dtype], -(-length // 32)
    assert found["w_scale"].dtype == kind
    assert ("w_zero_point" in found) == dtype.startswith("u")
    zero = unpacked(found["w_zero_point"], bits, blocks) if "w_zero_point" in found else 1 << (bits - 1)
    integers = unpacked(found["w_quantized"], bits, 32)
    meant = (integers - np.broadcast_to(zero, (6, blocks))[..., None]) * found["w_scale"].astype(np.float64)[..., None]
    meant = meant.reshape(6, -1)[:, :length].T
    steps = in_blocks(found["w_scale"], 32, 1, length).T
    assert (np.abs(weight - meant) <= np.abs(steps) * ((0.6 if half else 0.5001) if steps.min() > 0 else 1.001)).all()
    assert (steps.min() < 0) == (dtype in ("int4", "int3", "int2"))
    held = sum(found[f"w_{part}"].nbytes for part in ("quantized", "scale", "zero_point") if f"w_{part}" in found)
    plan = QuantizeWeights(dtype=dtype, minimum_size=16, block_size=32, format="matmulnbits", compact=False).plan(  # type: ignore[arg-type]
        subject, Context(subject)
    )
    assert formats.stored_bytes(weight.shape, plan.weights["w"], scale_bytes=weight.itemsize) == held
    y = plain_run(result, {"x": np.eye(length, dtype=kind)})["y"]
    np.testing.assert_allclose(y, meant, atol=3e-3 if half else 1e-5)


@pytest.mark.parametrize("dtype", [dtype for dtype in BITS if "8" not in dtype])
@pytest.mark.parametrize(("length", "half"), [(256, False), (310, False), (256, True)])
def test_compact_constants_are_unpacked_when_the_model_is_loaded(
    dtype: str, length: int, half: bool, tmp_path: Path
) -> None:
    kind, name, random = np.float16 if half else np.float32, "float16" if half else "float", np.random.default_rng(0)
    weights = {"w": random.normal(size=(length, 40)).astype(kind), "t": random.normal(size=(80, 64)).astype(kind)}
    subject = model(
        f"""g ({name}[N,{length}] x, int64[M] i) => ({name}[N,40] y, {name}[M,64] z) {{
            y = MatMul(x, w) z = Gather(t, i) }}""",
        weights,
    )
    step = QuantizeWeights(dtype=dtype, minimum_size=16, accuracy_level=1)  # type: ignore[arg-type]
    plan, result = step.plan(subject, Context(subject)), subject.clone()
    step.apply(result, plan)
    feeds = {"x": np.eye(length, dtype=kind), "i": np.arange(80)}
    found = dict(zip(("w", "t"), plain_run(result, feeds).values(), strict=True))
    for key, array in weights.items():
        stored = plan.weights[key]
        np.testing.assert_allclose(found[key], stored.decode(stored.encode(array)), atol=3e-3 if half else 1e-5)
        parts = ("quantized", "low", "high", "scale", "zero_point")
        held = sum(tensors(result)[f"{key}_{part}"].nbytes for part in parts if f"{key}_{part}" in tensors(result))
        assert held == formats.stored_bytes(array.shape, stored, array.itemsize)
        values, blocks = -(-array.size // 2560) * 2560 if key == "w" else array.size, stored.scale.size
        zeros = 0 if dtype[0] == "i" else blocks * (max(BITS[dtype], 4) if "3" in dtype else BITS[dtype]) / 8
        assert values * BITS[dtype] / 8 + blocks + zeros <= held <= values * BITS[dtype] / 8 + blocks + zeros + 80
    session = ort.SessionOptions()
    session.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    session.optimized_model_filepath = str(tmp_path / "loaded.onnx")
    session.log_severity_level = 3  # that what is written is for this machine
    ort.InferenceSession(ir.to_proto(result).SerializeToString(), session, providers=["CPUExecutionProvider"])
    loaded = {node.op_type for node in onnx.load(tmp_path / "loaded.onnx").graph.node}
    assert loaded <= {"MatMulNBits", "GatherBlockQuantized", "Cast"}


def test_few_bits_are_stored_as_the_target_reads_them() -> None:
    subject = model("g (float[N,64] x) => (float[N,8] y) { y = MatMul(x, w) }", {"w": (64, 8)})

    def made(**options: Any) -> StoredWeight:
        return QuantizeWeights(minimum_size=16, **options).plan(subject, Context(subject)).weights["w"]

    few = made(dtype="int4")
    assert (few.form, few.block_size, few.accuracy_level) == ("matmulnbits", 32, 4)
    assert made(dtype="int4", accuracy_level=0).accuracy_level == 0
    assert made(dtype="int4", block_size=24).form == "qdq"
    assert made(dtype="int4", granularity="channel").form == "qdq"
    assert made(dtype="int4", target="tensorrt").form == "qdq"
    assert made(dtype="int8", block_size=32).form == "qdq"
    assert made().form == "qdq"
    eight = made(dtype="int8", block_size=32, format="matmulnbits")
    assert (eight.form, eight.accuracy_level) == ("matmulnbits", 4)


@pytest.mark.parametrize("dtype", BITS)
@pytest.mark.parametrize("form", ["qdq", "matmulnbits"])
def test_rows_of_a_table_in_blocks(dtype: str, form: str) -> None:
    table = np.random.default_rng(0).normal(size=(40, 64)).astype(np.float32)
    subject = model("g (int64[N,3] i) => (float[N,3,64] y) { y = Gather(t, i) }", {"t": table})
    result, changes = stored(subject, dtype=dtype, block_size=32, format=form, **PLAIN)
    fused, bits = form == "matmulnbits", HELD[dtype]
    assert [(r.subject, "8 bits" in r.reason) for r in changes.refused] == [("t", True)] * (not fused and bits < 8)
    found = tensors(result)
    step, zero = found["t_scale"], np.full((40, 2), 1 << (bits - 1))
    zero = unpacked(found["t_zero_point"], bits, 2) if fused and "t_zero_point" in found else zero
    zero = zero if fused else found["t_zero_point"].astype(int)
    integers = unpacked(found["t_quantized"], bits, 64) if fused else found["t_quantized"].astype(int)
    step = in_blocks(step, 32, 1, 64)
    meant = step * (integers - in_blocks(zero, 32, 1, 64))
    assert (np.abs(table - meant) <= np.abs(step) * (0.5001 if step.min() > 0 else 1.001)).all()
    assert np.ptp(integers) < (1 << BITS[dtype] if fused else 256)
    indices = np.array([[0, 39, -1], [5, 5, 2]])
    np.testing.assert_allclose(plain_run(result, {"i": indices})["y"], meant[indices], atol=1e-6)
    wanted = {"matmulnbits": ["GatherBlockQuantized"], "qdq": ["Gather"] * 3 + ["DequantizeLinear"]}
    assert sorted(operators(result)) == sorted(wanted[form])


@pytest.mark.parametrize("dtype", ["int4", "uint3", "uint2", "uint8"])
def test_a_table_that_products_read_too_is_stored_once(dtype: str) -> None:
    subject = model(
        """g (int64[N] i) => (float[N,80] y, float[N,80] z) {
            e = Gather(t, i) u = Transpose<perm = [1, 0]>(t) y = MatMul(e, u) f = Relu(e) z = MatMul(f, u) }""",
        {"t": (80, 64)},
    )
    step = QuantizeWeights(dtype=dtype, minimum_size=16, block_size=32, format="matmulnbits", accuracy_level=1)  # type: ignore[arg-type]
    plan, result = step.plan(subject, Context(subject)), subject.clone()
    step.apply(result, plan)
    assert not plan.refused
    assert {"GatherBlockQuantized", "MatMulNBits"} <= set(operators(result))
    assert not {"Transpose", "DequantizeLinear", "Gather"} & set(operators(result))
    stored = plan.weights["t"]
    held = sum(array.nbytes for name, array in tensors(result).items() if name.startswith("t_"))
    assert held - 4 * bool(stored.scale_step) == formats.stored_bytes((80, 64), stored)
    by_hand, array = subject.clone(), subject.graph.initializers["t"].const_value
    assert array is not None
    by_hand.graph.initializers["t"].const_value = ir.tensor(stored.decode(stored.encode(array.numpy())), name="t")
    feeds = {"i": np.arange(80)}
    for name, a in plain_run(by_hand, feeds).items():
        np.testing.assert_allclose(plain_run(result, feeds)[name], a, atol=1e-4 * np.abs(a).max())


def test_what_the_operators_cannot_read_is_dequantized() -> None:
    skip_before("1.31", "makes a QGemm of what that does not take")
    """A Gemm, a table that is multiplied by as well, and a sum that is shorter than a block."""
    subject = model(
        """g (int64[N] i, float[N,8] z) => (float[N,5] y, float[N,32] t) {
            e = Gather(table, i) g = Gemm(e, w) y = MatMul(g, v)
            a = MatMul(z, s) t = MatMul(a, table) }""",
        {"table": (50, 32), "w": (32, 32), "v": (32, 5), "s": (8, 50)},
    )
    result, changes = stored(subject, block_size=32, format="matmulnbits")
    assert sorted(operators(result)) == sorted(
        ["Gather"] * 3 + ["DequantizeLinear"] * 4 + ["Gemm", "MatMulNBits", "MatMul", "MatMul"]
    )
    assert {c.subject: "blocks of 32" in c.what for c in changes.done if c.subject != "model"} == {
        "table": True,
        "w": True,
        "v": True,
        "s": False,
    }
    random = np.random.default_rng(0)
    feeds = {"i": random.integers(0, 50, 9), "z": random.normal(size=(9, 8)).astype(np.float32)}
    for name, a in plain_run(subject, feeds).items():
        assert np.abs(a - plain_run(result, feeds)[name]).max() < 0.03 * np.abs(a).max()


@pytest.mark.parametrize("opset", [13, 18, 19, 21])
@pytest.mark.parametrize("code", [10, 16])
@pytest.mark.parametrize("block", [None, 16])
def test_half_precision_weights(opset: int, code: int, block: int | None) -> None:
    kind = np.float16 if code == 10 else ml_dtypes.bfloat16
    table = np.random.default_rng(1).normal(size=(40, 32)).astype(kind)
    text = "g (int64[N] i) => (float[N,32] y) { e = Gather(t, i) y = Cast<to = 1>(e) }"
    subject = model(text, {"t": table}, opset=opset)
    result, changes = stored(subject, block_size=block)
    assert [c.subject for c in changes.done if c.subject != "model"] == ["t"]
    indices = np.arange(40)
    y, exact = plain_run(result, {"i": indices})["y"], table.astype(np.float64)
    blocks = np.abs(exact).max(0)[None] if block is None else np.abs(exact.reshape(40, -1, 16)).max(2).repeat(16, 1)
    assert (np.abs(y - exact) <= blocks / 127 * (0.6 if code == 10 else 0.8) + np.abs(exact) * 2.0**-8).all()


def test_a_float16_matrix_is_read_in_float16() -> None:
    weight = np.random.default_rng(0).normal(size=(32, 6)).astype(np.float16)
    weight[:, 0] = 1e-7  # a scale that float16 would round to 0
    for opset, cast in ((18, True), (19, False)):
        subject = model("g (float16[N,32] x) => (float16[N,6] y) { y = MatMul(x, w) }", {"w": weight}, opset=opset)
        result, _ = stored(subject)
        assert ("Cast" in operators(result)) == cast
        y = plain_run(result, {"x": np.eye(32, dtype=np.float16)})["y"]
        np.testing.assert_allclose(y, weight, atol=np.abs(weight).max() / 127 * 0.6)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"dtype": "int5"}, "dtype"),
    ({"block_size": 1}, "block_size"),
    ({"block_size": 32, "granularity": "tensor"}, "block_size = 32: each block.*'tensor'"),
    ({"block_size": 32, "granularity": "channel"}, "block_size = 32: each block.*'channel'"),
    ({"granularity": "block"}, "granularity = 'block': block_size is missing"),
    ({"format": "matmulnbits"}, "block_size = None: expected 16, 32"),
    ({"accuracy_level": 5}, "accuracy_level"),
    ({"target": "onnxruntime-cpus"}, "onnxruntime-cpus"),
    ({"format": "matmulnbits", "block_size": 24}, "block_size = 24: expected 16, 32"),
    ({"format": "matmulnbits", "block_size": 8}, "block_size = 8: expected 16, 32"),
    ({"calibration": "best"}, "calibration"),
    ({"calibration": "percentile"}, "calibration"),
    ({"rounding": "up"}, "rounding"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_options_that_do_not_go_together(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        QuantizeWeights(**options)


def test_only_compensation_needs_samples() -> None:
    assert QuantizeWeights().needs == Needs()
    assert QuantizeWeights(dtype="uint4").needs == Needs(welcome=True)
    assert QuantizeWeights(overrides={"w": {"dtype": "int2"}}).needs == Needs(welcome=True)
    assert QuantizeWeights(dtype="uint4", rounding="nearest").needs == Needs()
    assert QuantizeWeights(rounding="gptq").needs == Needs(samples=True)


def test_weights_in_local_functions_are_reached() -> None:
    text = """<ir_version: 9, opset_import: ["" : 18, "local" : 1]>
    g (float[N,32] x) => (float[N,32] y) <float[32,32] w> { a = local.f(x, w) y = local.f(a, w) }
    <domain: "local", opset_import: ["" : 18]>
    f (x, v) => (y) { y = MatMul(x, v) }"""
    proto = onnx.parser.parse_model(text)
    del proto.graph.initializer[:]
    weight = np.random.default_rng(0).normal(size=(32, 32)).astype(np.float32) / 6
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    inside = onnx.helper.make_node("Constant", [], ["c"], value=onnx.numpy_helper.from_array(weight.T, "c"))
    function = proto.functions[0]
    function.node.insert(0, inside)
    function.node[1].output[0] = "m"
    function.node.append(onnx.helper.make_node("MatMul", ["m", "c"], ["y"]))
    subject = ir.from_proto(proto)
    result, changes = stored(subject, dtype="int4", block_size=32, format="matmulnbits")
    assert operators(result) == ["MatMulNBits"] * 4
    assert "inlined" in changes.done[0].what
    x = np.random.default_rng(1).normal(size=(50, 32)).astype(np.float32)
    a, b = plain_run(subject, {"x": x})["y"], plain_run(result, {"x": x})["y"]
    assert np.square(a - b).mean() < 0.05 * np.square(a).mean()
