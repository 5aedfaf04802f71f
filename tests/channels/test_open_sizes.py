"""Axes without a fixed size: the weights say what channels must be, and what nothing says freezes by itself."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from corpus.oracle import assert_same, plain_run
from corpus.text import model

from onnxcompress import apply
from onnxcompress.channels.groups import find_groups
from onnxcompress.contract import Context
from onnxcompress.graph import shapes
from onnxcompress.passes import PruneChannels, Shrink

HEAD = "b = Relu(a) y = Conv(b, w2) }"
IMAGE = {"w1": (8, 3, 3, 3), "w2": (2, 8, 1, 1)}
ONE, ZERO = np.array([1]), np.array([0])
OPEN = {
    "channels": ("(float[N,C,H,W] x) => (float[N,2,h,w] y) { a = Conv(x, w1) " + HEAD, IMAGE, (2, 3, 9, 9)),
    "channels last": (
        "(float[N,H,W,C] x) => (float[N,2,h,w] y) { t = Transpose<perm = [0,3,1,2]>(x) a = Conv(t, w1) " + HEAD,
        IMAGE,
        (2, 9, 9, 3),
    ),
    "features": (
        "(float[N,M] x) => (float[N,2] y) { a = Gemm(x, w1, b1) b = Relu(a) y = MatMul(b, w2) }",
        {"w1": (6, 8), "b1": (8,), "w2": (8, 2)},
        (4, 6),
    ),
    "audio": (
        "(float[N,T] x) => (float[N,2,u] y) { z = Unsqueeze(x, one) a = Conv<strides = [5]>(z, w1) " + HEAD,
        {"one": ONE, "w1": (8, 1, 40), "w2": (2, 8, 1)},
        (2, 800),
    ),
    "an image of one size": (
        """(float[N,C,H,W] x) => (float[N,2] y) {
            a = Conv<strides = [16,16]>(x, w1, b1) r = Reshape(a, target) t = Transpose<perm = [0,2,1]>(r)
            p = Add(t, positions) n = LayerNormalization(p, s, b) m = MatMul(n, w2) g = Relu(m) k = MatMul(g, w3)
            e = Add(p, k) q = ReduceMean<axes = [1], keepdims = 0>(e) y = MatMul(q, w4) }""",
        {"w1": (16, 3, 16, 16), "b1": (16,), "target": np.array([0, 16, -1]), "positions": (1, 196, 16), "s": (16,)}
        | {"b": (16,), "w2": (16, 32), "w3": (32, 16), "w4": (16, 2)},
        (2, 3, 224, 224),
    ),
    "what Compress keeps": (
        """(float[N,6] x) => (float[m,4] y) {
            a = MatMul(x, w1) s = ReduceSum<keepdims = 0>(a, one) k = Greater(s, zero) c = Compress<axis = 0>(x, k)
            d = MatMul(c, w1) r = Relu(d) y = MatMul(r, w2) }""",
        {"w1": (6, 8), "w2": (8, 4), "one": ONE, "zero": np.array(0, np.float32)},
        (40, 6),
    ),
    "what NonZero finds": (
        """(float[N,6] x) => (float[m,4] y) {
            a = MatMul(x, w1) r = Relu(a) e = MatMul(r, w2) s = ReduceSum<keepdims = 0>(e, one) k = Greater(s, zero)
            n = NonZero(k) i = Squeeze(n, first) g = Gather<axis = 0>(e, i) q = Relu(g) y = MatMul(q, w3) }""",
        {"w1": (6, 8), "w2": (8, 8), "w3": (8, 4), "one": ONE, "first": ZERO, "zero": np.array(0, np.float32)},
        (40, 6),
    ),
    "what a Loop collects": (
        """(float[N,6] x) => (float[k,N,4] y) {
            a = MatMul(x, w1) b = Relu(a)
            o, c = Loop(n, yes, b)<body = l (int64 i, bool c, float[p,q] s) => (bool co, float[p,q] so, float[p,q] st) {
                co = Identity(c) so = Relu(s) st = Identity(so) }>
            d = MatMul(c, w2) r = Relu(d) y = MatMul(r, w3) }""",
        {"w1": (6, 8), "w2": (8, 8), "w3": (8, 4), "n": np.array(3), "yes": np.array(True)},
        (4, 6),
    ),
}


@pytest.mark.parametrize("name", OPEN)
def test_what_the_weights_fix_can_be_pruned(name: str) -> None:
    text, weights, shape = OPEN[name]
    subject = model("g " + text, weights, opset=17)
    shapes.infer(subject)
    masked = subject.clone()
    prune = PruneChannels(importance="random")
    changes = prune.apply(masked, prune.plan(subject, Context(subject)))
    assert changes.done
    pruned = masked.clone()
    assert Shrink().apply(pruned, Shrink().plan(masked, Context(masked))).done
    feeds = {"x": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
    assert_same(plain_run(masked, feeds), plain_run(pruned, feeds))


def branches(then: str, otherwise: str, ranks: tuple[str, str]) -> ir.Model:
    text = f"""g (float[1,8,5] x, bool c) => (float[a,b,d] y) {{
        q = If(c)<then_branch = tb () => ({ranks[0]} u) {{ u = {then} }}, else_branch = eb () => ({ranks[1]} v)
            {{ v = {otherwise} }}>
        d = Conv(q, w1) r = Relu(d) y = Conv(r, w2) }}"""
    return model(text, {"w1": (6, 8, 1), "w2": (3, 6, 1), "ax": ZERO}, opset=17)


def test_behind_branches_of_two_ranks_everything_stays_with_a_reason() -> None:
    subject = branches("Squeeze(x, ax)", "Relu(x)", ("float[8,5]", "float[1,8,5]"))
    shapes.infer(subject)
    groups = find_groups(subject)
    assert not groups.prunable
    assert all("shape of" in group.frozen or "graph output" in group.frozen for group in groups.frozen)
    assert not Shrink().plan(subject, Context(subject)).rounds


def test_branches_whose_values_share_their_names_are_inferred_apart() -> None:
    subject = model(
        """g (float[1,8,5] x, bool c) => (float y) {
            y = If(c)<then_branch = tb () => (float[8,5] u) { t = Flatten<axis = 2>(x) u = Relu(t) },
                      else_branch = eb () => (float[5,8,1] v) { t = Transpose<perm = [2,1,0]>(x) v = Relu(t) }> }""",
        {},
        opset=17,
    )
    shapes.infer(subject)
    inner = {graph.name: graph for graph in subject.graph.subgraphs()}
    found = {name: tuple(graph.node(0).outputs[0].shape or ()) for name, graph in inner.items()}
    assert found == {"tb": (8, 5), "eb": (5, 8, 1)}


def test_operands_that_do_not_fit_freeze_what_they_meet() -> None:
    """The two layers ask for different widths of one input, so no size is right for both."""
    subject = model(
        "g (float[N,M] x) => (float[N,2] y, float[N,2] z) { a = MatMul(x, w1) y = MatMul(a, w2) z = MatMul(x, w3) }",
        {"w1": (6, 8), "w2": (8, 2), "w3": (5, 2)},
    )
    reasons = [group.frozen for group in find_groups(subject).frozen]
    assert any("with weights for 5" in reason or "shape of 'z'" in reason for reason in reasons)
    assert [group.name for group in find_groups(subject).prunable] == ["w1"]


def test_a_model_for_one_size_of_image_is_run_with_that() -> None:
    text, weights, shape = OPEN["an image of one size"]
    assert shapes.fitting_inputs(model("g " + text, weights, opset=17)) == {"x": (1, *shape[1:])}


def test_what_nothing_reads_need_not_have_a_shape() -> None:
    """An extent that nothing else says is made up, and need not fit what it is multiplied by."""
    text = """g (float[N,?] x) => (float[N,4] y) {
        s = Mul(x, x) n = ReduceMean <axes = [1], keepdims = 1> (s) e = Sqrt(n) i = Reciprocal(e) t = Mul(x, i)
        unread = Mul(t, k) a = MatMul(n, w1) r = Relu(a) y = MatMul(r, w2) }"""
    subject = model(text, {"w1": (1, 8), "w2": (8, 4), "k": (4,)}, opset=15)
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    _, report = apply(subject, [PruneChannels(sparsity=0.5), Shrink()], data={"x": x})
    assert [len(step.done) for step in report.steps] == [1, 1]


def test_operands_that_only_a_run_knows_to_fit_stay_as_they_are() -> None:
    """A branch whose extent depends on the data is given a number that need not be the other branch's."""
    text = """g (float[2,5,3] x, bool c) => (float[m,n] y) {
        b = If(c) <then_branch = t () => (float[p,q,r] d) { k = Slice(w, zero, end, last) d = MatMul(x, k) },
                   else_branch = e () => (float[p,q,r] f) { f = Identity(x) }>
        u = MatMul(b, w1) v = Relu(u) z = MatMul(v, w2) a = Add(b, z) s = ReduceSum(a, last) y = Squeeze(s, last) }"""
    weights = {
        "w": (3, 3),
        "w1": (3, 8),
        "w2": (8, 3),
        "zero": np.array([0]),
        "end": np.array([3]),
        "last": np.array([1]),
    }
    subject = model(text, weights)
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 5, 3)).astype(np.float32), "c": np.array(True)}
    masked, _ = apply(subject, [PruneChannels(sparsity=0.5)])
    small, _ = apply(masked, [Shrink()])
    assert_same(plain_run(masked, feeds), plain_run(small, feeds))


