"""Time the group analysis on a large graph, beside what loading and checking the same graph costs.

    python benchmarks/groups.py [--nodes 10000] [--width 64]

The graph is a deep residual network with BatchNormalization, a Concat and a channel shuffle in every block.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from onnxcompress.channels.groups import find_groups

BLOCK = 8


def block(number: int, width: int, weights: list[onnx.TensorProto]) -> list[onnx.NodeProto]:
    """Return one block of eight nodes that reads ``r{number}`` and makes ``r{number + 1}``."""

    def weight(name: str, *shape: int) -> str:
        weights.append(numpy_helper.from_array(np.full(shape, 0.1, np.float32), f"{name}{number}"))
        return f"{name}{number}"

    half = width // 2
    norm = [weight(name, half) for name in ("scale", "shift", "mean", "var")]
    steps = [
        ("Conv", [f"r{number}", weight("w", half, width, 1, 1)], {}),
        ("BatchNormalization", ["", *norm], {}),
        ("Relu", [""], {}),
        ("Concat", ["", ""], {"axis": 1}),
        ("Reshape", ["", "five"], {}),
        ("Transpose", [""], {"perm": [0, 2, 1, 3, 4]}),
        ("Reshape", ["", "four"], {}),
        ("Add", ["", f"r{number}"], {}),
    ]
    nodes, last = [], ""
    for step, (op, inputs, attributes) in enumerate(steps):
        out = f"r{number + 1}" if step == BLOCK - 1 else f"t{number}_{step}"
        nodes.append(helper.make_node(op, [name or last for name in inputs], [out], **attributes))
        last = out
    return nodes


def build(nodes: int, width: int) -> ir.Model:
    """Build the network with about `nodes` nodes."""
    sizes = {"five": [0, 2, width // 2, 4, 4], "four": [0, width, 4, 4]}
    weights = [numpy_helper.from_array(np.array(size), name) for name, size in sizes.items()]
    stem, head = np.full((width, 3, 1, 1), 0.1, np.float32), np.full((5, width, 1, 1), 0.1, np.float32)
    weights += [numpy_helper.from_array(stem, "stem"), numpy_helper.from_array(head, "head")]
    depth = nodes // BLOCK
    body = [helper.make_node("Conv", ["x", "stem"], ["r0"])]
    for number in range(depth):
        body += block(number, width, weights)
    body.append(helper.make_node("Conv", [f"r{depth}", "head"], ["y"]))
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 4, 4])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 5, 4, 4])]
    graph = helper.make_graph(body, "deep", inputs, outputs, weights)
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9))


def main() -> int:
    """Print seconds, their ratio to the ONNX checker's, and peak memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=64)
    options = parser.parse_args()
    model = build(options.nodes, options.width)
    start = time.process_time()
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    checked = time.process_time()
    groups = find_groups(model)
    found = time.process_time()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    seconds, check = found - checked, checked - start
    print(f"{len(list(model.graph))} nodes, {len(groups.prunable)} groups: analysis {seconds:.2f} s of CPU,")
    print(f"{seconds / check:.1f} times what the full check takes; peak {peak:.2f} GB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
