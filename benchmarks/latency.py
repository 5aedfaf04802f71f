"""Time models side by side with themselves after half of their multiply-accumulates were taken away.

    python benchmarks/latency.py [MODEL.onnx ...] [--share 0.5] [--round-to 8] [--seconds 20]

Without a model: one with the structure of ResNet-50 (He et al., arXiv:1512.03385) and random weights, for 224 × 224
images. Both run in ONNX Runtime, taking turns; the ratio is the original's time over the pruned one's, with a 95 %
interval. Weights are random and nothing is trained: this says what half of the work costs, not what it is worth.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

import onnxcompress
from onnxcompress.evaluation.timing import time_models
from onnxcompress.passes import FoldBatchNorm, FoldConstants, PruneChannels, Shrink

DEPTHS = (3, 4, 6, 3)
EXPANSION = 4


@dataclass
class Builder:
    """Adds layers with random weights."""

    random: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)

    def weight(self, array: np.ndarray) -> str:
        """Add an initializer."""
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array.astype(np.float32), name))
        return name

    def node(self, op: str, *inputs: str, **attributes: object) -> str:
        """Add a node with one output."""
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], **attributes))
        return name

    def conv(self, x: str, inputs: int, outputs: int, kernel: int, stride: int = 1) -> str:
        """Add a convolution without bias, and its BatchNormalization."""
        weight = self.random.standard_normal((outputs, inputs, kernel, kernel)) * np.sqrt(2 / (inputs * kernel**2))
        pads = [kernel // 2] * 4
        y = self.node("Conv", x, self.weight(weight), pads=pads, strides=[stride, stride])
        norm = [self.random.uniform(low, high, outputs) for low, high in ((0.5, 1), (-0.2, 0.2), (-0.2, 0.2), (0.5, 1))]
        return self.node("BatchNormalization", y, *(self.weight(parameter) for parameter in norm))

    def bottleneck(self, x: str, inputs: int, width: int, stride: int) -> str:
        """Add 1 × 1, 3 × 3 and 1 × 1 convolutions beside a shortcut."""
        outputs = width * EXPANSION
        y = self.node("Relu", self.conv(x, inputs, width, 1))
        y = self.node("Relu", self.conv(y, width, width, 3, stride))
        y = self.conv(y, width, outputs, 1)
        shortcut = x if inputs == outputs and stride == 1 else self.conv(x, inputs, outputs, 1, stride)
        return self.node("Relu", self.node("Add", y, shortcut))


def resnet50() -> ir.Model:
    """Build the network."""
    builder = Builder(np.random.default_rng(0))
    x = builder.node("Relu", builder.conv("image", 3, 64, 7, 2))
    x = builder.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    channels = 64
    for stage, depth in enumerate(DEPTHS):
        width = 64 << stage
        for block in range(depth):
            x = builder.bottleneck(x, channels, width, 2 if block == 0 and stage else 1)
            channels = width * EXPANSION
    x = builder.node("Flatten", builder.node("GlobalAveragePool", x))
    head = [builder.weight(builder.random.standard_normal((1000, channels)) / 50), builder.weight(np.zeros(1000))]
    builder.nodes.append(helper.make_node("Gemm", [x, *head], ["logits"], transB=1))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 224, 224])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 1000])
    graph = helper.make_graph(builder.nodes, "resnet50", [image], [logits], builder.weights)
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def compare(name: str, model: ir.Model, share: float, round_to: int, seconds: float) -> None:
    """Prune a model, and print how much faster it got."""
    prune = PruneChannels(sparsity=share, budget="macs", round_to=round_to)
    small, report = onnxcompress.apply(model, [FoldConstants(), FoldBatchNorm(), prune, Shrink()])
    left = report.stages[-1].macs / max(report.stages[0].macs, 1)
    timing = time_models([model, small], seconds=seconds)[1]
    low, high = 1 / timing.ratio_high, 1 / timing.ratio_low
    print(f"{name}: MACs left {left:.3f}, {1 / timing.ratio:.2f} times as fast [{low:.2f}, {high:.2f}]", flush=True)
    for line in report.steps[2].refused:
        if line.subject == "model":
            print(f"    {line.reason}")


def main() -> int:
    """Print one line for each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--share", type=float, default=0.5, help="of the multiply-accumulates to take away")
    parser.add_argument("--round-to", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    for path in options.models:
        try:
            compare(path, onnxcompress.load(path), options.share, options.round_to, options.seconds)
        except onnxcompress.OnnxCompressError as error:
            print(f"{path}: {error}", flush=True)
    if not options.models:
        compare("ResNet-50's structure", resnet50(), options.share, options.round_to, options.seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
