"""Profiles: how long each kernel takes."""

from __future__ import annotations

import pytest

from onnxcompress import scratch
from onnxcompress.evaluation.profile import Kernel, kernels, profile_models
from onnxcompress.samples.random_values import example_feed


def event(name, start, took, operator=None, dtype="float"):
    if operator is None:
        return {"cat": "Session", "name": name, "ts": start, "dur": took, "args": {}}
    facts = {"op_name": operator, "output_type_shape": [{dtype: [1, 3]}]}
    return {"cat": "Node", "name": f"{name}_kernel_time", "ts": start, "dur": took, "args": facts}


def run(start, relu, loop, inside):
    """A run of a Relu and a Loop, whose body runs an Add twice."""
    begin = start + 10 + relu
    return [
        event("relu", start + 10, relu, "Relu"),
        event("add", begin + 1, inside, "Add", "uint8"),
        event("add", begin + 1 + inside, inside, "Add", "uint8"),
        event("loop", begin, loop, "Loop"),
        event("SequentialExecutor::Execute", start + 5, relu + loop + 10),
        event("model_run", start, relu + loop + 20),
    ]


def test_a_profile_is_read_exactly(parse):
    events = [event("session_initialization", 0, 900)]
    for start, relu, loop, inside in ((1000, 900, 900, 200), (4000, 30, 100, 40), (5000, 50, 104, 44)):
        events += run(start, relu, loop, inside)
    graph = parse("g (float[1,3] x) => (float[1,3] y) { t = Relu(x) y = Add(t, t) }")
    for node, name in zip(graph.graph, ("relu", "unrelated"), strict=True):
        node.name = name
    found = {kernel.name: kernel for kernel in kernels(events, graph, warm_up=1)}
    # Of two runs an eighth is one: the quicker. The Loop's own time is 100 − 2·40 and 104 − 2·44 microseconds.
    assert found == {
        "relu": Kernel("relu", "Relu", 0.030, "float", ("x",), ("t",)),
        "add": Kernel("add", "Add", 0.080, "uint8"),
        "loop": Kernel("loop", "Loop", 0.016, "float"),
    }


@pytest.mark.parametrize(("runs", "expected"), [(8, 0.001), (9, 0.0015), (16, 0.0015), (17, 0.002)])
def test_the_quickest_eighth_counts(parse, runs, expected):
    graph = parse("g (float[1,3] x) => (float[1,3] y) { y = Relu(x) }")
    events = []
    for number in reversed(range(runs)):
        events += [event("relu", 1000 * number + 1, number + 1, "Relu"), event("model_run", 1000 * number, 500)]
    (found,) = kernels(events, graph, warm_up=0)
    assert found.milliseconds == pytest.approx(expected)


def test_real_models_take_turns_and_leave_nothing_behind(parse, monkeypatch, tmp_path):
    monkeypatch.setattr(scratch.tempfile, "tempdir", str(tmp_path))
    models = [
        parse("g (float[1,3] x) => (float[1,3] y) { t = Sigmoid(x) y = Mul(t, x) }"),
        parse("g (float[1,3] x) => (float[1,3] y) { t = Softmax<axis=1>(x) y = Neg(t) }"),
    ]
    for model in models:
        for node in model.graph:
            node.name = f"the {node.op_type}"
    one, other = profile_models(models, example_feed(models[0]))
    assert {(k.name, k.operator) for k in other} == {("the Softmax", "Softmax"), ("the Neg", "Neg")}
    assert [(k.inputs, k.outputs) for k in other] == [(("x",), ("t",)), (("t",), ("y",))]
    assert {k.dtype for k in one} == {"float"}
    assert all(k.milliseconds >= 0 for k in (*one, *other))
    assert list(tmp_path.iterdir()) == []
