"""onnx-graphsurgeon in full use, and refused where it would lose something."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from corpus.oracle import assert_same, drawn_feeds, plain_run
from corpus.topologies import TOPOLOGIES, mlp

from onnxcompress import surgeon
from onnxcompress.errors import ModelError


@pytest.mark.parametrize("name", [n for n in TOPOLOGIES if n != "inner graph"])
def test_no_edit_changes_nothing(name: str) -> None:
    model = TOPOLOGIES[name][0]()
    feeds = drawn_feeds(model)
    before = plain_run(model, feeds)
    with surgeon(model):
        pass
    assert_same(before, plain_run(model, feeds), 0)


def test_an_edit_arrives() -> None:
    model = mlp()
    feeds = drawn_feeds(model)
    with surgeon(model) as graph:
        for node in graph.nodes:
            if node.op == "Tanh":
                node.op = "Relu"
    edited = mlp()
    proto = ir.to_proto(edited)
    next(n for n in proto.graph.node if n.op_type == "Tanh").op_type = "Relu"
    assert_same(plain_run(proto, feeds), plain_run(model, feeds), 0)


def test_an_error_in_the_block_leaves_the_model_alone() -> None:
    model = mlp()
    before = ir.to_proto(model).SerializeToString()
    with pytest.raises(RuntimeError), surgeon(model) as graph:
        graph.nodes.clear()
        raise RuntimeError
    assert ir.to_proto(model).SerializeToString() == before


def test_an_invalid_edit_is_refused_and_leaves_the_model_alone() -> None:
    model = mlp()
    before = ir.to_proto(model).SerializeToString()
    with pytest.raises(ModelError, match="the edited graph is not valid ONNX: .*Nonsense"), surgeon(model) as graph:
        graph.nodes[0].op = "Nonsense"
    assert ir.to_proto(model).SerializeToString() == before


@pytest.mark.parametrize("dtype", [ml_dtypes.int4, ml_dtypes.uint4, ml_dtypes.float8_e4m3fn, ml_dtypes.float4_e2m1fn])
def test_types_it_cannot_keep_are_refused_by_tensor(dtype: type) -> None:
    model = mlp()
    value = ir.val("packed", const_value=ir.tensor(np.ones((2, 2), dtype), name="packed"))
    model.graph.register_initializer(value)
    with pytest.raises(ModelError, match="tensor 'packed': onnx-graphsurgeon cannot keep its type"), surgeon(model):
        pass


def test_metadata_it_would_drop_is_refused_by_node() -> None:
    model = mlp()
    model.graph[0].name = "first"
    model.graph[0].metadata_props["layer"] = "encoder"
    with (
        pytest.raises(ModelError, match=r"node first \(Gemm\): onnx-graphsurgeon would drop its metadata"),
        surgeon(model),
    ):
        pass


def test_metadata_of_the_model_is_kept() -> None:
    model = mlp()
    model.metadata_props["character"] = "abc"
    with surgeon(model):
        pass
    assert model.metadata_props == {"character": "abc"}
    assert onnx.checker.check_model(ir.to_proto(model)) is None
