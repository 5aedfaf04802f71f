"""Time passes on ever larger graphs, each in a process of its own; print CPU time for each node, and its growth.

    python benchmarks/scaling.py [--nodes 1000,4000,16000] [--graphs mlp,residual] [--recipes shrink,prune+shrink]

Two clocks: the passes alone (plan and apply), and the whole of `onnxcompress.apply` with its verifier, comparison and
timing. Growth is the time for each node over that of the smallest graph.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from onnxcompress import apply
from onnxcompress.contract import Context, Pass
from onnxcompress.graph import shapes
from onnxcompress.passes import (
    ConvertFloat,
    FoldBatchNorm,
    FoldConstants,
    MagnitudePrune,
    PruneChannels,
    QuantizeDynamic,
    QuantizeWeights,
    RemoveDead,
    Shrink,
)

WIDTH = 16
GROWTH = 4
"""Channels that each layer of a dense block adds."""

RECIPES: dict[str, Callable[[], list[Pass]]] = {
    "shrink": lambda: [Shrink()],
    "prune+shrink": lambda: [PruneChannels(sparsity=0.25), Shrink()],
    "merge": lambda: [Shrink(merge_equal=True)],
    "magnitude-prune": lambda: [MagnitudePrune(sparsity=0.5)],
    "quantize-weights": lambda: [QuantizeWeights(minimum_size=64)],
    "quantize-dynamic": lambda: [QuantizeDynamic()],
    "fold-constants": lambda: [FoldConstants()],
    "fold-batch-norm": lambda: [FoldBatchNorm()],
    "convert-float": lambda: [ConvertFloat()],
    "remove-dead": lambda: [RemoveDead()],
}


class Builder:
    """Adds nodes and random weights."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._random = np.random.default_rng(0)

    def weight(self, *shape: int) -> str:
        """Add a weight that keeps the size of what it multiplies."""
        fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 1
        array = self._random.standard_normal(shape) / np.sqrt(max(fan_in, 1))
        return self.constant(array.astype(np.float32))

    def constant(self, array: np.ndarray) -> str:
        """Add an initializer."""
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def add(self, op: str, *inputs: str, **attributes: object) -> str:
        """Add a node and return its output."""
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=f"n{len(self.nodes)}", **attributes))
        return name

    def norm(self, x: str, width: int) -> str:
        """Add a BatchNormalization."""
        ones, zeros = np.ones(width, np.float32), np.zeros(width, np.float32)
        return self.add("BatchNormalization", x, *map(self.constant, (ones, zeros, zeros, ones)))


def mlp(net: Builder, x: str, nodes: int) -> str:
    """Gemm and Relu, one after the other: a group for each layer."""
    while len(net.nodes) < nodes:
        x = net.add("Relu", net.add("Gemm", x, net.weight(WIDTH, WIDTH), net.weight(WIDTH), transB=1))
    return x


def residual(net: Builder, x: str, nodes: int) -> str:
    """Blocks of two convolutions with BatchNormalization around one stream: one group that everything is in."""
    while len(net.nodes) < nodes:
        y = net.add("Relu", net.norm(net.add("Conv", x, net.weight(WIDTH, WIDTH, 1, 1)), WIDTH))
        y = net.norm(net.add("Conv", y, net.weight(WIDTH, WIDTH, 1, 1)), WIDTH)
        x = net.add("Relu", net.add("Add", x, y))
    return x


