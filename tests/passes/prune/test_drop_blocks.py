"""Residual blocks are found on the graph, and what is left out is left out exactly."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from corpus.text import model

from onnxcompress import apply
from onnxcompress.contract import Change, Changes, Context
from onnxcompress.graph import shapes
from onnxcompress.passes.prune import DropBlocks
from onnxcompress.passes.prune.blocks.found import NONE, FoundBlocks, find_blocks
from onnxcompress.plans import write_plans
from onnxcompress.runtime.session import open_session
from onnxcompress.samples.samples import load_samples

X = np.random.default_rng(1).standard_normal((16, 5, 8)).astype(np.float32)


def plain(
    *blocks: str, end: str = "y = Identity({0})", head: str = "float[N,5,8] x", tail: str = "float[N,5,8] y"
) -> str:
    """Write blocks one after another; {0} is what a block reads, {1} what it gives."""
    names = ["x", *(f"s{number}" for number in range(1, len(blocks) + 1))]
    lines = [block.format(a, b, n) for n, (block, a, b) in enumerate(zip(blocks, names, names[1:], strict=False), 1)]
    return f"g ({head}) => ({tail}) {{ {' '.join(lines)} {end.format(names[-1])} }}"


ACTIVATED = "[fc{2}] f{2} = MatMul({0}, w{2}) [sum{2}] a{2} = Add(f{2}, {0}) [act{2}] {1} = Relu(a{2})"
PRE = "[norm{2}] n{2} = LayerNormalization({0}, g, h) [fc{2}] f{2} = MatMul(n{2}, w{2}) [sum{2}] {1} = Add({0}, f{2})"
POST = (
    "[fc{2}] f{2} = MatMul({0}, w{2}) [sum{2}] a{2} = Add(f{2}, {0}) [norm{2}] {1} = LayerNormalization(a{2}, g{2}, h)"
)
WRITTEN = """[fc{2}] f{2} = MatMul({0}, w{2}) [sum{2}] a{2} = Add({0}, f{2}) m{2} = ReduceMean<axes = [2]>(a{2})
  d{2} = Sub(a{2}, m{2}) p{2} = Mul(d{2}, d{2}) v{2} = ReduceMean<axes = [2]>(p{2}) e{2} = Add(v{2}, eps)
  r{2} = Sqrt(e{2}) [norm{2}] {1} = Div(d{2}, r{2})"""
ATTENTION = """[q{2}] q{2} = MatMul({0}, w{2}) t{2} = Transpose<perm = [0,2,1]>({0}) k{2} = MatMul(q{2}, t{2})
  z{2} = Softmax<axis = -1>(k{2}) o{2} = MatMul(z{2}, {0}) [sum{2}] {1} = Add({0}, o{2})"""
WIDE = "[up{2}] u{2} = MatMul({0}, up) r{2} = Relu(u{2}) d{2} = MatMul(r{2}, down) [sum{2}] {1} = Add(d{2}, {0})"
WEIGHTS = {
    **{f"w{n}": (8, 8) for n in range(1, 7)}, **{f"g{n}": (8,) for n in range(7)}, "g": (8,), "h": (8,),
    "up": (8, 24), "down": (24, 8), "eps": np.float32([1e-5]),
}  # fmt: skip


def net(text: str, *, opset: int = 17, **more: Any) -> ir.Model:
    known = {name: shape for name, shape in WEIGHTS.items() if f" {name})" in text or f" {name}," in text}
    return model(text, known | more, opset=opset)


def without(subject: ir.Model, **options: Any) -> tuple[ir.Model, Changes]:
    samples = load_samples({"x": X}, subject) if options.get("choose") == "least-change" else None
    step = DropBlocks(**{"choose": "alternate", **options})
    plan = step.plan(subject, Context(subject, samples=samples))
    copy = subject.clone()
    return copy, step.apply(copy, plan)


def ran(subject: ir.Model) -> dict[str, np.ndarray]:
    return open_session(subject).run({"x": X})


def names(changes: Changes) -> list[str]:
    return [change.subject for change in changes.done]


def ends(found: FoundBlocks) -> list[tuple[str, str]]:
    return [(bypass.before, bypass.after) for bypass in found.bypasses]


@pytest.mark.parametrize(
    "block", [ACTIVATED, PRE, POST, WRITTEN, WIDE], ids=["activated", "pre", "post", "written", "wide"]
)
@pytest.mark.parametrize("gone", [(1,), (2,), (3,), (2, 3), (1, 2, 3)])
def test_what_is_left_computes_what_the_others_do(block: str, gone: tuple[int, ...]) -> None:
    """Before the first block stands what stands behind each, so that it can go as a whole, too."""
    start = {ACTIVATED: "s0 = Relu(x)", POST: "s0 = LayerNormalization(x, g0, h)"}.get(block, "s0 = Neg(x)")
    if block is WRITTEN:
        start = WRITTEN.format("x", "s0", 0).replace("[fc0] f0 = MatMul(x, w0) [sum0] a0 = Add(x, f0)", "a0 = Neg(x)")
    every = [start, *(block.format(f"s{n - 1}", f"s{n}", n) for n in (1, 2, 3))]
    text = "g (float[N,5,8] x) => (float[N,5,8] y) {{ {} y = Neg({}) }}"
    whole = net(text.format(" ".join(every), "s3"))
    left, source = [start], "s0"
    for n in (n for n in (1, 2, 3) if n not in gone):
        left.append(block.format(source, f"s{n}", n))
        source = f"s{n}"
    expected = net(text.format(" ".join(left), source))
    for name, value in expected.graph.initializers.items():
        value.const_value = whole.graph.initializers[name].const_value
    result, changes = without(whole, share=1, include=tuple(f"sum{n}" for n in gone))
    assert names(changes) == [f"s{n}" for n in gone]
    np.testing.assert_allclose(ran(result)["y"], ran(expected)["y"], rtol=1e-5, atol=1e-6)
    assert [node.op_type for node in result.graph] == [node.op_type for node in expected.graph]
    assert set(result.graph.initializers) == set(expected.graph.initializers)


def test_a_normalisation_behind_all_blocks_stays() -> None:
    subject = net(plain(PRE, PRE, end="[last] y = LayerNormalization({0}, g, h)"))
    assert ends(find_blocks(subject)) == [("x", "s1"), ("s1", "s2")]
    result, _ = without(subject, share=1)
    assert [node.name for node in result.graph] == ["last"]


def test_the_last_of_a_stage_goes_with_its_activation() -> None:
    """What follows it is no block, and says nothing about where it ends; what stands before it does."""
    narrower = "[down] d = MatMul({0}, down) p = MatMul({0}, side) [last] q = Add(d, p) y = Relu(q)"
    subject = net(plain("{1} = Relu({0})", ACTIVATED, end=narrower, tail="float[N,5,4] y"), down=(8, 4), side=(8, 4))
    assert ends(find_blocks(subject)) == [("s1", "s2")]


def test_the_first_goes_up_to_where_the_next_begins() -> None:
    pooled = "{1} = MaxPool<kernel_shape = [3], pads = [1,1]>({0})"
    assert ends(find_blocks(net(plain(pooled, ACTIVATED, ACTIVATED)))) == [("s1", "s2"), ("s2", "s3")]


def test_attention_and_what_follows_it_are_one_block() -> None:
    found = find_blocks(net(plain(ATTENTION, WIDE, ATTENTION, WIDE, ATTENTION, WIDE)))
    assert ends(found) == [("x", "s2"), ("s2", "s4"), ("s4", "s6")]
    assert found.bypasses[0].what == "10 nodes with 64 parameters"  # up and down are shared
    different = find_blocks(net(plain(ATTENTION, WIDE, WIDE)))
    assert ends(different) == [("x", "s1"), ("s1", "s2"), ("s2", "s3")]


def test_equal_layers_of_two_towers_are_blocks_though_none_repeats_in_its_own() -> None:
    towers = plain(ATTENTION, WIDE, "[turn] {1} = Sigmoid({0})", ATTENTION, WIDE)
    assert ends(find_blocks(net(towers))) == [("x", "s2"), ("s3", "s5")]


@pytest.mark.parametrize("text", [
    plain("p{2} = Mul({0}, {0}) c{2} = Mul(p{2}, {0}) {1} = Add({0}, c{2})"),  # of a GELU by tanh
    plain("f = MatMul({0}, w1) p = MatMul({0}, w2) {1} = Add(f, p)"),  # a projection
    plain("m = ReduceMean<axes = [1]>({0}) f = MatMul(m, w1) k = Tile(f, five) v = Add(m, k) {1} = Relu(v)"),  # grows
    plain("{1} = Add({0}, w1)", head="float[N,8,8] x", tail="float[N,8,8] y"),
], ids=["no layer", "projection", "another shape", "a constant"])  # fmt: skip
def test_what_is_no_block_is_none(text: str) -> None:
    subject = net(text, five=np.int64([1, 5, 1]))
    found = find_blocks(subject)
    assert not found.bypasses
    assert [(refusal.subject, refusal.reason) for refusal in found.refused] == [("model", NONE)]


def test_a_mask_that_all_scores_are_added_to_is_no_block() -> None:
    """The scores of the second layer are computed from the mask, too, and have its shape where there is one head."""
    masked = ATTENTION.replace(
        "z{2} = Softmax<axis = -1>(k{2})", "b{2} = Add(k{2}, mask) z{2} = Softmax<axis = -1>(b{2})"
    )
    text = plain(masked, masked, head="float[N,5,8] x, float[N,5,5] mask")
    found = find_blocks(net(text))
    assert ends(found) == [("x", "s1"), ("s1", "s2")]


def test_blocks_inside_a_longer_skip_are_found_and_it_stays() -> None:
    subject = net(plain(PRE, PRE, PRE, end="y = Add({0}, x)"))
    assert ends(find_blocks(subject)) == [("x", "s1"), ("s1", "s2"), ("s2", "s3")]


def test_terms_that_are_added_side_by_side_are_one_block() -> None:
    """x + attention(x) + layers(x), in either order."""
    for order in ("u = Add(f, {0}) {1} = Add(u, p)", "u = Add(f, p) {1} = Add({0}, u)", "{1} = Sum(f, {0}, p)"):
        subject = net(plain("f = MatMul({0}, w1) r = Relu({0}) p = MatMul(r, w2) " + order))
        assert ends(find_blocks(subject)) == [("x", "s1")], order


def test_a_skip_through_what_passes_on_counts() -> None:
    subject = net(plain("i = Identity({0}) j = Dropout(i) f = MatMul({0}, w1) {1} = Add(j, f)"))
    assert ends(find_blocks(subject)) == [("x", "s1")]
    assert [node.op_type for node in without(subject, share=1)[0].graph] == ["Identity"]


def test_sums_that_an_optimizer_has_fused_with_their_normalisation_count() -> None:
    head = '<ir_version: 9, opset_import: ["": 17, "com.microsoft": 1]> g (float[N,5,8] x) => (float[N,5,8] y) {'
    fused = "f{2} = MatMul({0}, w{2}) {1} = com.microsoft.SkipLayerNormalization(f{2}, {0}, g, h)"
    body = " ".join(fused.format(*names) for names in (("x", "s1", 1), ("s1", "s2", 2), ("s2", "s3", 3)))
    proto = onnx.parser.parse_model(f"{head} {body} y = Neg(s3) }}")
    random = np.random.default_rng(0)
    for name in ("w1", "w2", "w3", "g", "h"):
        array = random.standard_normal(WEIGHTS[name]).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    subject = ir.from_proto(proto)
    shapes.infer(subject)
    result, changes = without(subject, share=1, include=("s2",))
    assert names(changes) == ["s2"]
    assert [node.op_type for node in result.graph] == [*["MatMul", "SkipLayerNormalization"] * 2, "Neg"]
    known = {name: value.const_value.numpy() for name, value in subject.graph.initializers.items()}
    expected = X
    for weight in ("w1", "w3"):
        total = expected + expected @ known[weight]
        normalised = (total - total.mean(-1, keepdims=True)) / np.sqrt(total.var(-1, keepdims=True) + 1e-12)
        expected = normalised * known["g"] + known["h"]
    np.testing.assert_allclose(ran(result)["y"], -expected, rtol=1e-3, atol=1e-4)


def test_what_it_computes_for_others_holds_it() -> None:
    subject = net(plain(PRE, PRE, end="[other] v = Mul({0}, f1) y = Neg(v)"))
    result, changes = without(subject, share=1)
    assert names(changes) == ["s2"]
    assert [(r.subject, r.reason) for r in changes.refused] == [
        ("s1", "'f1', which it computes, is read by other (Mul) too")
    ]
    assert "fc1" in [node.name for node in result.graph]


def test_its_shape_may_be_read_by_others() -> None:
    """Only what it reads stays, and with it its shape."""
    shaped = "size = Shape({0}) f = MatMul({0}, w1) r = Reshape(f, size) {1} = Add({0}, r)"
    subject = net(plain(shaped, "f{2} = MatMul({0}, w2) r{2} = Reshape(f{2}, size) {1} = Add({0}, r{2})"))
    assert ends(find_blocks(subject)) == [("x", "s1"), ("s1", "s2")]
    result, _ = without(subject, share=0.5, exclude="s2")
    assert [node.op_type for node in result.graph] == ["Shape", "MatMul", "Reshape", "Add", "Identity"]
    np.testing.assert_allclose(
        ran(result)["y"], X + X @ subject.graph.initializers["w2"].const_value.numpy(), rtol=1e-4, atol=1e-5
    )


CACHED = """g (float[N,5,8] x) => (float[N,5,8] y, float[N,5,8] cache) {
  cache = MatMul(x, w1) k = Softmax(cache) o = MatMul(k, w2) s1 = Add(x, o) f = MatMul(s1, w3) y = Add(f, s1) }"""


def test_what_the_model_returns_of_a_block_stays_with_what_it_needs() -> None:
    subject = net(CACHED)
    before = ran(subject)
    result, changes = without(subject, share=1)
    after = ran(result)
    assert list(after) == ["y", "cache"]
    np.testing.assert_array_equal(after["y"], X)
    np.testing.assert_array_equal(after["cache"], before["cache"])
    assert sorted(node.op_type for node in result.graph) == ["Identity", "MatMul"]
    assert [(r.subject, r.reason) for r in changes.refused] == [
        ("cache", "it is an output of the model, so that what it needs of s1 stays")
    ]


def test_hidden_states_that_the_model_returns_keep_their_names() -> None:
    subject = net(plain(PRE, PRE, PRE, end="y = Neg({0})", tail="float[N,5,8] y, float[N,5,8] s1, float[N,5,8] s2"))
    before = ran(subject)
    result, changes = without(subject, share=1, include=("s2",))
    after = ran(result)
    assert names(changes) == ["s2"]
    assert list(after) == ["y", "s1", "s2"]
    np.testing.assert_array_equal(after["s1"], before["s1"])
    np.testing.assert_array_equal(after["s2"], before["s1"])


def test_blocks_of_an_inner_graph_stay_and_are_said() -> None:
    text = """g (float[N,5,8] x) => (float[N,5,8] y) {
      t = ReduceSum<keepdims = 0>(x) zero = Constant<value_float = 0.0>() c = Greater(t, zero)
      [choice] y = If(c)<then_branch = a () => (float[N,5,8] u) { f = MatMul(x, w1) u = Add(x, f) },
      else_branch = b () => (float[N,5,8] v) { v = Neg(x) }> }"""
    _, changes = without(net(text), share=1)
    assert not changes.done
    assert [(r.subject, r.reason) for r in changes.refused] == [
        ("choice (If)", "it has 1 residual blocks inside, and only those of the main graph can go")
    ]


def test_local_functions_are_looked_into() -> None:
    text = """g (float[N,5,8] x) => (float[N,5,8] y) { [one] a = local.Block(x, w1) [two] y = local.Block(a, w2) }
    <domain: "local", opset_import: ["" : 17]> Block (i, w) => (o) { f = MatMul(i, w) o = Add(i, f) }"""
    subject = net(text)
    result, changes = without(subject, include=("one",))
    assert len(changes.done) == 1
    w2 = subject.graph.initializers["w2"].const_value.numpy()
    np.testing.assert_allclose(ran(result)["y"], X + X @ w2, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("count", "share", "gone"), [
    (6, 0.5, [2, 4, 6]), (5, 0.5, [2, 4]), (6, 1, [1, 2, 3, 4, 5, 6]), (6, 0.34, [2, 5]), (6, 0.67, [1, 3, 4, 6]),
])  # fmt: skip
def test_every_second_one_or_evenly_spread(count: int, share: float, gone: list[int]) -> None:
    _, changes = without(net(plain(*[PRE] * count)), share=share)
    assert names(changes) == [f"s{n}" for n in gone]
    listed = ", ".join(names(changes))
    assert changes.notes == (f"{len(gone)} of {count} residual blocks were left out: {listed}",)


def test_what_cannot_be_kept_of_the_share_is_said() -> None:
    _, changes = without(net(plain(PRE)), share=0.5)
    assert [(r.subject, r.reason) for r in changes.refused] == [("model", "share = 0.5 of 1 blocks is none")]
    _, changes = without(net(plain(PRE, PRE, PRE, PRE)), share=0.75, exclude=("fc1", "w2"))
    assert names(changes) == ["s3", "s4"]
    assert {(r.subject, r.reason) for r in changes.refused} == {
        ("s1", "excluded by 'fc1'"), ("s2", "excluded by 'w2'"), ("model", "3 blocks should go, and 2 may"),
    }  # fmt: skip


def test_blocks_are_called_by_the_folder_of_their_layers() -> None:
    subject = net(plain(ATTENTION, WIDE, ATTENTION, WIDE, PRE, PRE))
    for node in subject.graph:
        number = int(next((c for c in node.outputs[0].name if c.isdigit()), "7"))
        layer, part = divmod(number - 1, 2)
        node.name = f"/encoder/layer.{layer}/part.{part}/{node.name or node.outputs[0].name}"
    found = [bypass.block for bypass in find_blocks(subject).bypasses]
    assert found == [f"/encoder/layer.{layer}/part.{part}" for layer in range(3) for part in range(2)]


def shrunk(text: str, weights: dict[str, float]) -> ir.Model:
    subject = net(text)
    for name, factor in weights.items():
        value = subject.graph.initializers[name]
        value.const_value = ir.tensor(value.const_value.numpy() * np.float32(factor), name=name)
    return subject


def test_those_that_change_the_outputs_least_go() -> None:
    subject = shrunk(plain(PRE, PRE, PRE, PRE), {"w3": 0.1, "w1": 0.01})
    result, changes = without(subject, choose="least-change")
    assert names(changes) == ["s1", "s3"]
    before, after = ran(subject)["y"].astype(np.float64), ran(result)["y"]
    percent = 100 * np.square(before - after).sum() / np.square(before).sum()
    assert changes.notes[0] == (
        f"2 of 4 residual blocks were left out: s1, s3; the outputs then differ by {percent:.3g} % of their squares"
    )


def test_what_makes_up_for_one_that_is_gone_goes_next() -> None:
    """Alone the second changes most; with the first gone it is the one that brings the outputs back."""
    add = "c{2} = MatMul({0}, zero) k{2} = Add(c{2}, much{2}) {1} = Add({0}, k{2})"
    much = {f"much{n}": np.full(8, factor, np.float32) for n, factor in ((1, 1.0), (2, -1.2), (3, 1.1))}
    subject = net(plain(add, add, add), zero=np.zeros((8, 8), np.float32), **much)
    _, changes = without(subject, choose="least-change", share=0.67)
    assert names(changes) == ["s1", "s2"]


def test_caches_do_not_decide() -> None:
    """A cache of the second block says nothing about what its absence does to the answer."""
    text = """g (float[N,5,8] x) => (float[N,5,8] y, float[N,5,8] cache) {
      f = MatMul(x, w1) s1 = Add(x, f) cache = Mul(s1, much) k = MatMul(cache, w2) y = Add(s1, k) }"""
    subject = net(text, much=np.float32([1e-3]))
    assert names(without(subject, choose="least-change")[1]) == ["y"]


def test_a_plan_is_carried_out_again_and_one_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    subject = net(plain(PRE, PRE, PRE, PRE))
    result, report = apply(subject, [DropBlocks()], data={"x": X})
    write_plans(tmp_path / "plans", report.plans)
    again, _ = apply(subject, plans=tmp_path / "plans")
    assert ir.to_proto(again).SerializeToString() == ir.to_proto(result).SerializeToString()
    step = DropBlocks(choose="alternate")
    plan = step.plan(subject, Context(subject))
    for wrong in ({"before": "s9"}, {"before": plan.blocks[0].after, "after": plan.blocks[0].before}):
        broken = dataclasses.replace(plan, blocks=(dataclasses.replace(plan.blocks[0], **wrong),))
        copy = subject.clone()
        changes = step.apply(copy, broken)
        assert not changes.done
        assert "the model has no '" in changes.refused[0].reason
        assert len(copy.graph) == len(subject.graph)


def test_changes_name_what_goes() -> None:
    _, changes = without(net(plain(PRE, PRE)))
    assert changes.done == (Change("s2", "left out: 3 nodes with 64 parameters"),)


LINEAR = "[fc{2}] f{2} = MatMul({0}, w{2}) [sum{2}] {1} = Add({0}, f{2})"


def test_what_a_layer_behind_can_make_up_for_is_made_up_for() -> None:
    subject = net(plain(LINEAR, LINEAR))
    options = {"exclude": "fc2", "choose": "alternate"}
    fitted, report = apply(subject, [DropBlocks(compensate=True, **options)], data={"x": X})
    bare, _ = apply(subject, [DropBlocks(**options)], data={"x": X})
    wanted = ran(subject)["y"]
    assert sum(node.op_type == "MatMul" for node in fitted.graph) == 1
    np.testing.assert_allclose(ran(fitted)["y"], wanted, rtol=1e-3, atol=1e-3)
    assert np.abs(ran(bare)["y"] - wanted).max() > 0.1
    assert report.steps[0].notes[-1] == "1 of 1 layers behind them were fitted"
