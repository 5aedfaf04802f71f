"""Bounds hold on every run, and what they prove dead goes."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from corpus.oracle import assert_same, drawn_feeds, plain_run
from corpus.random_graphs import random_graph
from corpus.text import model
from corpus.topologies import TOPOLOGIES
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxcompress import apply
from onnxcompress.channels.analysis import analyse
from onnxcompress.channels.bounds import Bounds
from onnxcompress.passes import Shrink


def assert_bounds_hold(subject: ir.Model, seed: int) -> int:
    """Compare with every float tensor of a run; returns how many bounds there were."""
    engine = analyse(subject)
    bounds = Bounds(engine)
    values = [v for node in subject.graph for v in node.outputs if v.name and v in engine.known.shapes]
    proto = ir.to_proto(subject)
    del proto.graph.output[:]
    del proto.graph.value_info[:]
    proto.graph.output.extend(onnx.ValueInfoProto(name=v.name) for v in values)
    batch = 8 if isinstance((subject.graph.inputs[0].shape or [0])[0], int) else 1
    feeds = {k: 30 * v if v.dtype.kind == "f" else v for k, v in drawn_feeds(subject, seed=seed, batch=batch).items()}
    run = plain_run(proto, feeds)
    count = 0
    for value in values:
        array = run[str(value.name)]
        for axis in range(array.ndim if array.dtype.kind == "f" else 0):
            others = tuple(d for d in range(array.ndim) if d != axis)
            low, high = bounds.along(value, axis)
            assert (low <= array.min(axis=others)).all(), (value.name, axis)
            assert (high >= array.max(axis=others)).all(), (value.name, axis)
            count += int(np.isfinite([low, high]).sum())
    return count


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_bounds_hold_on_every_topology(name: str) -> None:
    assert_bounds_hold(TOPOLOGIES[name][0](), 3)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_bounds_hold_on_random_graphs(seed: int) -> None:
    assert_bounds_hold(random_graph(seed), seed)


def dead_relu() -> ir.Model:
    """Two of six channels never fire: all weights below zero; and an offset that six times the weights cannot reach."""
    weight = np.random.default_rng(0).standard_normal((6, 4, 3, 3)).astype(np.float32)
    offset = np.zeros(6, np.float32)
    weight[1] = -np.abs(weight[1])
    offset[4] = -6.1 * np.maximum(weight[4], 0).sum()
    return model(
        """dead_relu (float[N,3,8,8] x) => (float[N,5,8,8] y) {
            a = Conv(x, w1)
            r = Clip(a, zero, six)
            b = Conv<pads=[1,1,1,1]>(r, w2, b2)
            s = Relu(b)
            y = Conv<pads=[1,1,1,1]>(s, w3)
        }""",
        {"w1": (4, 3, 1, 1), "w2": weight, "b2": offset, "w3": (5, 6, 3, 3)}
        | {"zero": np.array(0, np.float32), "six": np.array(6, np.float32)},
    )


def test_a_relu_that_provably_never_fires_goes() -> None:
    subject = dead_relu()
    assert assert_bounds_hold(subject, 0) > 0
    small, report = apply(subject, [Shrink()])
    assert [(c.subject, c.what) for c in report.steps[0].done] == [("w2", "2 of 6 channels removed")]
    feeds = drawn_feeds(subject)
    assert_same(plain_run(subject, feeds), plain_run(small, feeds))


def test_a_relu_that_could_fire_stays() -> None:
    subject = dead_relu()
    weights = {t.name: onnx.numpy_helper.to_array(t).copy() for t in ir.to_proto(subject).graph.initializer}
    weights["w2"][1, 0, 0, 0] = 0.01
    weights["b2"][4] *= 0.9
    proto = ir.to_proto(subject)
    for tensor in proto.graph.initializer:
        tensor.CopyFrom(onnx.numpy_helper.from_array(weights[tensor.name], tensor.name))
    _, report = apply(proto, [Shrink()])
    assert report.steps[0].done == []


def test_what_has_no_known_shape_has_no_bounds() -> None:
    """Which branch runs is known only when the model runs, and what pools over it has no extents before."""
    text = """g (float[1,4,8,8] x, bool c) => (float y) {
        r = If (c) <then_branch = a () => (float[?,?,?,?] t) { t = Relu(x) },
                    else_branch = b () => (float[?,?] e) { e = Flatten(x) }>
        p = MaxPool<kernel_shape = [2,2]>(r)
        y = ReduceSum<keepdims = 0>(p)
    }"""
    subject = ir.from_proto(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}'))
    engine = analyse(subject)
    assert subject.graph[0].outputs[0] not in engine.known.shapes
    bounds = Bounds(engine)
    assert not list(bounds.fixed(subject.graph[1].outputs[0]))
