"""4 bits in the file, 8 where products read them: the integers are those that numpy computes, and onnxruntime folds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from corpus.oracle import plain_run
from corpus.text import model

from onnxcompress.contract import Context
from onnxcompress.errors import OptionError
from onnxcompress.passes import QuantizeWeights
from onnxcompress.passes.quantize.quantize_weights import WeightPlan
from onnxcompress.passes.quantize.weight_only import formats, storage
from onnxcompress.samples.samples import load_samples

RANDOM = np.random.default_rng(0)
SPREAD = (RANDOM.normal(size=(96, 8)) * np.exp(RANDOM.normal(size=(96, 1)))).astype(np.float32)
"""Blocks of unlike sizes."""


def single(weight: np.ndarray, kind: str = "float") -> ir.Model:
    return model(
        f"g ({kind}[N,{len(weight)}] x) => ({kind}[N,{weight.shape[1]}] y) {{ y = MatMul(x, w) }}", {"w": weight}
    )


def applied(subject: ir.Model, samples: Any = None, **options: Any) -> tuple[ir.Model, WeightPlan]:
    step = QuantizeWeights(minimum_size=16, **{"dtype": "uint4", "format": "matmulinteger"} | options)
    context = Context(subject, samples=None if samples is None else load_samples(samples, subject))
    plan, result = WeightPlan.from_json(step.plan(subject, context).to_json()), subject.clone()
    step.apply(result, plan)
    onnx.checker.check_model(ir.to_proto(result), full_check=True)
    return result, plan


def tensors(result: ir.Model) -> dict[str, np.ndarray]:
    return {t.name: onnx.numpy_helper.to_array(t) for t in ir.to_proto(result).graph.initializer}


def operators(result: ir.Model) -> list[str]:
    return [node.op_type for node in result.graph.all_nodes()]


def integers_of(found: dict[str, np.ndarray]) -> np.ndarray:
    """``m · (q − zero_point)``, by what stands in the file."""
    zero = found.get("w_zero_point", np.zeros(1)).astype(int)
    blocks = found["w_multiple"].astype(int) * (found["w_quantized"].astype(int) - zero)
    return blocks.reshape(-1, blocks.shape[-1])


@pytest.mark.parametrize("dtype", ["uint4", "int4"])
@pytest.mark.parametrize("calibration", ["minmax", "mse"])
@pytest.mark.parametrize("largest", [127, 64])
def test_integers_of_8_bits(dtype: str, calibration: str, largest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "products_saturate", lambda: largest < 127)
    weight = SPREAD.copy()
    weight[:32, 0], weight[:, 1] = 0, 0
    result, plan = applied(single(weight), dtype=dtype, calibration=calibration)
    found, stored = tensors(result), plan.weights["w"]
    assert found["w_quantized"].dtype.name == dtype
    integers, unit = integers_of(found), found["w_scale"].astype(np.float64)
    assert np.abs(integers).max() <= largest
    assert integers.any(0).tolist() == [True, False] + [True] * 6
    meant = unit * integers
    step = np.repeat(np.abs(stored.scale), 32, 0)
    if calibration == "minmax":
        assert (np.abs(weight - meant) <= step * 0.5001).all()
    assert np.square(weight - meant).sum() < 0.025 * np.square(weight).sum()
    np.testing.assert_allclose(stored.decode(stored.encode(weight)), meant, rtol=1e-5)
    # Of ones and zeros, 8 bits are exact.
    np.testing.assert_allclose(plain_run(result, {"x": np.eye(96, dtype=np.float32)})["y"], meant, rtol=1e-5)
    held = sum(-(-t.size * (4 if t.dtype.name in ("int4", "uint4") else 8 * t.itemsize) // 8) for t in found.values())
    assert held - 16 == formats.stored_bytes(weight.shape, stored)  # less the shape that Reshape gives


def test_onnxruntime_makes_them_when_it_loads(tmp_path: Path) -> None:
    result, _ = applied(single(SPREAD))
    options = ort.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "optimised.onnx"), 4
    ort.InferenceSession(ir.to_proto(result).SerializeToString(), options)
    optimised = onnx.load(options.optimized_model_filepath)
    assert [node.op_type for node in optimised.graph.node] == ["DynamicQuantizeMatMul"]
    arrays = [onnx.numpy_helper.to_array(t) for t in optimised.graph.initializer]
    (matrix,) = (array for array in arrays if array.shape == SPREAD.shape)
    assert matrix.dtype == np.int8
    assert (matrix == integers_of(tensors(result))).all()


def test_scales_lose_hardly_more_than_those_in_bytes() -> None:
    weight = RANDOM.normal(size=(512, 64)).astype(np.float32)
    lost = {}
    for form in ("matmulinteger", "matmulnbits"):
        stored = applied(single(weight), format=form, calibration="mse")[1].weights["w"]
        lost[form] = np.square(weight - stored.decode(stored.encode(weight))).sum()
    assert lost["matmulinteger"] < 1.05 * lost["matmulnbits"]


def test_readers_of_one_tensor_share_its_integers() -> None:
    body = "q = MatMul(x, a) k = MatMul(x, w) s = Add(q, k) t = Add(s, b) y = MatMul(t, w)"
    given = {"a": (64, 64), "w": (64, 64), "b": (64,)}
    subject = model(f"g (float[N,T,64] x) => (float[N,T,64] y) {{ {body} }}", given)
    result, _ = applied(subject)
    assert operators(result).count("DynamicQuantizeLinear") == 2
    assert operators(result).count("MatMulInteger") == 3
    assert operators(result).count("Reshape") == 2
    x = RANDOM.normal(size=(2, 5, 64)).astype(np.float32)
    a, b = plain_run(subject, {"x": x})["y"], plain_run(result, {"x": x})["y"]
    assert 0 < np.square(a - b).sum() < 0.03 * np.square(a).sum()


@pytest.mark.parametrize(
    ("shape", "kind", "expected"),
    [
        ((70, 8), "float", "MatMulNBits"),
        ((64, 8), "float16", "MatMulNBits"),
        ((24, 8), "float", "DequantizeLinear"),
        ((64, 8), "float", "MatMulInteger"),
    ],
)
def test_what_it_cannot_read(shape: tuple[int, int], kind: str, expected: str) -> None:
    weight = RANDOM.normal(size=shape).astype("float32" if kind == "float" else kind)
    assert expected in operators(applied(single(weight, kind))[0])


def test_a_table_that_a_product_reads_too_stays_stored_once() -> None:
    body = "r = Gather(w, i) t = Transpose(w) y = MatMul(r, t)"
    result, _ = applied(model(f"g (int64[N] i) => (float[N,40] y) {{ {body} }}", {"w": (40, 256)}))
    assert [op for op in operators(result) if op.endswith(("Bits", "Quantized", "Integer"))] == [
        "GatherBlockQuantized", "MatMulNBits",
    ]  # fmt: skip


@pytest.mark.parametrize("rounding", ["gptq", "quantease"])
def test_rounding_knows_the_multiples(rounding: str) -> None:
    base = RANDOM.normal(size=(200, 12))
    x = (base @ RANDOM.normal(size=(12, 96)) + 0.1 * RANDOM.normal(size=(200, 96))).astype(np.float32)
    lost = {}
    for how in ("nearest", rounding):
        result, plan = applied(single(SPREAD), {"x": x}, rounding=how, calibration="mse")
        found, stored = tensors(result), plan.weights["w"]
        integers = integers_of(found)
        assert np.abs(integers).max() <= 127
        meant = found["w_scale"].astype(np.float64) * integers
        np.testing.assert_allclose(stored.decode(stored.encode(SPREAD)), meant, rtol=1e-5)
        lost[how] = np.square(x @ (SPREAD - meant)).sum()
    assert lost[rounding] < 0.7 * lost["nearest"]


def test_under_a_budget_other_bits_have_the_other_operator() -> None:
    subject = model(
        "g (float[N,64] x) => (float[N,64] y) { z = MatMul(x, v) y = MatMul(z, w) }", {"v": (64, 64), "w": (64, 64)}
    )
    wide, _ = applied(subject, dtype="int8", bits=9.5)
    assert operators(wide) == ["MatMulNBits", "MatMulNBits"]
    few, _ = applied(subject, dtype="int8", bits=4.9)
    assert "MatMulInteger" in operators(few)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int8", "block_size": 32}, "dtype = 'int8': format = 'matmulinteger' stores 'int4' or 'uint4'"),
        ({"dtype": "int3"}, "dtype = 'int3': format"),
        ({"dtype": "int4", "block_size": 24}, "block_size = 24: expected 16, 32"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        QuantizeWeights(format="matmulinteger", **options)
