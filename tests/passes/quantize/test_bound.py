"""Random networks: what is quantized stays within the analytic bound, and loads at every opset."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from corpus.oracle import plain_run
from corpus.quantization_bound import Bound, all_values
from corpus.random_graphs import SIZE, random_graph
from corpus.text import model
from corpus.versions import skip_before
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onnxcompress.contract import Context
from onnxcompress.passes import Quantize
from onnxcompress.passes.quantize.prepare.prepare import FORMS, prepare
from onnxcompress.passes.quantize.static.plan import QuantizePlan
from onnxcompress.samples.samples import load_samples

Feeds = dict[str, np.ndarray]

NEWEST = min(onnx.defs.onnx_opset_version(), 27)
"""The last opset for which onnxruntime 1.32 has QuantizeLinear."""


def drawn(seed: int) -> Feeds:
    return {"x": np.random.default_rng(seed).standard_normal((2, 3, SIZE, SIZE)).astype(np.float32)}


def planned(subject: ir.Model, feeds: Feeds, **options: Any) -> tuple[ir.Model, ir.Model, QuantizePlan]:
    """Return the float model as `Quantize` prepares it, the quantized one and the plan; rounding is plain."""
    step = Quantize(equalise=False, correct=False, rounding="nearest", **options)
    plan = step.plan(subject, Context(subject, samples=load_samples(feeds, subject)))
    prepared, result = subject.clone(), subject.clone()
    prepare(prepared, FORMS["quantize"])
    step.apply(result, plan)
    return prepared, result, plan


def excess(prepared: ir.Model, result: ir.Model, plan: QuantizePlan, feeds: Feeds) -> float:
    """Return the largest error over its bound, over what each DequantizeLinear gives and over the outputs."""
    bound, found = Bound(prepared, plan, feeds), all_values(ir.to_proto(result), feeds)
    pairs = {name: (found.get(f"{name}_dequantized"), bound.dequantized(name)) for name in bound.radii}
    pairs |= {f"output {name}": (found[name], bound.read(name)) for name in (v.name for v in prepared.graph.outputs)}
    worst = []
    for name, (seen, radius) in pairs.items():
        if seen is not None and radius is not None and seen.size:
            value = bound.values[name.removeprefix("output ")].astype(np.float64)
            allowed = radius + 1e-5 * np.abs(value).max() + 1e-30  # float32's own rounding
            worst.append(float((np.abs(seen - value) / allowed).max()))
    return max(worst)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["uint8", "int8"]), st.sampled_from(["tensor", "channel"]))
def test_quantized_stays_within_the_bound_on_random_graphs(seed: int, dtype: str, granularity: str) -> None:
    subject, feeds = random_graph(seed), drawn(seed)
    prepared, result, plan = planned(subject, feeds, activations=dtype, granularity=granularity)
    assert plan.nodes
    assert excess(prepared, result, plan, feeds) <= 1


@pytest.mark.parametrize("seed", [0, 3, 5])
@pytest.mark.parametrize("factor", [0.5, 1.2])
def test_a_wrong_scale_leaves_the_bound(seed: int, factor: float) -> None:
    """The bound is tight enough to tell: of the first convolution, whose weights are dequantized by a wrong scale."""
    subject, feeds = random_graph(seed), drawn(seed)
    prepared, result, plan = planned(subject, feeds)
    assert excess(prepared, result, plan, feeds) <= 1
    wrong = result.graph.initializers["x_scale"]
    wrong.const_value = ir.tensor(np.float32(factor) * wrong.const_value.numpy())  # type: ignore[union-attr]
    assert excess(prepared, result, plan, feeds) > 1


K = "Conv<pads = [1, 1, 1, 1]>"
SHARED: dict[str, tuple[str, dict[str, Any]]] = {
    "a weight and a bias, inputs of other scales": (
        f"a = {K}(x, w, b) s = Mul(a, ten) c = {K}(s, w, b) t = Tanh(c) y = {K}(t, w, b)",
        {"w": (3, 3, 3, 3), "b": (3,), "ten": np.array(10, np.float32)},
    ),
    "a weight behind Identity": (f"v = Identity(w) y = {K}(x, v, b)", {"w": (5, 3, 3, 3), "b": (5,)}),
    "a weight behind Cast": (
        f"v = Cast<to = 1>(w) y = {K}(x, v)",
        {"w": np.random.default_rng(0).normal(size=(5, 3, 3, 3)).astype(np.float16)},
    ),
    "a weight behind Transpose, and itself": (
        f"v = Transpose<perm = [1, 0, 2, 3]>(w) a = {K}(x, v) r = Relu(a) y = {K}(r, w)",
        {"w": (3, 3, 3, 3)},
    ),
    "a weight behind Reshape": (f"v = Reshape(w, s) y = {K}(x, v)", {"w": (15, 9), "s": np.array([5, 3, 3, 3])}),
    "a weight behind several": (
        f"i = Identity(w) d = Cast<to = 11>(i) u = Transpose<perm = [1, 0, 2, 3]>(d) v = Cast<to = 1>(u) y = {K}(x, v)",
        {"w": (3, 5, 3, 3)},
    ),
    "a weight in a Constant node": (
        "w = Constant<value = float[2, 3, 1, 1] {1, -2, 3, -4, 5, -6}>() a = Conv(x, w) r = Relu(a) "
        "v = Constant<value = float[1, 2, 1, 1] {0.5, -0.25}>() y = Conv(r, v)",
        {},
    ),
    "a bias that is a weight elsewhere": (
        f"a = {K}(x, w, b) y = Add(a, c)",
        {"w": (3, 3, 3, 3), "b": (3,), "c": (3, 1, 1)},
    ),
}


@pytest.mark.parametrize("case", SHARED)
def test_shared_and_moved_weights_stay_within_the_bound(case: str) -> None:
    body, weights = SHARED[case]
    subject = model(f"g (float[N,3,{SIZE},{SIZE}] x) => (float[N,C,{SIZE},{SIZE}] y) {{ {body} }}", weights)
    feeds = drawn(3)
    prepared, result, plan = planned(subject, feeds)
    convolutions = sum(node.op_type == "Conv" for node in subject.graph)
    assert len(plan.weights) == convolutions
    assert excess(prepared, result, plan, feeds) <= 1
    bound, found = Bound(prepared, plan, feeds), plain_run(result, feeds)["y"]
    assert (np.abs(found - bound.values["y"]) <= bound.read("y") + 1e-5 * np.abs(found).max()).all()


def test_a_weight_that_is_an_output_stays_as_it_is_there() -> None:
    text = f"g (float[N,3,{SIZE},{SIZE}] x) => (float[N,5,{SIZE},{SIZE}] y, float[5,3,3,3] w) {{ y = {K}(x, w) }}"
    subject, feeds = model(text, {"w": (5, 3, 3, 3)}), drawn(3)
    prepared, result, plan = planned(subject, feeds)
    assert excess(prepared, result, plan, feeds) <= 1
    found = plain_run(result, feeds)
    np.testing.assert_array_equal(found["w"], plain_run(subject, feeds)["w"])


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_integer_kernels_stay_within_the_bound_too(seed: int) -> None:
    subject, feeds = random_graph(seed), drawn(seed)
    prepared, result, plan = planned(subject, feeds)
    bound = Bound(prepared, plan, feeds)
    error = np.abs(plain_run(result, feeds)["y"].astype(np.float64) - bound.values["y"])
    assert (error <= bound.read("y") + 1e-5).all()


@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 10**6))
@pytest.mark.parametrize("opset", range(10, NEWEST + 1))
def test_random_graphs_load_and_stay_close_at_every_opset(opset: int, seed: int) -> None:
    skip_before("1.31", "computes opset 24 wrong, and does not read 26", when=opset >= 24)
    skip_before("1.32", "does not read opset 27", when=opset >= 27)
    subject, feeds = random_graph(seed, opset=opset), drawn(seed)
    before = plain_run(subject, feeds)["y"]
    prepared, result, plan = planned(subject, feeds)
    onnx.checker.check_model(ir.to_proto(result), full_check=True)
    assert result.opset_imports[""] == max(opset, 13)
    assert plan.nodes
    after = plain_run(result, feeds)["y"]
    if opset >= 13:
        bound = Bound(prepared, plan, feeds)
        assert (np.abs(after.astype(np.float64) - before) <= bound.read("y") + 1e-5).all()
    noise, signal = np.square(after - before).mean(), np.square(before).mean()
    assert noise <= 0.1 * signal + 1e-6


def inside(subject: ir.Model, kind: str) -> ir.Model:
    """Return a model that runs another as the branch of an If, as the body of a Loop, or as a function."""
    proto = ir.to_proto(subject)
    graph, one = proto.graph, helper.make_tensor("one", TensorProto.INT64, [], [1])
    true = helper.make_tensor("true", TensorProto.BOOL, [], [1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])
    weights = list(graph.initializer)
    functions = []
    if kind == "function":
        names = [w.name for w in weights]
        imports = list(proto.opset_import)
        functions = [helper.make_function("my", "Net", ["x", *names], ["y"], list(graph.node), imports)]
        nodes = [helper.make_node("Net", ["x", *names], ["y"], domain="my")]
    elif kind == "If":
        other = [helper.make_node("GlobalAveragePool", ["x"], ["p"]), helper.make_node("Flatten", ["p"], ["y0"])]
        branch = helper.make_graph(other, "else", [], [helper.make_tensor_value_info("y0", 1, None)])
        body = helper.make_graph(list(graph.node), "then", [], [helper.make_tensor_value_info("y", 1, None)])
        nodes = [helper.make_node("If", ["true"], ["out"], then_branch=body, else_branch=branch)]
    else:
        ends = [helper.make_tensor_value_info("c2", TensorProto.BOOL, []), helper.make_tensor_value_info("y", 1, None)]
        starts = [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
        ]
        go_on = helper.make_node("Identity", ["c"], ["c2"])
        body = helper.make_graph([go_on, *graph.node], "body", starts, ends)
        nodes = [helper.make_node("Loop", ["one", "true"], ["stack"], body=body)]
        nodes.append(helper.make_node("Squeeze", ["stack", "first"], ["out"]))
        weights.append(numpy_helper.from_array(np.array([0]), "first"))
    if kind != "function":
        weights += [one, true]
        y.name = "out"
    outer = helper.make_graph(nodes, "outer", list(graph.input), [y], weights)
    imports = [*proto.opset_import, helper.make_opsetid("my", 1)]
    made = helper.make_model(outer, opset_imports=imports, ir_version=9, functions=functions)
    onnx.checker.check_model(made)
    return ir.from_proto(made)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6))
@pytest.mark.parametrize("kind", ["function", "If", "Loop"])
def test_a_network_is_quantized_alike_wherever_it_is(kind: str, seed: int) -> None:
    skip_before("1.31", "loses a constant of a fused Conv in a Loop", when=kind == "Loop")
    plain, feeds = random_graph(seed), drawn(seed)
    prepare(plain, FORMS["quantize"])  # nothing is folded inside inner graphs
    subject = inside(plain, kind)
    before = plain_run(plain, feeds)["y"]
    np.testing.assert_allclose(next(iter(plain_run(subject, feeds).values())), before, atol=1e-4)
    _, flat, alone = planned(plain, feeds)
    _, result, plan = planned(subject, feeds)
    np.testing.assert_allclose(
        sorted(a.scale for a in plan.activations), sorted(a.scale for a in alone.activations), rtol=1e-4
    )
    expected, found = plain_run(flat, feeds)["y"], next(iter(plain_run(result, feeds).values()))
    np.testing.assert_allclose(found, expected, atol=0.05 * np.abs(expected).max())
