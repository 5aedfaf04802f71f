"""Random networks out of the operators that have a rule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

SIZE = 6


@dataclass
class Builder:
    """Grows a graph of (N, C, 6, 6) tensors, always from tensors that are there."""

    random: np.random.Generator
    opset: int = 18
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)
    channels: dict[str, int] = field(default_factory=lambda: {"x": 3})

    def node(self, op: str, inputs: list[str], count: int = 1, **attributes: object) -> list[str]:
        outputs = [f"t{len(self.nodes)}_{i}" for i in range(count)]
        self.nodes.append(helper.make_node(op, inputs, outputs, **attributes))
        return outputs

    def weight(self, array: np.ndarray) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def drawn(self, *shape: int) -> str:
        return self.weight(
            (self.random.standard_normal(shape) / np.sqrt(max(np.prod(shape[1:]), 1))).astype(np.float32)
        )

    def pick(self) -> str:
        names = list(self.channels)
        return names[-1 - min(int(self.random.geometric(0.5)) - 1, len(names) - 1)]

    def conv(self, x: str) -> tuple[str, int]:
        c, out, kernel = self.channels[x], int(self.random.integers(2, 10)), int(self.random.choice([1, 3]))
        inputs = [x, self.drawn(out, c, kernel, kernel)] + ([self.drawn(out)] if self.random.random() < 0.5 else [])
        return self.node("Conv", inputs, pads=[kernel // 2] * 4)[0], out

    def depthwise(self, x: str) -> tuple[str, int]:
        c, times = self.channels[x], int(self.random.integers(1, 3))
        return self.node("Conv", [x, self.drawn(c * times, 1, 3, 3)], group=c, pads=[1] * 4)[0], c * times

    def grouped(self, x: str) -> tuple[str, int]:
        c = self.channels[x]
        groups = int(self.random.choice([g for g in range(1, c + 1) if c % g == 0]))
        out = groups * int(self.random.integers(1, 4))
        return self.node("Conv", [x, self.drawn(out, c // groups, 1, 1), self.drawn(out)], group=groups)[0], out

    def transposed(self, x: str) -> tuple[str, int]:
        c, out = self.channels[x], int(self.random.integers(2, 8))
        return self.node("ConvTranspose", [x, self.drawn(c, out, 3, 3), self.drawn(out)], pads=[1] * 4)[0], out

    def activation(self, x: str) -> tuple[str, int]:
        op = str(self.random.choice(["Relu", "Sigmoid", "LeakyRelu", "HardSwish", "Tanh", "Erf"]))
        op = "HardSigmoid" if op == "HardSwish" and self.opset < 14 else op
        return self.node(op, [x])[0], self.channels[x]

    def batch_norm(self, x: str) -> tuple[str, int]:
        c = self.channels[x]
        variance = self.weight((np.abs(self.random.standard_normal(c)) + 0.5).astype(np.float32))
        parameters = [self.drawn(c), self.drawn(c), self.drawn(c), variance]
        return self.node("BatchNormalization", [x, *parameters])[0], c

    def add(self, x: str) -> tuple[str, int]:
        same = [name for name, c in self.channels.items() if c == self.channels[x]]
        op = str(self.random.choice(["Add", "Mul", "Sub", "Max"]))
        return self.node(op, [x, str(self.random.choice(same))])[0], self.channels[x]

    def scale(self, x: str) -> tuple[str, int]:
        c = self.channels[x]
        return self.node(str(self.random.choice(["Add", "Mul"])), [x, self.drawn(1, c, 1, 1)])[0], c

    def concat(self, x: str) -> tuple[str, int]:
        parts = [x, *(self.pick() for _ in range(int(self.random.integers(1, 3))))]
        return self.node("Concat", parts, axis=1)[0], sum(self.channels[p] for p in parts)

    def split(self, x: str) -> tuple[str, int]:
        c = self.channels[x]
        if c < 2:
            return self.activation(x)
        first = int(self.random.integers(1, c))
        if self.opset < 13:
            one, other = self.node("Split", [x], 2, axis=1, split=[first, c - first])
        else:
            one, other = self.node("Split", [x, self.weight(np.array([first, c - first]))], 2, axis=1)
        self.channels[one] = first
        return other, c - first

    def shuffle(self, x: str) -> tuple[str, int]:
        c = self.channels[x]
        g = int(self.random.choice([d for d in range(1, c + 1) if c % d == 0]))
        five = self.node("Reshape", [x, self.weight(np.array([0, g, c // g, SIZE, SIZE]))])[0]
        turned = self.node("Transpose", [five], perm=[0, 2, 1, 3, 4])[0]
        return self.node("Reshape", [turned, self.weight(np.array([0, -1, SIZE, SIZE]))])[0], c

    def slice(self, x: str) -> tuple[str, int]:
        c = self.channels[x]
        start, step = int(self.random.integers(0, c)), int(self.random.choice([1, 1, 2, -1]))
        ends = [self.weight(np.array([v])) for v in (start, c if step > 0 else -c - 1, 1, step)]
        return self.node("Slice", [x, *ends])[0], len(range(c)[start::step])

    def gather(self, x: str) -> tuple[str, int]:
        order = self.random.permutation(self.channels[x])
        return self.node("Gather", [x, self.weight(order)], axis=1)[0], self.channels[x]

    def pad(self, x: str) -> tuple[str, int]:
        before, after = (int(v) for v in self.random.integers(0, 3, 2))
        pads = [0, before, 0, 0, 0, after, 0, 0]
        if self.opset < 11:
            return self.node("Pad", [x], pads=pads)[0], self.channels[x] + before + after
        return self.node("Pad", [x, self.weight(np.array(pads))])[0], self.channels[x] + before + after

    def pool(self, x: str) -> tuple[str, int]:
        op = str(self.random.choice(["MaxPool", "AveragePool"]))
        return self.node(op, [x], kernel_shape=[3, 3], pads=[1] * 4)[0], self.channels[x]

    def gate(self, x: str) -> tuple[str, int]:
        c, inner = self.channels[x], int(self.random.integers(1, 5))
        pooled = self.node("GlobalAveragePool", [x])[0]
        squeezed = self.node("Relu", self.node("Conv", [pooled, self.drawn(inner, c, 1, 1)]))[0]
        gate = self.node("Sigmoid", self.node("Conv", [squeezed, self.drawn(c, inner, 1, 1), self.drawn(c)]))[0]
        return self.node("Mul", [x, gate])[0], c

    def instance_norm(self, x: str) -> tuple[str, int]:
        c = self.channels[x]
        return self.node("InstanceNormalization", [x, self.drawn(c), self.drawn(c)])[0], c

    def softmax(self, x: str) -> tuple[str, int]:
        return self.node("Softmax", [x], axis=int(self.random.choice([1, 3])))[0], self.channels[x]


STEPS: tuple[Callable[[Builder, str], tuple[str, int]], ...] = (
    Builder.conv, Builder.conv, Builder.conv, Builder.depthwise, Builder.grouped, Builder.transposed,
    Builder.activation, Builder.activation, Builder.batch_norm, Builder.add, Builder.add, Builder.scale,
    Builder.concat, Builder.split, Builder.shuffle, Builder.slice, Builder.gather, Builder.pad, Builder.pool,
    Builder.gate, Builder.instance_norm, Builder.softmax,
)  # fmt: skip


def random_graph(seed: int, length: int = 12, opset: int = 18) -> ir.Model:
    """Build a network from a seed: a stem, `length` random steps, a head that reads the last few tensors.

    Opset 10 or later.
    """
    builder = Builder(np.random.default_rng(seed), opset)
    stem, builder_channels = builder.conv("x")
    builder.channels[stem] = builder_channels
    del builder.channels["x"]
    for _ in range(length):
        step = STEPS[int(builder.random.integers(len(STEPS)))]
        name, channels = step(builder, builder.pick())
        builder.channels[name] = channels
        if channels > 40:
            del builder.channels[name]
    last = list(builder.channels)[-2:]
    joined = builder.node("Concat", last, axis=1)[0]
    width = sum(builder.channels[name] for name in last)
    pooled = builder.node("Flatten", builder.node("GlobalAveragePool", [joined]))[0]
    bias = [] if opset >= 11 else [builder.drawn(4)]
    builder.nodes.append(helper.make_node("Gemm", [pooled, builder.drawn(width, 4), *bias], ["y"]))
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, SIZE, SIZE])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])]
    graph = helper.make_graph(builder.nodes, "random", inputs, outputs, builder.weights)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    onnx.checker.check_model(proto, full_check=True)
    return ir.from_proto(proto)
