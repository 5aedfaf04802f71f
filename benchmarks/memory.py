"""Peak memory of `onnxcompress.apply` on a large transformer, over the bytes of its weights; each in its own process.

    python benchmarks/memory.py [--gigabytes 1.2] [--recipes shrink,prune+shrink,quantize-weights]

The model lies in an external data file, which is written once and mapped. The peak is what the process holds at most,
the pages of mapped files included, which the system may take back. The goal is 1.5 times the weights plus .5 GB.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from onnxcompress import apply
from onnxcompress.contract import Pass
from onnxcompress.passes import PruneChannels, QuantizeWeights, Shrink

WIDTH = 1024
RECIPES: dict[str, Callable[[], list[Pass]]] = {
    "shrink": lambda: [Shrink()],
    "prune+shrink": lambda: [PruneChannels(sparsity=0.25), Shrink()],
    "quantize-weights": lambda: [QuantizeWeights()],
    "quantize-4-bits": lambda: [QuantizeWeights(dtype="uint4", block_size=32)],
}
FACTOR, SPARE = 1.5, 0.5e9


class Writer:
    """Writes weights into a data file as they are drawn, so that no more than one of them is in memory."""

    def __init__(self, folder: Path) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.bytes = 0
        self._data = (folder / "model.data").open("wb")
        self._random = np.random.default_rng(0)

    def weight(self, *shape: int) -> str:
        """Add a weight."""
        array = self._random.standard_normal(shape, np.float32) / np.float32(np.sqrt(shape[0]))
        name = f"w{len(self.weights)}"
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL)
        for key, value in (("location", "model.data"), ("offset", self.bytes), ("length", array.nbytes)):
            tensor.external_data.add(key=key, value=str(value))
        self._data.write(array.tobytes())
        self.bytes += array.nbytes
        self.weights.append(tensor)
        return name

    def small(self, array: np.ndarray) -> str:
        """Add a constant to the model's own file."""
        name = f"w{len(self.weights)}"
        self.weights.append(onnx.numpy_helper.from_array(array, name))
        return name

    def add(self, op: str, *inputs: str, **attributes: object) -> str:
        """Add a node and return its output."""
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=f"n{len(self.nodes)}", **attributes))
        return name

    def linear(self, x: str, rows: int, columns: int) -> str:
        """Add a matrix product with a bias."""
        return self.add("Add", self.add("MatMul", x, self.weight(rows, columns)), self.weight(columns))

    def close(self) -> None:
        """Finish the data file."""
        self._data.close()


def block(net: Writer, x: str) -> str:
    """Add a block of attention and MLP."""
    ones, zeros = net.small(np.ones(WIDTH, np.float32)), net.small(np.zeros(WIDTH, np.float32))
    y = net.add("LayerNormalization", x, ones, zeros, axis=-1)
    split = net.small(np.array([0, 0, 16, WIDTH // 16]))
    heads = [
        net.add("Transpose", net.add("Reshape", net.linear(y, WIDTH, WIDTH), split), perm=perm)
        for perm in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
    ]
    scale = net.small(np.array((WIDTH // 16) ** -0.5, np.float32))
    scores = net.add("Softmax", net.add("Mul", net.add("MatMul", heads[0], heads[1]), scale), axis=-1)
    mixed = net.add("Transpose", net.add("MatMul", scores, heads[2]), perm=[0, 2, 1, 3])
    flat = net.add("Reshape", mixed, net.small(np.array([0, 0, WIDTH])))
    x = net.add("Add", x, net.linear(flat, WIDTH, WIDTH))
    y = net.add("LayerNormalization", x, ones, zeros, axis=-1)
    return net.add("Add", x, net.linear(net.add("Relu", net.linear(y, WIDTH, 4 * WIDTH)), 4 * WIDTH, WIDTH))


def write(folder: Path, size: float) -> int:
    """Write a transformer of about so many bytes of weights; returns how many there are."""
    net = Writer(folder)
    x = net.linear("x", 64, WIDTH)
    while net.bytes < size:
        x = block(net, x)
    net.linear(x, WIDTH, 64)
    net.close()
    net.nodes[-1].output[0] = "y"
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 16, 64])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 16, 64])]
    graph = helper.make_graph(net.nodes, "transformer", inputs, outputs, net.weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, folder / "model.onnx")
    return net.bytes


def run(path: Path, recipe: str) -> dict[str, float]:
    """Run one recipe and save what comes out; bytes at the peak and CPU seconds."""
    with tempfile.TemporaryDirectory() as folder:
        apply(path, RECIPES[recipe](), output=Path(folder, "small.onnx"))
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {"peak": usage.ru_maxrss * 1024, "seconds": usage.ru_utime + usage.ru_stime}


def main() -> int:
    """Print one line for each recipe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1.2)
    parser.add_argument("--recipes", default=",".join(RECIPES))
    parser.add_argument("--one", nargs=2, metavar=("MODEL", "RECIPE"), help="run once and print JSON")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(run(Path(options.one[0]), options.one[1])))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        size = write(Path(folder), options.gigabytes * 1e9)
        goal = FACTOR * size + SPARE
        print(f"weights {size / 1e9:.2f} GB, goal {goal / 1e9:.2f} GB")
        for recipe in options.recipes.split(","):
            command = [sys.executable, __file__, "--one", str(Path(folder, "model.onnx")), recipe]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found = json.loads(done.stdout.splitlines()[-1])
            ratio = found["peak"] / goal
            print(
                f"{recipe:18s} {found['peak'] / 1e9:5.2f} GB {ratio:5.2f} of the goal {found['seconds']:7.1f} s CPU",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
