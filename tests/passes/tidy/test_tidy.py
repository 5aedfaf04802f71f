"""Lossless passes: same outputs, simpler graph; what cannot be folded is said by name."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from corpus.oracle import assert_same, drawn_feeds, plain_run
from corpus.text import model
from corpus.topologies import conv_chain, conv_chain_batch_norm, padded_residual, residual

from onnxcompress import apply
from onnxcompress.contract import Context, Pass
from onnxcompress.graph import edit
from onnxcompress.passes import FoldBatchNorm, FoldConstants, RemoveDead, Shrink

NORM = {"scale": (8,), "shift": (8,), "mean": (8,), "var": (8,)}


def operators(subject: ir.Model) -> list[str]:
    return [node.op_type for node in ir.to_proto(subject).graph.node]


def done_and_refused(subject: ir.Model, step: Pass) -> tuple[ir.Model, list[str], list[str]]:
    result, report = apply(subject, [step])
    return result, [c.what for c in report.steps[0].done], [r.reason for r in report.steps[0].refused]


@pytest.mark.parametrize(
    ("layer", "weights"),
    [
        ("Conv<pads=[1,1,1,1]>(x, w, b)", {"w": (8, 4, 3, 3), "b": (8,)}),
        ("Conv(x, w)", {"w": (8, 4, 1, 1)}),
        ("Conv<group=4>(x, w)", {"w": (8, 1, 1, 1)}),
        ("ConvTranspose<strides=[2,2]>(x, w, b)", {"w": (4, 8, 2, 2), "b": (8,)}),
        ("ConvTranspose<group=2>(x, w)", {"w": (4, 4, 2, 2)}),
    ],
)
def test_batch_norm_folds_into_convolutions(layer: str, weights: dict) -> None:
    subject = model(
        f"""g (float[N,4,5,5] x) => (float[N,8,H,W] y) {{
            a = {layer} y = BatchNormalization(a, scale, shift, mean, var)
        }}""",
        {**weights, **NORM},
    )
    folded, done, refused = done_and_refused(subject, FoldBatchNorm())
    feeds = drawn_feeds(subject)
    assert_same(plain_run(subject, feeds), plain_run(folded, feeds), 1e-5)
    assert len(operators(folded)) == 1
    assert len(done) == 1
    assert refused == []


@pytest.mark.parametrize("transposed", [0, 1])
def test_batch_norm_folds_into_gemm(transposed: int) -> None:
    subject = model(
        f"""g (float[N,4] x) => (float[N,8] y) {{
            a = Gemm<transB={transposed}, alpha=0.5, beta=2.0>(x, w, b)
            y = BatchNormalization(a, scale, shift, mean, var)
        }}""",
        {"w": (8, 4) if transposed else (4, 8), "b": (8,), **NORM},
    )
    folded, _, _ = done_and_refused(subject, FoldBatchNorm())
    feeds = drawn_feeds(subject)
    assert_same(plain_run(subject, feeds), plain_run(folded, feeds), 1e-5)
    assert operators(folded) == ["Gemm"]


@pytest.mark.parametrize(
    ("graph", "weights", "reason"),
    [
        ("y = BatchNormalization(x, s, t, m, v)", {}, "does not follow a Conv"),
        (
            "a = Conv(x, w) b = BatchNormalization(a, s, t, m, v) y = Add(a, b)",
            {"w": (4, 4, 1, 1)},
            "something else reads",
        ),
        ("q = Neg(w) a = Conv(x, q) y = BatchNormalization(a, s, t, m, v)", {"w": (4, 4, 1, 1)}, "is not a constant"),
    ],
)
def test_batch_norm_that_cannot_be_folded_says_why(graph: str, weights: dict, reason: str) -> None:
    norm = {"s": (4,), "t": (4,), "m": (4,), "v": np.ones(4, np.float32)}
    subject = model(f"g (float[N,4,5,5] x) => (float[N,4,5,5] y) {{ {graph} }}", {**weights, **norm})
    _, done, refused = done_and_refused(subject, FoldBatchNorm())
    assert done == []
    assert len(refused) == 1
    assert reason in refused[0]


def test_a_weight_that_another_convolution_reads_stays_right() -> None:
    subject = model(
        """g (float[N,8,5,5] x) => (float[N,8,5,5] y, float[N,8,5,5] z) {
            a = Conv(x, w) y = BatchNormalization(a, scale, shift, mean, var)
            z = Conv(x, w)
        }""",
        {"w": (8, 8, 1, 1), **NORM},
    )
    folded, _, _ = done_and_refused(subject, FoldBatchNorm())
    feeds = drawn_feeds(subject)
    assert_same(plain_run(subject, feeds), plain_run(folded, feeds), 1e-5)


def test_shape_arithmetic_on_constants_folds() -> None:
    subject = model(
        """g (float[N,3,4,4] x) => (float[N,12,4] y) {
            two = Constant<value_ints=[2]>() s = Mul(two, six) n = Neg(one) t = Concat<axis=0>(zero, s, n)
            y = Reshape(x, t)
        }""",
        {"six": np.array([6]), "one": np.array([1]), "zero": np.array([0])},
    )
    folded, done, _ = done_and_refused(subject, FoldConstants())
    assert operators(folded) == ["Reshape"]
    assert len(done) == 3
    feeds = drawn_feeds(subject)
    assert_same(plain_run(subject, feeds), plain_run(folded, feeds), 0)


def test_folding_never_blows_the_model_up() -> None:
    subject = model(
        "g (float[2000,2000] x) => (float[2000,2000] y) { c = Expand(one, shape) y = Add(x, c) }",
        {"one": (1, 1), "shape": np.array([2000, 2000])},
    )
    folded, done, refused = done_and_refused(subject, FoldConstants())
    assert done == []
    assert "would be larger" in refused[0]
    assert operators(folded) == ["Expand", "Add"]


@pytest.mark.parametrize(
    "move", ["Transpose<perm=[1,0]>(w)", "Slice(w, zero, two)", "Cast<to=1>(w)", "Reshape(w, shape)"]
)
def test_a_constant_that_others_read_can_stay_one(move: str) -> None:
    subject = model(
        f"""g (float[N,2] x) => (float[N,2] y) {{
            a = MatMul(x, w) t = {move} n = Neg(t) b = MatMul(a, n) l = Transpose<perm=[1,0]>(v) y = MatMul(b, l)
        }}""",
        {"w": (2, 2), "v": (2, 2), "zero": np.array([0]), "two": np.array([2]), "shape": np.array([2, 2])},
    )
    feeds = drawn_feeds(subject)
    kept, done, refused = done_and_refused(subject, FoldConstants(keep_shared=True))
    assert operators(kept) == ["MatMul", move.split("<")[0].split("(")[0], "Neg", "MatMul", "MatMul"]
    assert done == ["computed"]  # v is read once
    assert refused == ["others read its constant too, which would be stored twice"]
    assert_same(plain_run(subject, feeds), plain_run(kept, feeds), 0)
    folded, _, _ = done_and_refused(subject, FoldConstants())
    assert operators(folded) == ["MatMul"] * 3
    assert sum(t.dims[0] == 2 and len(t.dims) == 2 for t in ir.to_proto(kept).graph.initializer) == 2
    assert sum(t.dims[0] == 2 and len(t.dims) == 2 for t in ir.to_proto(folded).graph.initializer) == 3


def test_dead_nodes_and_initializers_go() -> None:
    subject = model(
        "g (float[N,4] x) => (float[N,4] y) { u = MatMul(x, unused) v = Relu(u) y = MatMul(x, w) }",
        {"w": (4, 4), "unused": (4, 4)},
    )
    result, done, _ = done_and_refused(subject, RemoveDead())
    assert operators(result) == ["MatMul"]
    assert [t.name for t in ir.to_proto(result).graph.initializer] == ["w"]
    assert done == ["2 dead nodes removed", "1 dead initializers removed"]


def zero(subject: ir.Model, **rows: tuple[int, list[int]]) -> ir.Model:
    """Zero positions of constants by hand: name=(axis, positions), as another tool's mask would."""
    for value in edit.values(subject.graph):
        if value.name in rows:
            axis, positions = rows[value.name]
            tensor = edit.constant(value)
            assert tensor is not None
            array = tensor.numpy().copy()
            array[(slice(None),) * axis + (positions,)] = 0
            edit.set_constant(value, array)
    return subject


