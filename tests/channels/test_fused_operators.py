"""Attention, normalisations and activations in one operator: what is removed computes what was masked, exactly."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from corpus.oracle import assert_same, plain_run
from corpus.text import drawn
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxcompress.channels.groups import find_groups
from onnxcompress.channels.remove import remove
from onnxcompress.contract import Context
from onnxcompress.kinds import working_copy
from onnxcompress.passes import PruneChannels, Shrink
from onnxcompress.passes.prune.masks.masks import ChannelPlan, apply_channels

HEADER = '<ir_version: 10, opset_import: ["" : 23, "com.microsoft" : 1]>\n'
X = {"x": np.random.default_rng(1).standard_normal((2, 5, 16)).astype(np.float32)}


def model(text: str, weights: dict[str, tuple[int, ...] | np.ndarray]) -> ir.Model:
    proto = onnx.parser.parse_model(f"{HEADER}g (float[2,5,16] x) => (float[2,5,12] y) {{ {text} }}")
    random = np.random.default_rng(0)
    for name, weight in weights.items():
        array = weight if isinstance(weight, np.ndarray) else drawn(random, name, weight)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return working_copy(ir.from_proto(proto))


def angles(half: int) -> dict[str, np.ndarray]:
    found = np.outer(np.arange(8), 1 / 10 ** np.arange(half))
    return {"cos": np.cos(found).astype(np.float32), "sin": np.sin(found).astype(np.float32)}


APART = "q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv)"
GQA = {"seen": np.full(2, 4, np.int32), "all": np.array(5, np.int32)}
HEADS = {
    "queries": "q2 = Reshape(q, four) q3 = Transpose<perm=[0,2,1,3]>(q2)",
    "keys": "k2 = Reshape(k, four) k3 = Transpose<perm=[0,2,1,3]>(k2)",
    "values": "v2 = Reshape(v, four) v3 = Transpose<perm=[0,2,1,3]>(v2)",
    "back": "t = Transpose<perm=[0,2,1,3]>(a) f = Reshape(t, three) y = MatMul(f, wo)",
}
FOUR = {"four": np.array([0, 0, 4, 4]), "three": np.array([0, 0, 16])}
SQUARE = {"wq": (16, 16), "wk": (16, 16), "wv": (16, 16), "wo": (16, 12)}
POSITIONS = {"at": np.tile(np.arange(5), (2, 1))}
MS = "com.microsoft"

CASES: dict[str, tuple[str, dict, dict[str, int]]] = {
    "attention on rows, two queries to a key": (
        f"{APART} a = Attention<q_num_heads=4, kv_num_heads=2>(q, k, v) y = MatMul(a, wo)",
        {"wq": (16, 16), "wk": (16, 8), "wv": (16, 12), "wo": (24, 12)},
        {"wq": 2, "wq#2": 2, "wq#3": 4, "wv": 6},
    ),
    "attention on heads": (
        f"{APART} {' '.join(list(HEADS.values())[:3])} a = Attention(q3, k3, v3) {HEADS['back']}",
        {**SQUARE, **FOUR},
        {"wq": 4, "wq#2": 4, "wv": 4},
    ),
    "turned in halves": (
        f"{APART} {' '.join(list(HEADS.values())[:3])} r = RotaryEmbedding(q3, cos, sin, at) "
        f"s = RotaryEmbedding(k3, cos, sin, at) a = Attention(r, s, v3) {HEADS['back']}",
        {**SQUARE, **FOUR, **angles(2), **POSITIONS},
        {"wq": 4, "wq#2": 2, "wv": 4},
    ),
    "turned in part, side by side, rows": (
        f"{APART} r = RotaryEmbedding<num_heads=2, rotary_embedding_dim=4, interleaved=1>(q, cos, sin, at) "
        "s = RotaryEmbedding<num_heads=2, rotary_embedding_dim=4, interleaved=1>(k, cos, sin, at) "
        "a = Attention<q_num_heads=2, kv_num_heads=2>(r, s, v) y = MatMul(a, wo)",
        {**SQUARE, **angles(2), **POSITIONS},
        {"wq": 2, "wq#2": 6, "wv": 8},
    ),
    "grouped queries": (
        f"{APART} a = {MS}.GroupQueryAttention<num_heads=4, kv_num_heads=2>(q, k, v, , , seen, all) y = MatMul(a, wo)",
        {"wq": (16, 64), "wk": (16, 32), "wv": (16, 32), "wo": (64, 12), **GQA},
        {"wq": 2, "wq#2": 2},
    ),
    "grouped queries, packed and turned": (
        f"q = MatMul(x, wq) a = {MS}.GroupQueryAttention<num_heads=4, kv_num_heads=2, do_rotary=1>"
        "(q, , , , , seen, all, cos, sin) y = MatMul(a, wo)",
        {"wq": (16, 128), "wo": (64, 12), **GQA, **angles(8)},
        {"wq": 2, "wq#2": 2},
    ),
    "several heads with a packed bias": (
        f"{APART} a = {MS}.MultiHeadAttention<num_heads=4>(q, k, v, b) y = MatMul(a, wo)",
        {**SQUARE, "b": (48,)},
        {"wq": 4, "wq#2": 4, "wv": 4},
    ),
    "one weight for queries, keys and values": (
        f"a = {MS}.Attention<num_heads=4>(x, w, b) y = MatMul(a, wo)",
        {"w": (16, 48), "b": (48,), "wo": (16, 12)},
        {"w": 4, "w#2": 4},
    ),
    "normalised by squares": (
        f"a = MatMul(x, w0) n = SimplifiedLayerNormalization<epsilon=0.1>(a, g1) h = MatMul(n, w1) "
        f"m, , , s = {MS}.SkipSimplifiedLayerNormalization<epsilon=0.1>(a, h, g2, b) u = Add(m, s) y = MatMul(u, wo)",
        {"w0": (16, 16), "w1": (16, 16), "g1": (16,), "g2": (16,), "b": (16,), "wo": (16, 12)},
        {"w0": 16},
    ),
    "normalised with a mean": (
        f"a = MatMul(x, w0) n = RMSNormalization<epsilon=0.1>(a, g1) h = MatMul(n, w1) "
        f"m, , , s = {MS}.SkipLayerNormalization<epsilon=0.1>(a, h, g2, b, c) u = Add(m, s) y = MatMul(u, wo)",
        {"w0": (16, 16), "w1": (16, 16), "g1": (16,), "g2": (16,), "b": (16,), "c": (16,), "wo": (16, 12)},
        {"w0": 16},
    ),
    "experts with gates": (
        f"r = Reshape(x, flat) a = MatMul(r, w0) p = MatMul(r, route) "
        f'm = {MS}.MoE<k=2, activation_type="swiglu", swiglu_fusion=1>(a, p, f1, b1, f2, b2) '
        "e = Reshape(m, rows) y = MatMul(e, wo)",
        {
            "w0": (16, 8),
            "route": (16, 4),
            "f1": (4, 24, 8),
            "b1": (4, 24),
            "f2": (4, 8, 12),
            "b2": (4, 8),
            "wo": (8, 12),
            "flat": np.array([10, 16]),
            "rows": np.array([2, 5, 8]),
        },
        {"w0": 8, "f1": 12},
    ),
    "activations": (
        f"a = {MS}.FusedMatMul<alpha=0.5>(x, w0) c = {MS}.BiasGelu(a, b) d = MatMul(c, w1) e = {MS}.QuickGelu(d) "
        f"f = MatMul(e, w2) g = {MS}.FastGelu(f, b2) y = MatMul(g, wo)",
        {"w0": (16, 8), "b": (8,), "w1": (8, 8), "w2": (8, 8), "b2": (8,), "wo": (8, 12)},
        {"w0": 8, "w1": 8, "w2": 8},
    ),
}


def masked(subject: ir.Model, channels: dict[str, list[int]]) -> ir.Model:
    copy = subject.clone()
    apply_channels(copy, ChannelPlan(channels=channels))
    return copy


@pytest.mark.parametrize("case", CASES)
def test_what_is_removed_computes_what_was_masked(case: str) -> None:
    text, weights, sizes = CASES[case]
    subject = model(text, weights)
    groups = find_groups(subject).prunable
    assert {group.name: group.size for group in groups} == sizes
    before = plain_run(subject, X)
    for group in groups:
        zeroed = masked(subject, {group.name: list(range(1, group.size, 2))})
        step, small = Shrink(exact=True), zeroed.clone()
        step.apply(small, step.plan(zeroed, Context(zeroed)))
        left = {each.name: each.size for each in find_groups(small).prunable}
        assert left.get(group.name, 1) == group.size - group.size // 2 or group.size == 2
        assert sum(v.const_value.size for v in small.graph.initializers.values()) < sum(
            v.const_value.size for v in subject.graph.initializers.values()
        )
        assert_same(plain_run(zeroed, X), plain_run(small, X), 1e-5)
        assert np.abs(before["y"] - plain_run(small, X)["y"]).max() > 1e-3


def test_the_scale_of_smaller_heads_is_written_down() -> None:
    text, weights, _ = CASES["attention on rows, two queries to a key"]
    subject = model(text, weights)
    groups = find_groups(subject)
    remove(subject, groups, {"wq#3": [0, 1], "wq": [1]})
    node = next(node for node in subject.graph if node.op_type == "Attention")
    assert node.attributes["scale"].as_float() == pytest.approx(0.5)
    assert (node.attributes["q_num_heads"].as_int(), node.attributes["kv_num_heads"].as_int()) == (2, 1)


@settings(max_examples=6, deadline=None)
@given(
    st.sampled_from([(1, 1), (2, 1), (2, 2), (4, 2), (4, 4), (6, 3)]),
    st.integers(2, 5),
    st.integers(2, 5),
    st.lists(st.integers(0, 5), min_size=4, max_size=4),
)
def test_any_heads_may_go(heads: tuple[int, int], size: int, values: int, gone: list[int]) -> None:
    many, few = heads
    subject = model(
        f"{APART} a = Attention<q_num_heads={many}, kv_num_heads={few}>(q, k, v) y = MatMul(a, wo)",
        {"wq": (16, many * size), "wk": (16, few * size), "wv": (16, few * values), "wo": (many * values, 12)},
    )
    groups = find_groups(subject)
    chosen = {group.name: [place % group.size] for group, place in zip(groups.prunable, gone, strict=False)}
    zeroed = masked(subject, chosen)
    remove(subject, groups, chosen)
    assert_same(plain_run(zeroed, X), plain_run(subject, X), 1e-5)


PICTURE = HEADER + "g (float[2,3,6,6] x) => (float[2,5] y) {{ {text} }}"
PICTURES: dict[str, tuple[str, dict[str, tuple[int, ...]], list[int]]] = {
    "a sum and an activation": (
        f'a = Conv(x, w0) c = {MS}.FusedConv<activation="Relu">(a, w1, b1, a) p = GlobalAveragePool(c) f = Flatten(p) '
        f'd = {MS}.FusedGemm<activation="Relu">(f, w2, b2) y = MatMul(d, w3)',
        {"w0": (8, 3, 3, 3), "w1": (8, 8, 1, 1), "b1": (8,), "w2": (8, 6), "b2": (6,), "w3": (6, 5)},
        [8, 6],
    ),
    "groups": (
        f'a = Conv(x, w0) c = {MS}.FusedConv<activation="Relu", group=8>(a, w1, b1) p = GlobalAveragePool(c) '
        "f = Flatten(p) y = MatMul(f, w3)",
        {"w0": (8, 3, 3, 3), "w1": (8, 1, 1, 1), "b1": (8,), "w3": (8, 5)},
        [8],
    ),
}


@pytest.mark.parametrize("case", PICTURES)
def test_fused_convolutions_lose_what_was_masked(case: str) -> None:
    text, weights, sizes = PICTURES[case]
    proto = onnx.parser.parse_model(PICTURE.format(text=text))
    random = np.random.default_rng(0)
    for name, shape in weights.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(drawn(random, name, shape), name))
    subject = working_copy(ir.from_proto(proto))
    groups = find_groups(subject)
    assert [group.size for group in groups.prunable] == sizes
    gone = {group.name: [0, 2] for group in groups.prunable}
    zeroed = masked(subject, gone)
    image = {"x": random.standard_normal((2, 3, 6, 6)).astype(np.float32)}
    remove(subject, groups, gone)
    assert_same(plain_run(zeroed, image), plain_run(subject, image), 1e-5)


def test_what_no_expert_makes_can_go() -> None:
    text = "a = MatMul(x, w0) e = Unsqueeze(a, one) m = MatMul(e, experts) s = ReduceSum<keepdims=0>(m, one) "
    shapes = {"w0": (16, 8), "experts": (4, 8, 6), "wo": (6, 12), "one": np.array([1])}
    subject = model(text + "n = RMSNormalization(s, g) y = MatMul(n, wo)", {**shapes, "g": (6,)})
    group = next(each for each in find_groups(subject).prunable if each.size == 6)
    zeroed = masked(subject, {group.name: [1, 4]})
    step, small = Shrink(exact=True), zeroed.clone()
    step.apply(small, step.plan(zeroed, Context(zeroed)))
    assert small.graph.initializers["experts"].const_value.shape.numpy() == (4, 8, 4)
    assert_same(plain_run(zeroed, X), plain_run(small, X), 1e-5)


def test_layers_in_branches_are_named() -> None:
    branch = "inner () => (float[2,5,12] z) { z = MatMul(x, wo) }"
    subject = model(
        f"c = Constant<value=bool {{1}}>() y = If<then_branch = {branch}, else_branch = {branch}>(c)", {"wo": (16, 12)}
    )
    refused = PruneChannels().plan(subject, Context(subject)).refused
    assert "y (If)" in {refusal.subject for refusal in refused}
    assert any("inner graphs hold 2 layers" in refusal.reason for refusal in refused)
