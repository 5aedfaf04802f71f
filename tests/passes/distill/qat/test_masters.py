"""Constants of integers as floats, and back."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxcompress.passes.distill.qat.masters import Master, find_masters
from onnxcompress.passes.distill.qat.rounding import with_floats

TYPES = {
    "int8": np.int8, "uint8": np.uint8, "int16": np.int16, "uint16": np.uint16, "int32": np.int32,
    "int4": ml_dtypes.int4, "uint4": ml_dtypes.uint4,
}  # fmt: skip
LIMITS = {"int4": (-8, 7), "uint4": (0, 15), "int32": (-(2**30), 2**30)}


def limits(dtype: str) -> tuple[int, int]:
    return LIMITS.get(dtype) or (int(np.iinfo(TYPES[dtype]).min), int(np.iinfo(TYPES[dtype]).max))


def model_of(integers: np.ndarray, scale: np.ndarray, point: np.ndarray | None, **attributes: Any) -> ir.Model:
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["n", integers.shape[0]]))
    given_ = {"q": integers, "scale": scale} | ({} if point is None else {"point": point})
    values = [ir.val(name, const_value=ir.tensor(array, name=name)) for name, array in given_.items()]
    back = ir.node("DequantizeLinear", values, attributes)
    product = ir.node("MatMul", [x, back.outputs[0]])
    y = product.outputs[0]
    y.name, y.type = "y", ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph([x], [y], nodes=[back, product], initializers=values, opset_imports={"": 21}, name="net")
    return ir.Model(graph, ir_version=10)


def run(model: ir.Model) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options)
    return session.run(None, {"x": np.eye(6, dtype=np.float32)})[0]


@settings(deadline=None, max_examples=60)
@given(st.sampled_from([*TYPES]), st.sampled_from(["tensor", "axis", "block"]), st.booleans(), st.integers(0, 99))
def test_floats_stand_for_the_same_integers(dtype: str, kind: str, pointed: bool, seed: int) -> None:
    random, (low, high) = np.random.default_rng(seed), limits(dtype)
    integers = random.integers(low, high, (6, 5), endpoint=True).astype(TYPES[dtype])
    shape = {"tensor": (), "axis": (5,), "block": (2, 5)}[kind]
    attributes = {"tensor": {}, "axis": {"axis": 1}, "block": {"axis": 0, "block_size": 4}}[kind]
    scale = random.uniform(1e-3, 1, shape).astype(np.float32)
    point = random.integers(low, high, shape, endpoint=True).astype(TYPES[dtype])
    point = np.zeros_like(point) if dtype == "int32" else point
    model = model_of(integers, scale, point if pointed else None, **attributes)
    masters, refused = find_masters(model)
    assert not refused
    master = masters["q"]
    expected = run(model)
    np.testing.assert_array_equal(master.floats, expected)
    again = master.rounded(master.floats)
    assert again.dtype == integers.dtype
    np.testing.assert_array_equal(again, integers)
    for rounded in (True, False):
        copy = with_floats(model, masters, rounded=rounded)
        np.testing.assert_array_equal(copy.graph.initializers["q"].const_value.numpy(), expected)
        if dtype not in ("int16", "uint16") or not rounded:
            np.testing.assert_array_equal(run(copy), expected)
    np.testing.assert_array_equal(run(model), expected)


def only(integers: list[int], dtype: str = "int8", point: int = 0, scale: float = 0.5) -> Master:
    array = np.array(integers).reshape(-1, 1).astype(TYPES[dtype])
    model = model_of(array, np.float32(scale), np.array(point).astype(TYPES[dtype]))
    return find_masters(model)[0]["q"]


@pytest.mark.parametrize(
    ("integers", "dtype", "point", "reach"),
    [
        ([-128, 3], "int8", 0, (-128, 127)),
        ([-127, 3], "int8", 0, (-127, 127)),
        ([-64, 64], "int8", 0, (-64, 64)),
        ([-65, 64], "int8", 0, (-127, 127)),
        ([-64, 64], "int8", 1, (-129, 126)),
        ([64, 192], "uint8", 128, (-64, 64)),
        ([1, 255], "uint8", 128, (-127, 127)),
        ([0, 255], "uint8", 128, (-128, 127)),
        ([0, 255], "uint8", 7, (-7, 248)),
        ([-7, 2], "int4", 0, (-7, 7)),
        ([-8, 2], "int4", 0, (-8, 7)),
        ([1, 2], "uint4", 8, (-7, 7)),
        ([-5, 5], "int16", 0, (-32767, 32767)),
    ],
)
def test_integers_reach_as_far_as_their_format_does(
    integers: list[int], dtype: str, point: int, reach: tuple[int, int]
) -> None:
    master = only(integers, dtype, point)
    assert (int(master.low), int(master.high)) == reach
    far = np.array([[-1e6], [1e6]], np.float32)
    np.testing.assert_array_equal(master.steps_of(master.rounded(far)).ravel(), reach)
    copy = with_floats(ir_model(master), {"q": master})
    copy.graph.initializers["q"].const_value = ir.tensor(far, name="q")
    session = onnxruntime.InferenceSession(ir.to_proto(copy).SerializeToString())
    y = session.run(None, {"x": np.eye(2, dtype=np.float32)})[0]
    np.testing.assert_array_equal(y.ravel(), np.array(reach, np.float32) * 0.5)


def ir_model(master: Master) -> ir.Model:
    return model_of(master.integers, master.scale, master.point)


def test_a_bias_of_32_bits_keeps_what_a_float_cannot_hold() -> None:
    master = only([2**30 + 1, 5], "int32", scale=1e-6)
    floats = master.floats
    np.testing.assert_array_equal(master.rounded(floats).ravel(), [2**30 + 1, 5])
    floats[1] += 3e-6
    np.testing.assert_array_equal(master.rounded(floats).ravel(), [2**30 + 1, 8])


TEXT = """<ir_version: 10, opset_import: ["" : 21]>
net (float[n,4] x, float s) => (float[n,4] y) <int8[4,4] w = {1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16},
  int8[4,4] v = {1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16}, float a = {0.5}, float b = {0.25},
  float16 h = {14336}> {
  BODY
}"""


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("t = Transpose(w)\n d = DequantizeLinear(w, a)\n e = DequantizeLinear(t, a)\n z = Add(d, e)\n"
         "y = MatMul(x, z)", "reads the integers themselves"),
        ("d = DequantizeLinear(w, a)\n e = DequantizeLinear(w, b)\n z = Add(d, e)\n y = MatMul(x, z)",
         "and others dequantize it differently"),
        ("d = DequantizeLinear(w, s)\n y = MatMul(x, d)", "is no constant"),
        ("d = DequantizeLinear(w, h)\n e = Cast<to = 1>(d)\n y = MatMul(x, e)", "its scales are float16"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_is_said(body: str, reason: str) -> None:
    masters, refused = find_masters(ir.from_proto(onnx.parser.parse_model(TEXT.replace("BODY", body))))
    assert not masters
    assert reason in refused["w"]