def shrunk(subject: ir.Model) -> tuple[ir.Model, dict[str, tuple[int, ...]], list[str]]:
    plan = Shrink().plan(subject, Context(subject))
    copy = subject.clone()
    changes = Shrink().apply(copy, plan)
    feeds = drawn_feeds(subject)
    assert_same(plain_run(subject, feeds), plain_run(copy, feeds))
    shapes = {t.name: tuple(t.dims) for t in ir.to_proto(copy).graph.initializer}
    return copy, shapes, [r.reason for r in changes.refused]


def test_shrink_leaves_a_dense_model_alone() -> None:
    _, shapes, refused = shrunk(conv_chain())
    assert shapes["w1"] == (16, 3, 3, 3)
    assert refused == []


def test_zero_filter_without_bias_goes() -> None:
    _, shapes, _ = shrunk(zero(conv_chain(), w2=(0, [0, 5])))
    assert shapes["w2"] == (10, 16, 3, 3)
    assert shapes["w3"] == (5, 10)


def test_zero_reader_makes_its_channel_go() -> None:
    _, shapes, _ = shrunk(zero(conv_chain(), w2=(1, [3])))
    assert shapes["w1"] == (15, 3, 3, 3)
    assert shapes["b1"] == (15,)


def test_constant_channel_folds_into_a_bias_without_padding() -> None:
    """A zero filter with a bias gives relu(bias) everywhere; Gemm's bias takes it over."""
    subject = zero(conv_chain(), w2=(0, [4]))
    conv = next(n for n in subject.graph if n.outputs[0].name == "c")
    conv.resize_inputs(3)
    bias = edit.Inserter(subject.graph).constant("b2", np.linspace(0.5, 1.5, 12).astype(np.float32))
    conv.replace_input_with(2, bias)
    _, shapes, _ = shrunk(subject)
    assert shapes["w3"] == (5, 11)


