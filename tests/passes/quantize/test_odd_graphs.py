"""What stands between layers may be a sequence, a branch in a branch, nothing at all, or an input with a default."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from corpus.oracle import plain_run
from corpus.text import model
from corpus.versions import skip_before

from onnxcompress import apply
from onnxcompress.contract import Pass
from onnxcompress.passes import ConvertFloat, Quantize, QuantizeDynamic, QuantizeWeights

ROWS = np.random.default_rng(0).standard_normal((48, 16)).astype(np.float32)
WEIGHTS: dict[str, Any] = {"w": (16, 16), "v": (16, 16), "u": (16, 8)}
ODD = {
    "a sequence between layers": """a = MatMul(x, w) s = SequenceConstruct(a, a) z = Constant <value_int = 1> ()
        e = SequenceAt(s, z) b = Relu(e) y = MatMul(b, u)""",
    "a sequence across layers": """s = SequenceConstruct(x, x) a = MatMul(x, w) b = MatMul(a, v)
        z = Constant <value_int = 1> () e = SequenceAt(s, z) c = Add(b, e) y = MatMul(c, u)""",
    "an optional": "o = Optional(x) e = OptionalGetElement(o) a = MatMul(e, w) b = Relu(a) y = MatMul(b, u)",
    "a branch in a branch": """m = ReduceMean <keepdims = 0> (x) high = Greater(m, zero)
        always = Constant <value = bool {1}> ()
        a = If(high) <
            then_branch = t () => (float[p,q] b) { b = Identity(x) },
            else_branch = e () => (float[p,q] c) { c = If(always) <
                then_branch = tt () => (float[p,q] d) { d = MatMul(x, w) },
                else_branch = te () => (float[p,q] f) { g = Relu(x) f = MatMul(g, v) }> }>
        y = MatMul(a, u)""",
    "no rows now and then": """s = ReduceSum <keepdims = 0> (x, last) keep = Greater(s, many)
        k = Compress <axis = 0> (x, keep) a = MatMul(k, w) b = Relu(a) c = MatMul(b, u)
        n = ReduceSum <keepdims = 1> (c, first) p = MatMul(x, u) y = Add(p, n)""",
    "no rows in a loop": """trips = Constant <value_int = 2> () on = Constant <value = bool {1}> ()
        l, scanned = Loop(trips, on, x) <
            body = body (int64 i, bool c, float[n,16] h) => (bool d, float[n,16] k, float[1] r) {
            d = Identity(c) f = Relu(h) s = ReduceSum <keepdims = 0> (f, last) keep = Greater(s, many)
            g = Compress <axis = 0> (f, keep) m = MatMul(g, v) q = Relu(m) o = ReduceMax <keepdims = 0> (q)
            t = ReduceMax <keepdims = 0> (f) sh = Constant <value_ints = [1]> () r = Reshape(t, sh) k = MatMul(f, w) }>
        y = MatMul(l, u)""",
    "a layer that nothing reads": "a = MatMul(x, w) b = Relu(a) unread = MatMul(b, v) y = MatMul(b, u)",
}  # fmt: skip
CONSTANTS: dict[str, Any] = {
    "zero": np.array(0, np.float32), "many": np.array(40, np.float32),
    "last": np.array([1]), "first": np.array([0]),
}  # fmt: skip
PASSES: list[Pass] = [
    Quantize(),
    Quantize(equalise=True, max_drop=0.5),
    QuantizeDynamic(),
    QuantizeWeights(minimum_size=1),
    ConvertFloat(),
]


def odd(what: str) -> ir.Model:
    given = {
        name: value
        for name, value in (WEIGHTS | CONSTANTS).items()
        if f"{name})" in ODD[what] or f", {name}," in ODD[what]
    }
    return model(f"g (float[N,16] x) => (float[M,8] y) {{ {ODD[what]} }}", given)


@pytest.mark.parametrize("what", ODD)
@pytest.mark.parametrize(
    "step", PASSES, ids=lambda step: f"{step.name}{' '.join(map(str, step.options().values()))[:9]}"
)
def test_layers_around_it_go_to_integers_all_the_same(what: str, step: Pass) -> None:
    skip_before("1.31", "does not open constants of branches in branches", when=what == "a branch in a branch")
    result, report = apply(odd(what), [step], data={"x": ROWS})
    before, after = (plain_run(m, {"x": ROWS[:5]})["y"] for m in (odd(what), result))
    assert np.linalg.norm(after - before) < 0.1 * np.linalg.norm(before)
    assert report.steps[0].done


@pytest.mark.parametrize("step", PASSES[:1] + PASSES[2:4], ids=lambda step: step.name)
def test_an_input_with_a_default_stays_one(step: Pass) -> None:
    proto = ir.to_proto(model("g (float[N,16] x) => (float[N,8] y) { a = MatMul(x, w) b = Relu(a) y = MatMul(b, u) }",
                              {"w": (16, 16), "u": (16, 8)}))  # fmt: skip
    proto.graph.input.append(onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [16, 16]))
    result, report = apply(proto, [step], data={"x": ROWS})
    assert [value.name for value in result.graph.input] == ["x", "w"]
    assert report.steps[0].done
    given = {"x": ROWS[:5], "w": 0.5 * np.eye(16, dtype=np.float32)}
    before, after = (plain_run(m, given)["y"] for m in (proto, result))
    assert np.linalg.norm(after - before) < 0.1 * np.linalg.norm(before)


def test_defaults_become_float16_with_their_inputs() -> None:
    skip_before("1.31", "crashes with a float16 weight that is an input")
    proto = ir.to_proto(model("g (float[N,16] x) => (float[N,8] y) { y = MatMul(x, u) }", {"u": (16, 8)}))
    proto.graph.input.append(onnx.helper.make_tensor_value_info("u", onnx.TensorProto.FLOAT, [16, 8]))
    result, _ = apply(proto, [ConvertFloat(keep_io=False)])
    assert {value.type.tensor_type.elem_type for value in result.graph.input} == {onnx.TensorProto.FLOAT16}
    before, after = plain_run(proto, {"x": ROWS})["y"], plain_run(result, {"x": ROWS.astype(np.float16)})["y"]
    assert np.abs(after - before).max() < 0.01 * np.abs(before).max()


MOVED = {
    "reshaped": "r = Reshape(b, shape) y = Tanh(r)",
    "transposed": "r = Transpose <perm = [1, 0]> (b) y = Tanh(r)",
    "a slice": "r = Slice(b, first, last) y = Tanh(r)",
    "with another axis": "r = Unsqueeze(b, first) y = Tanh(r)",
    "twice": "r = Reshape(b, shape) s = Transpose <perm = [1, 0]> (r) y = Tanh(s)",
    "an output": "y = Reshape(b, shape)",
    "on and on into a branch": """q = Reshape(b, shape) r = Transpose <perm = [1, 0]> (q) y = If(yes) <
        then_branch = t () => (float[p,q] c) { c = Tanh(r) }, else_branch = e () => (float[p,q] d) { d = Neg(r) }>""",
    "into a branch": """r = Transpose <perm = [1, 0]> (b) y = If(yes) <
        then_branch = t () => (float[p,q] c) { c = Tanh(r) }, else_branch = e () => (float[p,q] d) { d = Neg(r) }>""",
}


@pytest.mark.parametrize("what", MOVED)
@pytest.mark.parametrize("opset", [13, 21, 23])
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_integers_may_be_moved_to_what_is_left_in_float(what: str, opset: int, dtype: str) -> None:
    """onnxruntime cannot load, or dies of, some of these from opset 21 on, if nothing keeps it from carrying int8."""
    weights: dict[str, Any] = {"w": (16, 16), "shape": np.array([-1, 8]), "first": np.array([1]), "last": np.array([2])}
    weights["yes"] = np.array(True)
    axes = "m,n,o" if "axis" in what else "m,n"
    text = f"g (float[4,16] x) => (float[{axes}] y) {{ a = MatMul(x, w) b = Relu(a) {MOVED[what]} }}"
    subject = model(text, {n: v for n, v in weights.items() if n in text.split("{", 1)[1]}, opset=opset)
    stored = QuantizeWeights(dtype=dtype, granularity="tensor", minimum_size=1)
    for step in (Quantize(activations=dtype, coverage="all"), stored):
        result, report = apply(subject, [step], data={"x": ROWS.reshape(-1, 16)})
        assert report.steps[0].done
        before, after = (plain_run(m, {"x": ROWS[:4]})["y"] for m in (subject, result))
        assert np.linalg.norm(after - before) < 0.1 * np.linalg.norm(before)
