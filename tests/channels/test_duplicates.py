"""Equal channels are found, and one of them does the work of all."""

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
from onnxcompress.channels.duplicates import Equal
from onnxcompress.passes import Shrink


def copied(subject: ir.Model, seed: int) -> ir.Model:
    """Copy some rows of every weight onto others; parameters of equal length get the same copies."""
    proto = ir.to_proto(subject)
    for tensor in proto.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor).copy()
        if array.dtype.kind == "f" and array.ndim:
            source = np.random.default_rng([seed, len(array)]).integers(0, len(array), len(array))
            tensor.CopyFrom(onnx.numpy_helper.from_array(array[np.minimum(source, np.arange(len(array)))], tensor.name))
    return ir.from_proto(proto)


def shapes_of(subject: ir.Model) -> dict[str, tuple[int, ...]]:
    return {t.name: tuple(t.dims) for t in ir.to_proto(subject).graph.initializer}


def merged(subject: ir.Model) -> tuple[dict[str, tuple[int, ...]], list[str]]:
    """Shrink without loss, compare with ONNX Runtime on the original; returns shapes and what was said."""
    small, report = apply(subject, [Shrink(merge_equal=True)])
    feeds = drawn_feeds(subject)
    assert_same(plain_run(subject, feeds), plain_run(small, feeds))
    step = report.steps[0]
    return shapes_of(small), [f"{c.subject}: {c.what}" for c in step.done] + [r.reason for r in step.refused]


def assert_equal_is_equal(subject: ir.Model) -> None:
    engine = analyse(subject)
    equal = Equal(engine)
    values = [v for node in subject.graph for v in node.outputs if v.name and equal.axes(v)]
    proto = ir.to_proto(subject)
    del proto.graph.output[:]
    del proto.graph.value_info[:]
    proto.graph.output.extend(onnx.ValueInfoProto(name=v.name) for v in values)
    batch = 8 if isinstance((subject.graph.inputs[0].shape or [0])[0], int) else 1
    run = plain_run(proto, drawn_feeds(subject, batch=batch))
    for value in values:
        for axis in equal.axes(value):
            slices = np.moveaxis(run[str(value.name)], axis, 0)
            kinds = equal.along(value, axis)
            _, first = np.unique(kinds, return_index=True)
            of = first[np.searchsorted(np.unique(kinds), kinds)]
            np.testing.assert_allclose(slices, slices[of], rtol=1e-4, atol=1e-4, err_msg=f"{value.name} {axis}")


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_merging_on_every_topology(name: str) -> None:
    subject = copied(TOPOLOGIES[name][0](), 1)
    assert_equal_is_equal(subject)
    merged(subject)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_merging_on_random_graphs(seed: int) -> None:
    subject = copied(random_graph(seed), seed)
    assert_equal_is_equal(subject)
    merged(subject)


def widened(rows: np.ndarray, *, twice: list[int]) -> np.ndarray:
    return np.concatenate([rows, rows[twice]])


def test_a_widened_network_is_made_narrow_again() -> None:
    """Net2Net, arXiv:1511.05641: units are copied, and the weights that read them halved. Two layers at once."""
    draw = np.random.default_rng(0).standard_normal
    w1, b1 = draw((6, 3, 3, 3)).astype(np.float32), draw(6).astype(np.float32)
    w2, w3 = draw((5, 6, 1, 1)).astype(np.float32), draw((4, 5 * 16)).astype(np.float32)
    halved = w2.copy()
    halved[:, [1, 4]] /= 2
    halved = np.concatenate([halved, halved[:, [1, 4]]], axis=1)
    flat = w3.reshape(4, 5, 16).copy()
    flat[:, 2] /= 2
    flat = np.concatenate([flat, flat[:, 2:3]], axis=1).reshape(4, 96)
    text = """net (float[N,3,6,6] x) => (float[N,4] y) {
        a = Conv(x, w1, b1) r = Relu(a) n = BatchNormalization(r, scale, shift, mean, var)
        b = Conv(n, w2) s = Sigmoid(b) f = Flatten(s) y = Gemm<transB=1>(f, w3)
    }"""
    norm = {name: np.abs(draw(6)).astype(np.float32) for name in ("scale", "shift", "mean", "var")}
    wide = {name: widened(array, twice=[1, 4]) for name, array in {"w1": w1, "b1": b1, **norm}.items()}
    shapes, said = merged(model(text, {**wide, "w2": widened(halved, twice=[2]), "w3": flat}))
    assert (shapes["w1"], shapes["w2"], shapes["w3"]) == ((6, 3, 3, 3), (5, 6, 1, 1), (4, 80))
    assert said == ["w1: 2 of 8 channels merged with equal ones", "w2: 1 of 6 channels merged with equal ones"]


def test_channels_with_different_parameters_are_not_equal() -> None:
    weight = np.repeat(np.random.default_rng(0).standard_normal((1, 3, 1, 1)), 4, axis=0).astype(np.float32)
    text = """net (float[N,3,6,6] x) => (float[N,4,6,6] y) {
        a = Conv(x, w1, b1) r = Relu(a) p = PRelu(r, slope) y = Conv(p, w2)
    }"""
    parameters = {"b1": np.float32([1, 2, 1, 1]), "slope": np.float32([1, 1, 1, 2]).reshape(4, 1, 1)}
    shapes, said = merged(model(text, {"w1": weight, "w2": (4, 4, 1, 1), **parameters}))
    assert shapes["w1"][0] == 3
    assert said == ["w1: 1 of 4 channels merged with equal ones"]


def test_a_residual_stream_merges_only_what_all_its_parts_repeat() -> None:
    draw = np.random.default_rng(0).standard_normal
    first, second = draw((6, 3, 1, 1)).astype(np.float32), draw((6, 6, 1, 1)).astype(np.float32)
    first[[1, 5]] = first[0]
    second[1] = second[0]
    text = """net (float[N,3,6,6] x) => (float[N,4,6,6] y) {
        a = Conv(x, w1) b = Conv(a, w2) c = Add(a, b) y = Conv(c, w3)
    }"""
    shapes, _ = merged(model(text, {"w1": first, "w2": second, "w3": (4, 6, 1, 1)}))
    assert (shapes["w1"], shapes["w2"], shapes["w3"]) == ((5, 3, 1, 1), (5, 5, 1, 1), (4, 5, 1, 1))


def test_halves_of_a_split_that_are_equal_stay_two() -> None:
    """Merging would leave one half with nothing."""
    half = np.random.default_rng(0).standard_normal((1, 3, 1, 1)).astype(np.float32)
    text = """net (float[N,3,6,6] x) => (float[N,4,6,6] y) {
        a = Conv(x, w1) p, q = Split<axis=1, num_outputs=2>(a) s = Sigmoid(p) t = Sigmoid(q)
        c = Concat<axis=1>(s, t) y = Conv(c, w2)
    }"""
    shapes, _ = merged(model(text, {"w1": np.concatenate([half, half]), "w2": (4, 2, 1, 1)}))
    assert shapes["w1"][0] == 2


def test_nothing_equal_is_said() -> None:
    _, said = merged(TOPOLOGIES["residual"][0]())
    assert "every channel counts, and no two are equal" in said
