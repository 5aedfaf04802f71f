"""Pruned equals masked, and smaller, on every topology."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from corpus.oracle import assert_same, drawn_feeds, plain_run
from corpus.text import model
from corpus.topologies import TOPOLOGIES

from onnxcompress.channels.groups import Group, find_groups
from onnxcompress.contract import Context
from onnxcompress.graph import edit
from onnxcompress.passes import FoldConstants, PruneChannels, Shrink


def pruned_and_masked(model: ir.Model, sparsity: float, seed: int = 0) -> tuple[ir.Model, ir.Model]:
    masked = model.clone()
    prune = PruneChannels(sparsity=sparsity, importance="random")
    prune.apply(masked, prune.plan(model, Context(model, seed=seed)))
    pruned = masked.clone()
    Shrink().apply(pruned, Shrink().plan(masked, Context(masked)))
    return pruned, masked


def test_the_same_tensor_twice_is_not_taken_for_two() -> None:
    """Both Concats look alike; what is found for the first must not be said of the second."""
    subject = model(
        """twice (float[N,3,4,4] x) => (float[N,2,4,4] y, float[N,2,4,4] z) {
            a = Conv(x, w1) b = Conv(x, w2)
            p = Concat<axis=1>(a, a) q = Concat<axis=1>(a, b)
            y = Conv(p, w3) z = Conv(q, w4)
        }""",
        {"w1": (4, 3, 1, 1), "w2": (4, 3, 1, 1), "w3": (2, 8, 1, 1), "w4": (2, 8, 1, 1)},
    )
    found = {(g.name, str(m.value.name)): m.index.tolist() for g in find_groups(subject).prunable for m in g.members}
    assert found["w1", "p"] == [0, 1, 2, 3, 0, 1, 2, 3]
    assert found["w1", "q"] == [0, 1, 2, 3, -1, -1, -1, -1]
    assert found["w2", "q"] == [-1, -1, -1, -1, 0, 1, 2, 3]


def test_padding_with_a_number_is_padding() -> None:
    """The channels that Pad adds hold 2; they go with what they are added to, when the weights that read them are 0."""
    subject = model(
        """padded (float[N,3,4,4] x) => (float[N,2,4,4] y) {
            a = Conv(x, w1) b = Pad(a, pads, two) c = Conv(x, w2) d = Add(b, c) y = Conv(d, w3)
        }""",
        {"w1": (4, 3, 1, 1), "w2": (6, 3, 1, 1), "w3": (2, 6, 1, 1)}
        | {"pads": np.array([0, 1, 0, 0, 0, 1, 0, 0]), "two": np.array(2, np.float32)},
    )
    for seed in range(3):
        pruned, masked = pruned_and_masked(subject, 0.5, seed)
        assert_same(plain_run(masked, drawn_feeds(subject)), plain_run(pruned, drawn_feeds(subject)))
        assert parameters(pruned) < parameters(subject)


def parameters(model: ir.Model) -> int:
    """Count from the file, not with the project's own counter."""
    kinds = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.INT8)
    return sum(int(np.prod(t.dims)) for t in ir.to_proto(model).graph.initializer if t.data_type in kinds)


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_pruned_equals_masked_and_is_smaller(name: str) -> None:
    make, share = TOPOLOGIES[name]
    model = make()
    pruned, masked = pruned_and_masked(model, 0.5)
    feeds = drawn_feeds(model)
    assert_same(plain_run(masked, feeds), plain_run(pruned, feeds))
    onnx.checker.check_model(ir.to_proto(pruned), full_check=True)
    assert parameters(pruned) <= share * parameters(model)
    assert not Shrink().plan(pruned, Context(pruned)).rounds  # all that is dead goes at once


@pytest.mark.parametrize("name", TOPOLOGIES)
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.9])
def test_any_sparsity_keeps_pruned_equal_to_masked(name: str, sparsity: float) -> None:
    model = TOPOLOGIES[name][0]()
    pruned, masked = pruned_and_masked(model, sparsity, seed=7)
    feeds = drawn_feeds(model, seed=1)
    assert_same(plain_run(masked, feeds), plain_run(pruned, feeds))
    assert (parameters(pruned) < parameters(model)) == (sparsity > 0)


@pytest.mark.parametrize("name", [n for n in TOPOLOGIES if "norm" in n or n in ("encoder", "interleaved")])
def test_what_was_pruned_can_be_pruned_again(name: str) -> None:
    """The nodes that keep a mean over the old width stand in the way of nothing."""
    model = TOPOLOGIES[name][0]()
    once, _ = pruned_and_masked(model, 0.3)
    twice, masked = pruned_and_masked(once, 0.5, seed=1)
    feeds = drawn_feeds(model, seed=3)
    assert_same(plain_run(masked, feeds), plain_run(twice, feeds))
    assert parameters(twice) < parameters(once)


