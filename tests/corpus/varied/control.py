"""Inner graphs, functions, sequences and optionals."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from . import anything, features
from .builder import FLOATS, Builder, Tensor
from .constants import weight
from .images import Block

DEEPEST = 2


def plain_step(b: Builder, x: Tensor) -> Tensor:
    """Grow by one step that keeps the shape."""
    if x.kind != "image" and b.chance(0.5):
        return features.linear(b, x, x.width)
    if x.kind == "image" and b.dtype != "float64" and b.chance(0.5):
        return x.like(b.op("Conv", x.name, weight(b, x.width, x.width, 1, 1), weight(b, x.width)))
    block = b.choose(anything.activation, anything.affine, anything.gated, anything.bound, anything.hand_on)
    return block(b, x) or x


def body(b: Builder, x: Tensor) -> Tensor:
    """Grow by a few steps; they may hold inner graphs."""
    b.whole.depth += 1
    for _ in range(b.some(1, 3)):
        x = plain_step(b, x)
    if b.whole.depth < DEEPEST and b.chance(0.25):
        x = b.choose(branch, loop)(b, x)
    b.whole.depth -= 1
    return x


def flag(b: Builder, x: Tensor) -> str:
    """Write a condition: an input, the batch's size, a constant, the data."""
    way = b.choose("input", "input", "size", "constant", "data")
    if b.place == "function" or (way == "input" and b.place == "inner"):
        way = "size"
    if way == "input":
        there = [i.name for i in b.whole.inputs if i.dtype == "bool"]
        return b.choose(*there) if there else b.take("bool", ())
    if way == "constant":
        return b.const(np.array(b.chance(0.5)))
    if way == "size" or b.dtype != "float32":
        size = b.op("Cast", b.op("Size", x.name), to=TensorProto.FLOAT)
        return b.op("Greater", size, b.const(np.array(60.0, np.float32)))
    return b.op("Greater", b.reduce("ReduceMax", x.name, list(range(len(x.dims))), keepdims=0), b.scalar(1.0))


def branch(b: Builder, x: Tensor) -> Tensor:
    condition, graphs = flag(b, x), []
    for name in ("then", "else"):
        scope = b.inner()
        y = scope.op("Identity", x.name) if b.chance(0.15) else body(scope, x).name
        if y == x.name:
            y = scope.op("Identity", y)
        graphs.append(scope.graph(b.fresh(name), [], [b.info(y, x.dims if b.chance(0.6) else None)]))
    return x.like(b.op("If", condition, then_branch=graphs[0], else_branch=graphs[1]))


def two_widths(b: Builder, x: Tensor) -> Tensor | None:
    """An If whose branches have different widths; only means are the same for both."""
    if x.kind != "matrix" or b.opset < 11:
        return None
    graphs, condition = [], flag(b, x)
    for name in ("then", "else"):
        scope = b.inner()
        y = features.linear(scope, x, b.some(3, 9))
        graphs.append(scope.graph(b.fresh(name), [], [b.info(y.name, (x.dims[0], b.fresh("F")))]))
    y = b.op("If", condition, then_branch=graphs[0], else_branch=graphs[1])
    means = b.reduce("ReduceMean", y, [1])
    return x.like(b.op("Add", x.name, means))


def loop(b: Builder, x: Tensor) -> Tensor | None:
    """A tensor carried through a few rounds; each round's may be stacked."""
    scope = b.inner()
    count, go, state = b.fresh("count"), b.fresh("go"), b.fresh("state")
    scope.nodes.append(helper.make_node("Identity", [go], [again := b.fresh("again")], name=b.fresh("Identity")))
    last = body(scope, x.like(state)).name
    last = scope.op("Identity", last) if last == state else last
    stacked = b.chance(0.4)
    results = [b.info(again, (), "bool"), b.info(last, x.dims)]
    if stacked:
        results.append(b.info(scope.op("Tanh", last), x.dims))
    known = x.dims if b.chance(0.7) else None
    inputs = [b.info(count, (), "int64"), b.info(go, (), "bool"), b.info(state, known)]
    graph = scope.graph(b.fresh("body"), inputs, results)
    if b.place == "graph" and not stacked and b.chance(0.5):  # without a round, nothing is stacked
        there = [i.name for i in b.whole.inputs if i.dtype == "int64" and not i.dims]
        rounds = b.choose(*there) if there else b.take("int64", (), below=4)
    else:
        rounds = b.const(np.array(b.some(1, 4)))
    go_on = b.const(np.array(True)) if b.chance(0.5) else ""
    outputs = b.node("Loop", [rounds, go_on, x.name], 1 + stacked, body=graph)
    if not stacked:
        return x.like(outputs[0])
    summed = b.reduce("ReduceSum", outputs[1], [0], keepdims=0)
    return x.like(b.op("Add", outputs[0], summed))


