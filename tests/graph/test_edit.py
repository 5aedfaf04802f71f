"""The one place that changes a graph."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from corpus.oracle import assert_same, drawn_feeds, plain_run
from corpus.text import model
from corpus.topologies import mlp

from onnxcompress import apply
from onnxcompress.graph import edit
from onnxcompress.passes import FoldBatchNorm, FreezeInputs


def constants(text: str) -> ir.Model:
    return model(f"g (float[N,2] x) => (float[N,2] y) {{ c = Constant<{text}>() y = Add(x, c) }}", {})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("value = float[2] {1.0, 2.0}", [1.0, 2.0]),
        ("value_floats = [1.0, 2.0]", [1.0, 2.0]),
        ("value_float = 3.0", 3.0),
    ],
)
def test_constant_nodes_are_read_without_changing_them(text: str, expected: object) -> None:
    subject = constants(text)
    before = ir.to_proto(subject).SerializeToString()
    tensor = edit.constant(next(iter(subject.graph)).outputs[0])
    assert tensor is not None
    assert tensor.numpy().tolist() == expected
    assert ir.to_proto(subject).SerializeToString() == before


def test_setting_a_constant_updates_shape_and_type() -> None:
    subject = mlp()
    value = subject.graph.initializers["w1"]
    edit.set_constant(value, np.zeros((3, 4), np.float16))
    assert value.shape == ir.Shape([3, 4])
    assert value.dtype == ir.DataType.FLOAT16
    proto = next(t for t in ir.to_proto(subject).graph.initializer if t.name == "w1")
    assert (list(proto.dims), proto.data_type) == ([3, 4], onnx.TensorProto.FLOAT16)


def test_setting_a_constant_node() -> None:
    subject = constants("value_floats = [1.0, 2.0]")
    edit.set_constant(next(iter(subject.graph)).outputs[0], np.float32([5, 6]))
    feeds = {"x": np.zeros((1, 2), np.float32)}
    assert plain_run(subject, feeds)["y"].tolist() == [[5, 6]]


def test_replacing_a_graph_output_keeps_its_name() -> None:
    subject = mlp()
    out = subject.graph.outputs[0]
    node = out.producer()
    doubled = edit.Inserter(subject.graph).node("Add", [out, out], after=node, dtype=out.dtype)
    edit.replace_uses(out, doubled, except_for=[doubled.producer()])  # type: ignore[list-item]
    feeds = drawn_feeds(mlp())
    before, after = plain_run(mlp(), feeds), plain_run(subject, feeds)
    assert_same({"y": 2 * before["y"]}, after, 1e-6)


def test_added_names_are_free() -> None:
    subject = mlp()
    insert = edit.Inserter(subject.graph)
    names = [insert.constant("w1", np.zeros(1, np.float32)).name for _ in range(3)]
    assert names == ["w1_1", "w1_2", "w1_3"]


def with_weights_as_inputs() -> onnx.ModelProto:
    norm = {"s": (4,), "t": (4,), "m": (4,), "v": np.ones(4, np.float32)}
    text = "g (float[N,3,5,5] x) => (float[N,4,5,5] y) { a = Conv(x, w) y = BatchNormalization(a, s, t, m, v) }"
    proto = ir.to_proto(model(text, {"w": (4, 3, 1, 1), **norm}))
    for tensor in proto.graph.initializer:
        proto.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return proto


def test_weights_that_a_caller_may_set_stay_as_they_are() -> None:
    proto = with_weights_as_inputs()
    same, report = apply(proto, [FoldBatchNorm()])
    assert [i.name for i in same.graph.input] == ["x", "w", "s", "t", "m", "v"]
    assert {r.subject: r.reason for r in report.steps[0].refused}["y (BatchNormalization)"]
    feeds = {"x": np.ones((1, 3, 5, 5), np.float32), "w": np.full((4, 3, 1, 1), 2, np.float32)}
    assert_same(plain_run(proto, feeds), plain_run(same, feeds))


@pytest.mark.parametrize("ir_version", [3, 8])
def test_unread_weights_that_are_no_inputs_any_more_go(ir_version: int) -> None:
    """Folding must not leave the old weight behind; before IR version 4 such inputs could not be set."""
    proto = with_weights_as_inputs()
    proto.ir_version = ir_version
    passes = [FoldBatchNorm()] if ir_version < 4 else [FreezeInputs(), FoldBatchNorm()]
    folded, _ = apply(proto, passes)
    assert [i.name for i in folded.graph.input] == ["x"]
    assert len(folded.graph.initializer) == 2
    feeds = {"x": np.ones((1, 3, 5, 5), np.float32)}
    assert_same(plain_run(proto, feeds), plain_run(folded, feeds))


def test_a_renamed_copy_leaves_the_names_of_the_original_alone() -> None:
    """Clones share tensors, and a value's name is that of its tensor, too."""
    subject = model("g (float[N,4] x) => (float[N,4] y) { y = Gemm(x, w, b) }", {"w": (4, 4), "b": (4,)})
    copy = subject.clone()
    edit.rename(copy.graph, {value: f"v{n}" for n, value in enumerate(copy.graph.initializers.values())})
    for each, names in ((subject, ["w", "b"]), (copy, ["v0", "v1"])):
        assert [tensor.name for tensor in ir.to_proto(each).graph.initializer] == names
        assert list(each.graph.initializers) == names
    np.testing.assert_array_equal(
        *(next(iter(each.graph.initializers.values())).const_value.numpy() for each in (subject, copy))  # type: ignore[union-attr]
    )
