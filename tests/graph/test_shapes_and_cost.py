"""Shapes and costs, against hand counts."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from corpus.text import model
from corpus.topologies import TOPOLOGIES, computed_shape, conv_chain

from onnxcompress.graph import cost, shapes


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_concrete_shapes_are_those_of_a_run(name: str) -> None:
    """Every intermediate tensor, against plain ONNX Runtime."""
    import onnx
    from corpus.oracle import drawn_feeds, plain_run

    subject = TOPOLOGIES[name][0]()
    known = shapes.concrete(subject)
    proto = ir.to_proto(subject)
    del proto.graph.output[:]
    del proto.graph.value_info[:]
    values = [v for node in subject.graph for v in node.outputs]
    proto.graph.output.extend(onnx.ValueInfoProto(name=v.name) for v in values)
    found = plain_run(
        proto, drawn_feeds(subject, batch=8 if isinstance((subject.graph.inputs[0].shape or [0])[0], int) else 1)
    )
    shapes_of = {v.name: known.shapes[v] for v in values if v in known.shapes}
    looped = {"l", "y"} if name == "loop" else set()  # what a loop carries may change its shape
    assert shapes_of == {n: array.shape for n, array in found.items() if n not in looped}


def test_shape_arithmetic_is_followed_and_marked_as_moving() -> None:
    subject = computed_shape()
    known = shapes.concrete(subject)
    target = next(v for node in subject.graph for v in node.outputs if v.name == "t")
    assert known.values[target].tolist() == [1, -1]
    assert target in known.moving


def test_what_the_file_says_is_kept() -> None:
    subject = conv_chain()
    subject.graph.outputs[0].shape = ir.Shape(["batch", "classes"])
    shapes.infer(subject)
    assert [str(d) for d in subject.graph.outputs[0].shape or ()] == ["batch", "classes"]
    inner = next(v for node in subject.graph for v in node.outputs if v.name == "a")
    assert list(inner.shape or ())[1:] == [16, 8, 8]


def test_given_sizes_win() -> None:
    subject = model("g (float[N,3,H,W] x) => (float[N,4,H,W] y) { y = Conv(x, w) }", {"w": (4, 3, 1, 1)})
    assert cost.cost(subject, {"x": (1, 3, 10, 20)}).macs == 4 * 3 * 200
    assert cost.cost(subject).macs == 4 * 3 * 64 * 64


@pytest.mark.parametrize(
    ("graph", "weights", "expected"),
    [
        ("x[1,4,6,6] y[1,8,6,6] Conv<group=2, pads=[1,1,1,1]>(x, w)", {"w": (8, 2, 3, 3)}, 8 * 2 * 9 * 36),
        ("x[1,4,6,6] y[1,8,12,12] ConvTranspose<strides=[2,2]>(x, w)", {"w": (4, 8, 2, 2)}, 4 * 36 * 8 * 4),
        ("x[5,3] y[5,7] Gemm<transB=1>(x, w)", {"w": (7, 3)}, 5 * 3 * 7),
        ("x[2,5,3] y[2,5,7] MatMul(x, w)", {"w": (3, 7)}, 2 * 5 * 3 * 7),
        ("x[6,1,3] y[6,1,1,5] LSTM<hidden_size=5>(x, w, r)", {"w": (1, 20, 3), "r": (1, 20, 5)}, 6 * 20 * 8),
    ],
)
def test_macs(graph: str, weights: dict, expected: int) -> None:
    x, y, node = graph.split(" ", 2)
    subject = model(f"g (float{x[1:]} x) => (float{y[1:]} y) {{ y = {node} }}", weights)
    assert sum(cost.macs(subject).values()) == expected


def test_hostile_sizes_do_not_run() -> None:
    """A constant that asks for terabytes is not obeyed while shapes are computed."""
    subject = model(
        "g (float[N] x) => (float[M] y) { c = ConstantOfShape(huge) y = Reshape(c, minus) }",
        {"huge": np.array([10**6, 10**6]), "minus": np.array([-1])},
    )
    known = shapes.concrete(subject)
    assert not any(v.name == "c" and v in known.values for node in subject.graph for v in node.outputs)


def test_macs_of_inner_graphs_count_each_node_once() -> None:
    """Both branches of the If and one round of the Loop, with names that repeat."""
    subject = model(
        """g (float[1,3,4,4] x, bool flag) => (float[1,6,4,4] y) {
            t = If (flag) <
                then_branch = same () => (float[1,6,4,4] u) { u = Conv(x, w1) },
                else_branch = other () => (float[1,6,4,4] v) { h = Conv(x, w2) v = Conv(h, w3) }
            >
            three = Constant<value = int64 {3}>()
            yes = Constant<value = bool {1}>()
            y = Loop (three, yes, t) <
                body = step (int64 i, bool go, float[1,6,4,4] before) => (bool more, float[1,6,4,4] after) {
                    more = Identity(go)
                    after = Conv(before, w4)
                }
            >
        }""",
        {"w1": (6, 3, 1, 1), "w2": (2, 3, 1, 1), "w3": (6, 2, 1, 1), "w4": (6, 6, 1, 1)},
    )
    assert sum(cost.macs(subject).values()) == 16 * (6 * 3 + 2 * 3 + 6 * 2 + 6 * 6)