def test_constant_channel_under_padding_stays_and_says_so() -> None:
    _, shapes, refused = shrunk(zero(conv_chain(), w1=(0, [2])))  # b1[2] > 0 may survive the Relu
    positive = np.float32(edit.constant(conv_chain().graph.initializers["b1"]).numpy()[2]) > 0
    assert shapes["w1"] == ((16 if positive else 15), 3, 3, 3)
    assert bool(refused) == bool(positive)


def test_constant_channel_folds_behind_matmul() -> None:
    subject = model(
        """g (float[N,3] x) => (float[N,4] y) {
            a = Gemm(x, w1, b1) r = Relu(a) y = MatMul(r, w2)
        }""",
        {"w1": (3, 6), "b1": np.float32([1, 1, 1, 1, 1, 1]), "w2": (6, 4)},
    )
    result, shapes, _ = shrunk(zero(subject, w1=(1, [0, 3])))
    assert shapes["w2"] == (4, 4)
    assert operators(result) == ["Gemm", "Relu", "MatMul", "Add"]
    assert [o.name for o in ir.to_proto(result).graph.output] == ["y"]


def test_batch_norm_of_a_zero_filter_is_a_constant_too() -> None:
    subject = zero(conv_chain_batch_norm(), w2=(0, [1, 2, 3]))
    _, shapes, _ = shrunk(subject)
    assert shapes["w3"] == (5, 9)  # Conv → BatchNormalization → Relu → pool → Gemm: folded into b3


def test_residual_channel_needs_every_producer_to_be_zero() -> None:
    _, shapes, _ = shrunk(zero(residual(), w0=(0, [1]), b0=(0, [1])))
    assert shapes["w0"][0] == 8
    _, shapes, _ = shrunk(zero(residual(), w0=(0, [1]), b0=(0, [1]), w2=(0, [1]), b2=(0, [1])))
    assert shapes["w0"][0] == 7


def test_padding_channels_shrink_with_the_sum() -> None:
    subject = zero(padded_residual(), w3=(0, [0, 1, 15]))
    subject = zero(subject, w1=(0, [0, 1, 15]))
    result, shapes, _ = shrunk(subject)
    assert shapes["w1"][0] == 13
    pad = next(n for n in ir.to_proto(result).graph.node if n.op_type == "Pad")
    pads = next(onnx.numpy_helper.to_array(t) for t in ir.to_proto(result).graph.initializer if t.name == pad.input[1])
    assert pads.tolist() == [0, 2, 0, 0, 0, 3, 0, 0]


def test_a_chain_of_dead_channels_goes_at_once() -> None:
    """Zero readers of the second layer kill it, and then what only it read from the first."""
    subject = model(
        """g (float[N,3] x) => (float[N,4] y) {
            a = MatMul(x, w1) r = Relu(a) b = MatMul(r, w2) s = Relu(b) y = MatMul(s, w3)
        }""",
        {"w1": (3, 6), "w2": (6, 5), "w3": (5, 4)},
    )
    w2 = edit.constant(subject.graph.initializers["w2"]).numpy().copy()
    w2[2, [0, 1, 2, 4]] = 0  # hidden unit 2 of the first layer feeds only unit 3 of the second
    edit.set_constant(subject.graph.initializers["w2"], w2)
    _, shapes, _ = shrunk(zero(subject, w3=(0, [3])))
    assert shapes == {"w1": (3, 5), "w2": (5, 4), "w3": (4, 4)}


def test_an_all_zero_layer_keeps_one_channel() -> None:
    _, shapes, _ = shrunk(zero(conv_chain(), w2=(0, list(range(12)))))
    assert shapes["w2"][0] == 1


def test_zero_channels_that_reach_an_output_are_refused_by_name() -> None:
    _, shapes, refused = shrunk(zero(conv_chain(), w3=(0, [1]), b3=(0, [1])))
    assert shapes["w3"] == (5, 12)
    assert refused == ["1 zero channels stay: it reaches graph output 'y'"]


def test_constants_in_inner_graphs_are_folded() -> None:
    text = """g (float[2] x, bool c) => (float[2] y) {
        y = If(c) <then_branch = t () => (float[2] p) { a = Add(w, w) p = Add(x, a) },
                   else_branch = e () => (float[2] m) { m = Neg(x) }> }"""
    subject = model(text, {"w": np.array([1, 2], np.float32)})
    folded, done, _ = done_and_refused(subject, FoldConstants())
    assert done == ["computed"]
    assert sorted(node.op_type for node in folded.graph.all_nodes()) == ["Add", "If", "Neg"]
    feeds = {"x": np.array([3, 4], np.float32), "c": np.array(True)}
    np.testing.assert_array_equal(plain_run(folded, feeds)["y"], np.array([5, 8], np.float32))