def is_normalised(group: Group) -> bool:
    """Of these, the weights that make a channel must be zero too, not only those that read it."""
    return any(n.op_type in ("LayerNormalization", "ReduceMean") for m in group.members for n in m.value.consumers())


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_masking_every_position_of_a_channel_is_what_a_hand_made_mask_does(name: str) -> None:
    """Zero one channel by hand, position by position, as the group says; the masked model must agree."""
    model = TOPOLOGIES[name][0]()
    group = next(g for g in find_groups(model).prunable if not is_normalised(g))
    by_hand = model.clone()
    values = {value.name: value for value in edit.values(by_hand.graph)}
    for member in group.constants():
        if member.role == "in":
            tensor = edit.constant(values[member.value.name])
            assert tensor is not None
            array = tensor.numpy().copy()
            array[(slice(None),) * member.axis + (member.index == 0,)] = 0
            edit.set_constant(values[member.value.name], array)
    shrunk = by_hand.clone()
    changes = Shrink().apply(shrunk, Shrink().plan(by_hand, Context(by_hand)))
    feeds = drawn_feeds(model, seed=2)
    assert_same(plain_run(by_hand, feeds), plain_run(shrunk, feeds))
    assert any(change.subject == group.name for change in changes.done)


def test_what_reaches_an_output_is_frozen_and_says_so() -> None:
    frozen = find_groups(TOPOLOGIES["conv chain"][0]()).frozen
    assert [(g.name, g.frozen) for g in frozen] == [("w3", "it reaches graph output 'y'")]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("inner graph", "t (If): its inner graph reads 's'"),
        ("loop", "l (Loop): it runs an inner graph"),
        ("local function", "t (local::twice): it calls a function of the model"),
    ],
)
def test_inner_graphs_freeze_what_they_read_and_nothing_else(name: str, reason: str) -> None:
    groups = find_groups(TOPOLOGIES[name][0]())
    assert [g.name for g in groups.prunable] == ["w0"]
    assert ("w1", reason) in [(g.name, g.frozen) for g in groups.frozen]


def test_an_operator_without_a_rule_freezes_with_its_name() -> None:
    model = TOPOLOGIES["mlp"][0]()
    node = next(n for n in model.graph if n.op_type == "Tanh")
    node.domain, node.op_type, node.name = "custom", "Mystery", "strange"
    frozen = {g.name: g.frozen for g in find_groups(model).frozen}
    assert frozen["w1"] == "strange (custom::Mystery): this operator has no rule"


def test_a_weight_that_is_computed_freezes_and_the_reason_says_what_helps() -> None:
    graph = model(
        """standardised (float[N,8] x) => (float[N,3] y) {
            a = MatMul(x, w0)
            norm = ReduceMax(w1, all)
            scaled = Div(w1, norm)
            b = MatMul(a, scaled)
            y = MatMul(b, w2)
        }""",
        {"w0": (8, 12), "w1": (12, 10), "w2": (10, 3), "all": np.array([0, 1])},
    )
    frozen = {g.name: g.frozen for g in find_groups(graph).frozen}
    assert frozen["w0"].endswith("(this is computed from constants alone: FoldConstants first)")
    folded = graph.clone()
    FoldConstants().apply(folded, FoldConstants().plan(graph, Context(graph)))
    assert [g.name for g in find_groups(folded).prunable] == ["w0", "scaled_folded"]


def test_zeroed_channels_that_cannot_go_are_named_with_what_reads_them() -> None:
    """A bias that is not zero keeps them apart from zero, and a recurrent layer takes no constant into its bias."""
    zeroed = np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32)
    zeroed[:, [1, 4, 6]] = 0
    graph = model(
        """rnn (float[6,1,5] x) => (float[6,1,1,10] y) {
            a = MatMul(x, w0)
            b = Add(a, b0)
            y = LSTM<hidden_size=10>(b, w, r)
        }""",
        {"w0": zeroed, "b0": (8,), "w": (1, 40, 8), "r": (1, 40, 10)},
    )
    refused = {r.subject: r.reason for r in Shrink().plan(graph, Context(graph)).refused}
    assert refused["w0"] == "3 zero channels stay: y (LSTM) still reads something there"


def test_attention_finds_heads_and_head_dimensions() -> None:
    groups = {g.name: g.size for g in find_groups(TOPOLOGIES["attention"][0]()).prunable}
    assert sorted(groups.values()) == [4, 6, 6, 24]  # heads; dimensions of q·k; of v; the residual stream


def test_a_residual_stream_is_one_group() -> None:
    group = next(g for g in find_groups(TOPOLOGIES["residual"][0]()).prunable if g.name == "w0")
    touched = {(m.value.name, m.axis, m.role) for m in group.members if m.role != "activation"}
    assert touched == {
        ("w0", 0, "out"), ("b0", 0, "parameter"), ("w1", 1, "in"), ("w2", 0, "out"), ("b2", 0, "parameter"),
        ("w3", 0, "in"),
    }  # fmt: skip


def test_halves_of_a_split_lose_the_same_share() -> None:
    model = TOPOLOGIES["split concat"][0]()
    pruned, _ = pruned_and_masked(model, 0.5)
    shapes = {t.name: tuple(t.dims) for t in ir.to_proto(pruned).graph.initializer}
    assert shapes["w1"] == (4, 4, 3, 3)
    assert shapes["w0"] == (8, 3, 1, 1)
