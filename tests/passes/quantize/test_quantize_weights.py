"""`QuantizeWeights`: how far the stored weights may be off, where they are found, what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from corpus.oracle import plain_run
from corpus.text import model
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxcompress.contract import MODEL, Changes, Context
from onnxcompress.errors import PassError
from onnxcompress.graph import edit
from onnxcompress.passes import Quantize, QuantizeWeights
from onnxcompress.passes.quantize.quantize_weights import WeightPlan


def stored(subject: ir.Model, **options: Any) -> tuple[ir.Model, Changes]:
    step = QuantizeWeights(**options)
    for value in edit.values(subject.graph):
        edit.constant(value)  # onnx-ir names the tensor of a Constant node when it is first read
    before = ir.to_proto(subject).SerializeToString(deterministic=True)
    plan = step.plan(subject, Context(subject))
    copies = [subject.clone(), subject.clone()]
    changes = step.apply(copies[0], plan)
    step.apply(copies[1], WeightPlan.from_json(plan.to_json()))
    first, second = (ir.to_proto(copy).SerializeToString(deterministic=True) for copy in copies)
    assert first == second
    assert ir.to_proto(subject).SerializeToString(deterministic=True) == before
    onnx.checker.check_model(ir.to_proto(copies[0]), full_check=True)
    return copies[0], changes


def restored(result: ir.Model, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return what DequantizeLinear makes of a stored weight, and its scale, by numpy."""
    node = next(
        n for n in result.graph if n.inputs and n.inputs[0] is not None and n.inputs[0].name == f"{name}_quantized"
    )
    integers, scale, zero = (v.const_value.numpy() for v in node.inputs)  # type: ignore[union-attr]
    shape = [1] * integers.ndim
    if "axis" in node.attributes:
        shape[node.attributes["axis"].as_int()] = -1
    assert integers.dtype == np.int8
    scale = scale.astype(np.float64).reshape(shape)
    return scale * (integers.astype(np.int64) - zero.astype(np.int64).reshape(shape)), scale


@settings(deadline=None, max_examples=60)
@given(
    hnp.arrays(
        np.float32, st.tuples(st.integers(2, 6), st.integers(1, 6)), elements=st.floats(-(2.0**60), 2.0**60, width=32)
    ),
    st.booleans(),
    st.booleans(),
)
def test_weights_are_half_a_step_off_at_most(weight: np.ndarray, per_channel: bool, symmetric: bool) -> None:
    rows, columns = weight.shape
    subject = model(f"g (float[N,{rows}] x) => (float[N,{columns}] y) {{ y = MatMul(x, w) }}", {"w": weight})
    granularity = "channel" if per_channel else "tensor"
    result, _ = stored(subject, granularity=granularity, symmetric=symmetric, minimum_size=1)
    found, scale = restored(result, "w")
    assert (np.abs(weight - found) <= scale * 0.50001).all()
    assert scale.size == (columns if per_channel else 1)


LAYERS: dict[str, tuple[str, dict[str, Any], dict[str, int | None]]] = {
    "conv": ("y = Conv(x, w)", {"w": (8, 4, 3, 3)}, {"w": 0}),
    "transposed": ("y = ConvTranspose(x, w)", {"w": (4, 8, 3, 3)}, {"w": 1}),
    "gemm": (
        "f = Flatten(x) g = Gemm<transB = 1>(f, w) y = Unsqueeze(g, a)",
        {"w": (6, 256), "a": np.array([2, 3])},
        {"w": 0},
    ),
    "constant": (
        "w = Constant<value = float[4, 4, 1, 1] {1,2,3,4,5,6,7,8,9,8,7,6,5,4,3,2}>() y = Conv(x, w)",
        {},
        {"w": 0},
    ),
    "moved": ("t = Transpose<perm = [1, 0]>(w) y = MatMul(x, t)", {"w": (5, 8)}, {"w": 1}),
    "lstm": (
        "f = Reshape(x, s) h, l, c = LSTM<hidden_size = 5>(f, w, r) y = Identity(h)",
        {"w": (1, 20, 8), "r": (1, 20, 5), "s": np.array([4, -1, 8])},
        {"w": 1, "r": 1},
    ),
}


@pytest.mark.parametrize("case", LAYERS)
def test_each_layers_weight_has_a_scale_for_each_output(case: str) -> None:
    body, weights, axes = LAYERS[case]
    subject = model(f"g (float[2,4,8,8] x) => (float[N,C,H,V] y) {{ {body} }}", weights)
    feeds = {"x": np.random.default_rng(0).normal(size=(2, 4, 8, 8)).astype(np.float32)}
    result, changes = stored(subject, minimum_size=16)
    assert [change.subject for change in changes.done if change.subject != MODEL] == list(axes)
    for node in result.graph:
        if node.op_type == "DequantizeLinear":
            name = str(node.inputs[0].name).removesuffix("_quantized")  # type: ignore[union-attr]
            assert (node.attributes["axis"].as_int() if "axis" in node.attributes else None) == axes[name]
    a, b = plain_run(subject, feeds)["y"], plain_run(result, feeds)["y"]
    assert np.abs(a - b).max() < 0.03 * np.abs(a).max()