HEIGHT_OF_ITS_OWN = """<ir_version: 8, opset_import: ["" : 17]>
g (float[n,3,h,w] x) => (float[n,?,?] y) {
 c = Conv<pads = [1,1,1,1]>(x, k)
 r = Relu(c)
 d = Conv<kernel_shape = [HEIGHT,1]>(r, tall)
 m = ReduceMax<axes = [2]>(r)
 e = Concat<axis = 1>(d, m)
 s = Squeeze(e, two)
 t = Transpose<perm = [0,2,1]>(s)
 full = Shape(t)
 steps = Slice(full, one, two)
 asked = Concat<axis = 0>(zero, steps, pair)
 heads = Reshape(t, asked)
 y = ReduceMean<axes = [2], keepdims = 0>(heads)
}"""


def test_a_length_is_open_where_images_have_one_height() -> None:
    """No height but one fits, and the width is still free: a Reshape that asks for it must not get a number."""
    height = 64
    proto = onnx.parser.parse_model(HEIGHT_OF_ITS_OWN.replace("HEIGHT", str(height)))
    random = np.random.default_rng(0)
    arrays = {"k": random.standard_normal((8, 3, 3, 3)), "tall": random.standard_normal((6, 8, height, 1))}
    integers = {"zero": [0], "one": [1], "two": [2], "pair": [2, 7]}
    for name, array in arrays.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
    for name, numbers in integers.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array(numbers, np.int64), name))
    built = ir.from_proto(proto)
    smaller, larger = shapes.concrete_twice(built)
    asked = next(node for node in built.graph if node.op_type == "Reshape").inputs[1]
    assert smaller.values[asked].tolist() != larger.values[asked].tolist()