def scan(b: Builder, x: Tensor) -> Tensor | None:
    """A recurrence over tokens, written out."""
    if x.kind != "tokens" or b.opset < 9 or x.dims[0] not in ("N", 1, 2, 3):  # onnxruntime dies of no rows at all
        return None
    n, f = x.dims[0], x.width
    scope, state, part = b.inner(), b.fresh("state"), b.fresh("part")
    row = Tensor(part, "matrix", (n, f))
    mixed = scope.op("Add", features.linear(scope, row, f).name, features.linear(scope, row.like(state), f).name)
    y = scope.op("Tanh", mixed)
    out = scope.op("Identity", y) if b.chance(0.5) else scope.op("Sigmoid", mixed)
    graph = scope.graph(
        b.fresh("body"), [b.info(state, (n, f)), b.info(part, (n, f))], [b.info(y, (n, f)), b.info(out, (n, f))]
    )
    first = b.reduce("ReduceMean", x.name, [1], keepdims=0)
    axes = {"scan_input_axes": [b.axis(1, 3)], "scan_output_axes": [b.axis(1, 3)]}
    if b.chance(0.3):
        axes["scan_input_directions"] = [1]
    last, ys = b.node("Scan", [first, x.name], 2, body=graph, num_scan_inputs=1, **axes)
    return x.like(ys) if b.chance(0.7) else Tensor(last, "matrix", (n, f))


def other_opset(b: Builder) -> int:
    """Return another opset in which all operators of the scope mean the same."""

    def versions(nodes: list[onnx.NodeProto], opset: int) -> list[int]:
        inner = [n for node in nodes for a in node.attribute if a.HasField("g") for n in a.g.node]
        try:
            own = [onnx.defs.get_schema(node.op_type, opset, "").since_version for node in nodes if not node.domain]
        except onnx.defs.SchemaError:  # newer than this opset
            return []
        return own + (versions(inner, opset) if inner else [])

    here = versions(b.nodes, b.opset)
    others = [
        o for o in range(max(b.opset - 3, 10), min(b.opset + 4, 28)) if o != b.opset and versions(b.nodes, o) == here
    ]
    return b.choose(*others) if others else b.opset


def local_function(b: Builder, x: Tensor) -> Tensor | None:
    """A function of the model's own; its opset may be another."""
    if b.place != "graph" or b.opset < 11:
        return None
    scope = Builder(b.whole, "function", b.opset)
    scope.dtype = b.dtype
    name, argument = b.fresh("f"), b.fresh("argument")
    y = scope.op("Identity", body(scope, x.like(argument)).name)
    inputs, more = [argument], []
    if b.chance(0.5):
        extra = b.fresh("weight")
        y = scope.op("Mul", y, extra)
        inputs, more = [argument, extra], [weight(b, *anything.along(x, x.width))]
    imports = [helper.make_opsetid("", other_opset(scope) if b.chance(0.6) else b.opset)]
    b.whole.functions.append(helper.make_function("local", name, inputs, [y], scope.nodes, imports))
    result = b.node(name, [x.name, *more], domain="local")[0]
    if b.chance(0.3):
        result = b.node(name, [result, *more], domain="local")[0]
    return x.like(result)


def sequence(b: Builder, x: Tensor) -> Tensor | None:
    """Through a list of tensors, and out of it again."""
    if b.opset < 11:
        return None
    other = b.op(b.choose("Relu", "Neg", "Tanh"), x.name)
    way, rank = b.choose("construct", "insert", "split", "join"), len(x.dims)
    if way == "split":
        axis = anything.channel_axis(x)
        parts = b.op("SplitToSequence", x.name, axis=b.axis(axis, rank), keepdims=1)
        index = b.const(np.array(b.some(0, x.width)))
        return anything.resized(x, b.op("SequenceAt", parts, index), 1)
    items = b.op("SequenceConstruct", x.name, other)
    if way == "insert":
        items = b.op("SequenceInsert", items, b.op("Sigmoid", x.name), b.const(np.array(0)))
    if way == "join" and x.width < 16:
        axis = anything.channel_axis(x)
        joined = b.op("ConcatFromSequence", items, axis=b.axis(axis, rank))
        return anything.resized(x, joined, 2 * x.width)
    if b.place == "graph" and b.chance(0.3):
        kind = helper.make_tensor_type_proto(FLOATS[b.dtype], None)
        b.whole.outputs.append(helper.make_value_info(items, helper.make_sequence_type_proto(kind)))
    return x.like(b.op("SequenceAt", items, b.const(np.array(b.choose(0, 1, -1)))))


def optional(b: Builder, x: Tensor) -> Tensor | None:
    if b.opset < 15:
        return None
    wrapped = b.op("Optional", x.name)
    return x.like(b.op("OptionalGetElement", wrapped))


CONTROL: dict[str, tuple[Block, int]] = {
    "branch": (branch, 4), "two widths": (two_widths, 1), "loop": (loop, 3), "scan": (scan, 3),
    "local function": (local_function, 4), "sequence": (sequence, 3), "optional": (optional, 1),
}  # fmt: skip
