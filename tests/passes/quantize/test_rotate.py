"""Rotations of the residual stream: they cancel whatever the normalisations, and what stands in their way is named."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from corpus.oracle import assert_same, plain_run
from corpus.text import model
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxcompress.contract import Changes, Context
from onnxcompress.graph import edit
from onnxcompress.passes import Rotate
from onnxcompress.passes.quantize.rotations.matrices import hadamard_matrix, rotation

HEADER = '<ir_version: 10, opset_import: ["" : 23, "com.microsoft" : 1]>'
WIDTH = 12
CONSTANTS = {
    "table": (20, WIDTH), "g1": (WIDTH,), "g2": (WIDTH,), "s1": (WIDTH,), "s2": (WIDTH,), "wide": (WIDTH, 24),
    "narrow": (24, WIDTH), "bias": (WIDTH,), "head": (WIDTH, 20), "place": (1, 3, WIDTH), "two": np.float32([2]),
    "tiny": np.float32([1e-5]), "one": np.float32([1]), "last": np.int64([-1]), "scale": np.float32([3]),
}  # fmt: skip

NORMS = {
    "layer": "{o} = LayerNormalization({i}, g{k}, s{k})",
    "unshifted": "{o} = LayerNormalization({i}, g{k})",
    "simplified": "{o} = SimplifiedLayerNormalization({i}, g{k})",
    "skip": "{o}, b{k}, c{k}, d{k} = com.microsoft.SkipSimplifiedLayerNormalization({i}, {i}, g{k}, bias)",
    "skip, centred": "{o} = com.microsoft.SkipLayerNormalization({i}, {i}, g{k}, s{k}, bias)",
    "rms": "{o} = RMSNormalization({i}, g{k})",
    "rms in full": (
        "p{k} = Pow({i}, two) m{k} = ReduceMean(p{k}, last) e{k} = Add(m{k}, tiny) q{k} = Sqrt(e{k}) "
        "d{k} = Div(one, q{k}) n{k} = Mul({i}, d{k}) {o} = Mul(g{k}, n{k})"
    ),
    "layer in full": (
        "m{k} = ReduceMean({i}, last) c{k} = Sub({i}, m{k}) p{k} = Mul(c{k}, c{k}) v{k} = ReduceMean(p{k}, last) "
        "e{k} = Add(v{k}, tiny) q{k} = Sqrt(e{k}) n{k} = Div(c{k}, q{k}) f{k} = Mul(n{k}, g{k}) {o} = Add(f{k}, s{k})"
    ),
}
CENTRED = ("layer", "unshifted", "skip, centred", "layer in full")
BODY = (
    "t = Gather(table, x) h = Mul(t, scale) a = Add(h, place) {first} w = MatMul(b, wide) r = Relu(w) "
    "u = MatMul(r, narrow) ub = Add(u, bias) j = Add(a, ub) {second} y = MatMul(k, head)"
)


def block(norm: str, body: str = BODY, out: str = "float[N,3,V] y", **changed: Any) -> ir.Model:
    """Return a decoder of one block, with factors that differ from channel to channel."""
    text = body.format(first=NORMS[norm].format(i="a", o="b", k=1), second=NORMS[norm].format(i="j", o="k", k=2))
    random = np.random.default_rng(0)
    drawn: dict[str, Any] = {
        name: np.float32(random.normal(size=shape)) if isinstance(shape, tuple) else shape
        for name, shape in (CONSTANTS | changed).items()
        if f"{name}" in text
    }
    proto = onnx.parser.parse_model(f"{HEADER} g (int64[N,3] x) => ({out}) {{ {text} }}")
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in drawn.items())
    return ir.from_proto(proto)


def rotated(subject: ir.Model, **options: Any) -> tuple[ir.Model, Changes]:
    step = Rotate(**options)
    plan = step.plan(subject, Context(subject))
    copy = subject.clone()
    return copy, step.apply(copy, type(plan).from_json(plan.to_json()))


FEEDS = {"x": np.random.default_rng(2).integers(0, 20, (4, 3))}


@pytest.mark.parametrize("norm", NORMS)
def test_a_rotation_cancels_whatever_normalises(norm: str) -> None:
    subject = block(norm)
    after, changes = rotated(subject, seed=3)
    assert not changes.refused
    assert_same(plain_run(subject, FEEDS), plain_run(after, FEEDS), 1e-4)
    table = next(v for n, v in after.graph.initializers.items() if n.startswith("table"))
    matrix = rotation(WIDTH, 3, keep_mean=norm in CENTRED)
    given_table = edit.array(subject.graph.initializers["table"]).astype(np.float64)
    assert np.allclose(edit.array(table), given_table @ matrix, atol=1e-5)
    assert [v.name for v in after.graph.outputs] == ["y"]


def test_what_stands_out_in_one_channel_is_spread() -> None:
    table = np.full((20, WIDTH), 0.01, np.float32)
    table[:, 5] = 10
    after, _ = rotated(block("rms", table=table))
    found = edit.array(next(v for n, v in after.graph.initializers.items() if n.startswith("table")))
    assert np.abs(found).max() < 10.2 / np.sqrt(WIDTH)


OBSTACLES = {
    "activation": ("j = Add(a, ub)", "i = Add(a, ub) j = Relu(i)", "Relu works on single channels"),
    "output": ("y = MatMul(k, head)", "y = Identity(j)", "it gives the graph output 'y'"),
    "normalised and added": ("j = Add(a, ub)", "j = Add(b, ub)", "as node_.*Add.* does|as .*Add.* does"),
    "product": ("j = Add(a, ub)", "i = Mul(a, ub) j = Add(i, ub)", "it multiplies channel by channel"),
    "tied": ("y = MatMul(k, head)", "turned = Transpose<perm = [1, 0]>(table) y = MatMul(k, turned)", "tied|computed"),
}


@pytest.mark.parametrize("name", OBSTACLES)
def test_what_is_in_the_way_is_named(name: str) -> None:
    old, new, reason = OBSTACLES[name]
    subject = block("rms", BODY.replace(old, new), out="float[N,3,V] y")
    after, changes = rotated(subject)
    assert not changes.done
    assert len(changes.refused) == 1
    refused = changes.refused[0]
    assert refused.subject != "model"
    assert refused.reason.startswith("the residual stream is not rotated: ")
    assert re.search(reason, refused.reason), refused.reason
    assert ir.to_proto(after).SerializeToString(deterministic=True) == ir.to_proto(subject).SerializeToString(
        deterministic=True
    )


def test_a_stream_is_left_out_as_a_whole() -> None:
    subject = block("rms")
    _, changes = rotated(subject, exclude=("narrow",))
    assert not changes.done
    assert [refusal.reason for refusal in changes.refused] == ["excluded by 'narrow'"]
    _, changes = rotated(subject, include=("narrow",))
    assert changes.done
    assert not changes.refused


def test_a_model_without_a_stream_says_so() -> None:
    subject = model("g (float[N,4] x) => (float[N,4] y) { y = MatMul(x, w) }", {"w": (4, 4)})
    _, changes = rotated(subject)
    assert [refusal.subject for refusal in changes.refused] == ["model"]


@given(width=st.integers(1, 96), seed=st.integers(0, 5), keep_mean=st.booleans())
@settings(max_examples=40, deadline=None)
def test_rotations_are_orthogonal(width: int, seed: int, keep_mean: bool) -> None:
    found = rotation(width, seed, keep_mean=keep_mean)
    assert np.allclose(found @ found.T, np.eye(width))
    if keep_mean:
        assert np.allclose(found.sum(0), 1)
        assert np.allclose(found.sum(1), 1)


@pytest.mark.parametrize("width", [1, 2, 4, 12, 20, 28, 36, 60, 128, 352, 384, 576, 768, 896, 960])
def test_widths_of_models_have_hadamard_matrices(width: int) -> None:
    found = hadamard_matrix(width)
    assert found is not None
    assert (np.abs(found) == 1).all()
    assert np.array_equal(found @ found.T, width * np.eye(width))