def test_a_table_is_looked_up_as_integers() -> None:
    subject = model(
        """g (int64[N,3] i) => (float[N,3,8] y, float[N,3,50] z) {
            y = Gather(t, i) u = Transpose<perm = [1, 0]>(t) z = MatMul(y, u) }""",
        {"t": (50, 8)},
    )
    result, _ = stored(subject, minimum_size=16)
    gather = next(n for n in result.graph if n.op_type == "Gather")
    assert gather.outputs[0].dtype == ir.DataType.INT8
    table = [v for v in result.graph.initializers.values() if v.const_value is not None and v.const_value.size == 400]
    assert [v.dtype for v in table] == [ir.DataType.INT8]
    feeds = {"i": np.array([[0, 7, 49]])}
    a, b = plain_run(subject, feeds), plain_run(result, feeds)
    assert list(a) == list(b)
    for name in a:
        np.testing.assert_allclose(a[name], b[name], atol=0.03 * np.abs(a[name]).max())


def test_inner_graphs_keep_their_weights_inside() -> None:
    text = """<ir_version: 9, opset_import: ["" : 18]> g (float[4,8] x, bool c) => (float[4,8] y) {
        y = If (c) <then_branch = t () => (float[4,8] p) <float[8,8] w> { p = MatMul(x, w) },
                    else_branch = e () => (float[4,8] q) { q = Relu(x) }> }"""
    proto = onnx.parser.parse_model(text)
    inner = proto.graph.node[0].attribute[0].g
    array = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)
    del inner.initializer[:]
    inner.initializer.append(onnx.numpy_helper.from_array(array, "w"))
    subject = ir.from_proto(proto)
    result, changes = stored(subject, minimum_size=16)
    assert [change.subject for change in changes.done] == ["w"]
    feeds = {"x": np.eye(4, 8, dtype=np.float32), "c": np.array(True)}
    np.testing.assert_allclose(plain_run(subject, feeds)["y"], plain_run(result, feeds)["y"], atol=0.02)


def test_opset_11_is_raised() -> None:
    subject = model("g (float[2,4,8,8] x) => (float[N,C,H,V] y) { y = Conv(x, w) }", {"w": (8, 4, 3, 3)}, opset=11)
    result, changes = stored(subject, minimum_size=16)
    assert result.opset_imports[""] == 13
    assert changes.done[0].what == "opset raised to 13"


def test_what_stays_as_it_is_is_named() -> None:
    weights = {"h": np.ones((4, 4), np.float64), "n": np.full((4, 4), np.nan, np.float32)}
    subject = model(
        """g (float[N,4] x) => (float[N,4] y) {
            c = Cast<to = 11>(x) d = MatMul(c, h) e = Cast<to = 1>(d) y = MatMul(e, n) }""",
        weights,
    )
    result, changes = stored(subject, minimum_size=16)
    reasons = {r.subject: r.reason for r in changes.refused}
    assert "it is double" in reasons["h"]
    assert "NaN" in reasons["n"]
    assert "no float weight" in reasons["model"]
    assert not any(node.op_type == "DequantizeLinear" for node in result.graph)


def test_small_weights_stay() -> None:
    subject = model("g (float[N,4] x) => (float[N,4] y) { y = MatMul(x, w) }", {"w": (4, 4)})
    _, changes = stored(subject)
    assert not changes.done
    assert len(changes.refused) == 1
    assert "1024 elements" in changes.refused[0].reason


def test_after_quantize_it_stores_what_is_left() -> None:
    from onnxcompress.samples.samples import load_samples

    subject = model(
        "g (int64[N,3] i) => (float[N,3,6] y) { e = Gather(t, i) y = MatMul(e, w) }", {"t": (200, 8), "w": (8, 6)}
    )
    feeds = {"i": np.arange(60).reshape(20, 3)}
    step = Quantize()
    step.apply(copy := subject.clone(), step.plan(subject, Context(subject, samples=load_samples(feeds, subject))))
    result, changes = stored(copy)
    assert [change.subject for change in changes.done] == ["t"]
    a, b = plain_run(subject, feeds)["y"], plain_run(result, feeds)["y"]
    assert np.abs(a - b).max() < 0.05 * np.abs(a).max()


def test_a_plan_for_another_model_is_refused() -> None:
    subject = model("g (float[N,4] x) => (float[N,4] y) { y = MatMul(x, w) }", {"w": (4, 4)})
    plan = QuantizeWeights(minimum_size=1).plan(subject, Context(subject))
    other = model("g (float[N,4] x) => (float[N,4] y) { y = MatMul(x, v) }", {"v": (4, 4)})
    with pytest.raises(PassError, match="weight 'w'"):
        QuantizeWeights().apply(other, plan)