def transformer(net: Builder, x: str, nodes: int) -> str:
    """Blocks of attention and MLP as exporters write them, sizes computed from shapes: products of heads and sizes."""
    scale = net.constant(np.array(0.5, np.float32))
    while len(net.nodes) < nodes:
        scales = [net.constant(np.ones(WIDTH, np.float32)), net.constant(np.zeros(WIDTH, np.float32))]
        y = net.add("LayerNormalization", x, *scales, axis=-1)
        heads = []
        for perm in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]):
            made = net.add("Add", net.add("MatMul", y, net.weight(WIDTH, WIDTH)), net.weight(WIDTH))
            split = net.constant(np.array([0, 0, 4, WIDTH // 4]))
            heads.append(net.add("Transpose", net.add("Reshape", made, split), perm=perm))
        scores = net.add("Softmax", net.add("Mul", net.add("MatMul", heads[0], heads[1]), scale), axis=-1)
        mixed = net.add("Transpose", net.add("MatMul", scores, heads[2]), perm=[0, 2, 1, 3])
        flat = net.add("Reshape", mixed, net.constant(np.array([0, 0, WIDTH])))
        x = net.add("Add", x, net.add("MatMul", flat, net.weight(WIDTH, WIDTH)))
        wide = net.add("Relu", net.add("MatMul", x, net.weight(WIDTH, 2 * WIDTH)))
        x = net.add("Add", x, net.add("MatMul", wide, net.weight(2 * WIDTH, WIDTH)))
    return x


def dense(net: Builder, x: str, nodes: int, block: int = 24) -> str:
    """DenseNet: in a block each layer reads all before it; between blocks a transition."""
    while len(net.nodes) < nodes:
        width = WIDTH
        for _ in range(block):
            y = net.add("Conv", net.add("Relu", net.norm(x, width)), net.weight(GROWTH, width, 1, 1))
            x, width = net.add("Concat", x, y, axis=1), width + GROWTH
            if len(net.nodes) >= nodes:
                break
        x = net.add("Conv", x, net.weight(WIDTH, width, 1, 1))
    return x


def dense_whole(net: Builder, x: str, nodes: int) -> str:
    """One dense block without end: what it computes grows with the square of its nodes."""
    return dense(net, x, nodes, block=nodes)


def exported(net: Builder, x: str, nodes: int) -> str:
    """Reshapes to sizes that are computed from shapes, and constants behind constants, as exporters leave them."""
    zero, two, width = (net.constant(np.array(n)) for n in ([0], [2], [WIDTH]))
    while len(net.nodes) < nodes:
        weight = net.add("Transpose", net.add("Identity", net.weight(WIDTH, WIDTH)), perm=[1, 0])
        y = net.add("MatMul", x, weight)
        size = net.add("Gather", net.add("Shape", y), zero, axis=0)
        half = net.add("Div", net.add("Mul", size, two), two)
        x = net.add("Reshape", net.add("Relu", y), net.add("Concat", half, width, axis=0))
    return x


GRAPHS: dict[str, tuple[Callable[[Builder, str, int], str], tuple[int, ...]]] = {
    "mlp": (mlp, (WIDTH,)),
    "residual": (residual, (WIDTH, 4, 4)),
    "transformer": (transformer, (4, WIDTH)),
    "dense": (dense, (WIDTH, 2, 2)),
    "exported": (exported, (WIDTH,)),
    "dense-whole": (dense_whole, (WIDTH, 1, 1)),
}
"""Name → what adds the body, and the shape of its input behind the batch."""


def build(kind: str, nodes: int) -> ir.Model:
    """Build a network of about so many nodes; its ends have weights of their own, so that the body is free."""
    net = Builder()
    body, shape = GRAPHS[kind]
    op = "Conv" if len(shape) == 3 else "MatMul"
    ends = (WIDTH, WIDTH, 1, 1) if op == "Conv" else (WIDTH, WIDTH)
    y = net.add(op, body(net, net.add(op, "x", net.weight(*ends)), nodes - 2), net.weight(*ends))
    net.nodes[-1].output[0] = y = "y"
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *shape])]
    outputs = [helper.make_tensor_value_info(y, TensorProto.FLOAT, None)]
    graph = helper.make_graph(net.nodes, kind, inputs, outputs, net.weights)
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9))


def cpu() -> float:
    """Return the CPU seconds of this process and its children so far."""
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def run(kind: str, nodes: int, recipe: str, *, whole: bool) -> dict[str, float]:
    """Run one recipe once: CPU seconds, and the peak over what the process held before, in bytes."""
    model = build(kind, nodes)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if not whole:
        shapes.infer(model)
    start = cpu()
    if whole:
        apply(model, RECIPES[recipe]())
    else:
        for step in RECIPES[recipe]():
            plan = step.plan(model, Context(model))
            step.apply(model, plan)
    seconds = cpu() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"nodes": len(list(model.graph)), "seconds": seconds, "peak": (peak - before) * 1024}


def child(kind: str, nodes: int, recipe: str, limit: float, *, whole: bool) -> dict[str, float] | str:
    """Run one recipe in a process of its own; a text when that fails."""
    command = [sys.executable, __file__, "--one", kind, str(nodes), recipe, *(["--whole"] if whole else [])]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return f"more than {limit:.0f} s"
    lines = done.stdout.splitlines()
    found: dict[str, float] = json.loads(lines[-1]) if done.returncode == 0 else {}
    return found or (done.stderr.splitlines() or ["failed"])[-1][:100]


def measure(kind: str, recipe: str, sizes: Sequence[int], limit: float, *, whole: bool) -> None:
    """Print one line for each size."""
    first = 0.0
    for nodes in sizes:
        found = child(kind, nodes, recipe, limit, whole=whole)
        head = f"{kind:12s} {recipe:16s} {'apply' if whole else 'passes':6s} {nodes:6d}"
        if isinstance(found, str):
            print(f"{head}  {found}", flush=True)
            return
        each = found["seconds"] / nodes
        first = first or each
        numbers = f"{found['seconds']:8.2f} s {1e3 * each:7.3f} ms/node {each / first:6.2f}"
        print(f"{head} {numbers} {found['peak'] / 1e6:7.0f} MB", flush=True)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", default="1000,4000,16000")
    parser.add_argument("--graphs", default=",".join(name for name in GRAPHS if name != "dense-whole"))
    parser.add_argument("--recipes", default=",".join(RECIPES))
    parser.add_argument("--whole", action="store_true", help="time onnxcompress.apply, not the passes alone")
    parser.add_argument("--limit", type=float, default=600, help="seconds for each run")
    parser.add_argument("--one", nargs=3, metavar=("GRAPH", "NODES", "RECIPE"), help="run once and print JSON")
    options = parser.parse_args()
    if options.one:
        kind, nodes, recipe = options.one
        print(json.dumps(run(kind, int(nodes), recipe, whole=options.whole)))
        return 0
    for kind in options.graphs.split(","):
        for recipe in options.recipes.split(","):
            measure(kind, recipe, [int(n) for n in options.nodes.split(",")], options.limit, whole=options.whole)
    return 0


if __name__ == "__main__":
    sys.exit(main())
