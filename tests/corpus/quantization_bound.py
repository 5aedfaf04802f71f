"""How far a quantized model may be from the float one: worst case, tensor by tensor, from the plan's scales alone.

Beside each tensor ``x`` of the float model stands a radius ``e ≥ |x_quantized - x|``. A tensor on a grid of step ``s``
adds ``s / 2`` and what the ends of the grid cut off; a weight of step ``s`` is off by ``s / 2`` itself; and what an
operator makes of errors follows from what it computes::

    |(W + dW)(x + e) + b + db - (W x + b)|  <=  |W| e + |dW| (|x| + e) + |db|

Each operator is run by onnxruntime, alone, on radii instead of values. Nothing of the quantizer's code is used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnx import helper, numpy_helper

Array = np.ndarray
GRIDS = {"uint8": (0, 255), "int8": (-128, 127)}

MOVES = {
    "AveragePool", "Concat", "Expand", "Flatten", "Gather", "GlobalAveragePool", "Identity", "Max", "MaxPool", "Pad",
    "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze",
}  # fmt: skip
"""On radii they do as on values: none of their outputs changes by more than the inputs that it is made of."""

STEEPEST = {
    "Clip": 1.0,
    "Erf": 2 / np.sqrt(np.pi),
    "HardSigmoid": 0.2,
    "HardSwish": 1.5,
    "LeakyRelu": 1.0,
    "Relu": 1.0,
    "Sigmoid": 0.25,
    "Tanh": 1.0,
}
"""Lipschitz constants of functions of one number."""


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run_one(node: onnx.NodeProto, inputs: list[Array | None], opset: int) -> list[Array]:
    """Run one operator."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    feeds = {f"i{k}": array for k, array in enumerate(inputs) if array is not None}
    copy.input[:] = ["" if array is None else f"i{k}" for k, array in enumerate(inputs)]
    infos = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in feeds.items()
    ]
    outputs = [onnx.ValueInfoProto(name=name) for name in copy.output if name]
    graph = helper.make_graph([copy], "one", infos, outputs)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return list(session(proto).run(None, feeds))


def all_values(proto: onnx.ModelProto, feeds: dict[str, Array]) -> dict[str, Array]:
    """Return every tensor of a model, by its name."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    known = {output.name for output in copy.graph.output}
    made = [name for node in copy.graph.node for name in node.output if name]
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made if name not in known)
    run = session(copy)
    values = dict(zip([o.name for o in run.get_outputs()], run.run(None, feeds), strict=True))
    return values | {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer} | feeds


class Bound:
    """The worst case for one model, plan and input.

    Attributes
    ----------
    values : dict of str to ndarray
        Each tensor of the float model.
    radii : dict of str to ndarray
        How far the quantized model may be from it, before the tensor is itself put on a grid.
    """

    def __init__(self, model: ir.Model, plan: Any, feeds: dict[str, Array]) -> None:
        self._proto = ir.to_proto(model)
        self._opset = model.opset_imports[""]
        self._grid = GRIDS[plan.scheme.activations]
        self._weights = {weight.node: weight for weight in plan.weights}
        self._operands = {(op.node, op.input): op for op in plan.operands}
        self._everywhere = {a.tensor: a for a in plan.activations if a.readers is None}
        self._read = {reader: a for a in plan.activations if a.readers for reader in a.readers}
        self._fused = {add: conv for conv, add in plan.bias_nodes.items()}
        self.values = all_values(self._proto, feeds)
        self.radii: dict[str, Array] = {name: np.zeros_like(array) for name, array in self.values.items()}
        self._constant = {tensor.name for tensor in self._proto.graph.initializer}
        for node in self._proto.graph.node:
            for name, radius in zip([n for n in node.output if n], self._visit(node), strict=False):
                self.radii[name] = radius

    def read(self, name: str) -> Array:
        """Return the radius of a tensor as the graph's outputs and most nodes see it."""
        point = self._everywhere.get(name)
        return self.radii[name] if point is None else self._on_grid(name, point, self.radii[name])

    def dequantized(self, name: str) -> Array | None:
        """Return the radius of what DequantizeLinear gives for a tensor; None where it is on no grid."""
        found = [a for a in (*self._everywhere.values(), *self._read.values()) if a.tensor == name]
        return self._on_grid(name, found[0], self.radii[name]) if found else None

    def _on_grid(self, name: str, point: Any, radius: Array) -> Array:
        x, scale = self.values[name].astype(np.float64), float(point.scale)
        ends = [(end - point.zero_point) * scale for end in self._grid]
        cut = [np.abs(np.clip(x + sign * radius, *ends) - x) for sign in (-1, 1)]
        return np.maximum(*cut) + scale / 2

    def _input(self, node: onnx.NodeProto, index: int) -> Array:
        name, key = node.input[index], (node.output[0], index)
        if key in self._operands:
            return self._on_grid(name, self._operands[key], self.radii[name])
        radius = self.read(name)
        return self._on_grid(name, self._read[key], radius) if key in self._read else radius

    def _run(self, node: onnx.NodeProto, *inputs: Array | None) -> Array:
        return run_one(node, [None if a is None else a.astype(np.float32) for a in inputs], self._opset)[0]

    def _visit(self, node: onnx.NodeProto) -> list[Array]:
        if all(name in self._constant for name in node.input):
            self._constant.update(node.output)
            return [np.zeros(self.values[name].shape) for name in node.output]
        if node.op_type in MOVES:
            floats = [bool(name) and self.values[name].dtype == np.float32 for name in node.input]
            given = [
                None if not name else self._input(node, k).astype(np.float32) if floats[k] else self.values[name]
                for k, name in enumerate(node.input)
            ]
            return run_one(node, given, self._opset)
        if node.op_type in STEEPEST:
            return [STEEPEST[node.op_type] * self._input(node, 0)]
        return [RULES[node.op_type](self, node)]

    def product(self, node: onnx.NodeProto) -> Array:
        """Conv, ConvTranspose, Gemm and MatMul."""
        x, w = (self.values[node.input[k]] for k in (0, 1))
        dx = self._input(node, 0)
        found = self._weights.get(node.output[0])
        if found is None:
            dw, db = self._input(node, 1), None
        else:
            shape = [1] * w.ndim
            if found.axis is not None:
                shape[found.axis] = -1
            half = found.scale.astype(np.float64).reshape(shape) / 2
            dw, db = np.zeros(w.shape) + half, found.bias_scale
        rest = [np.zeros_like(self.values[node.input[2]])] if len(node.input) > 2 else []
        total = self._run(node, dx, np.abs(w), *rest) + self._run(node, np.abs(x) + dx, dw, *rest)
        if db is not None:
            channels = [1] * total.ndim
            if db.size > 1:
                channels[1 if node.op_type == "Conv" else -1] = -1
            total = total + db.astype(np.float64).reshape(channels) / 2
        return total

    def add(self, node: onnx.NodeProto) -> Array:
        """Add and Sub; of a bias that is part of a Conv or MatMul, the error is counted there."""
        radii = [self._input(node, k) for k in (0, 1)]
        return np.add(*radii)

    def mul(self, node: onnx.NodeProto) -> Array:
        a, b = (np.abs(self.values[name]).astype(np.float64) for name in node.input)
        da, db = (self._input(node, k) for k in (0, 1))
        return a * db + b * da + da * db

    def softmax(self, node: onnx.NodeProto) -> Array:
        """The sum over a row of the Jacobian is ``2 p (1 - p) ≤ 1/2``."""
        axis = next((a.i for a in node.attribute if a.name == "axis"), -1)
        worst = self._input(node, 0).max(axis=axis, keepdims=True) / 2
        return np.minimum(np.zeros(self.values[node.output[0]].shape) + worst, 1)

    def batch_norm(self, node: onnx.NodeProto) -> Array:
        scale, variance = self.values[node.input[1]], self.values[node.input[4]]
        epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
        factor = np.abs(scale.astype(np.float64)) / np.sqrt(variance + epsilon)
        return self._input(node, 0) * factor.reshape(-1, *[1] * (self.radii[node.input[0]].ndim - 2))

    def instance_norm(self, node: onnx.NodeProto) -> Array:
        """``d / s`` with ``d = x - mean`` and ``s = sqrt(var + epsilon)``, which is 1-Lipschitz in the deviations."""
        x, radius = self.values[node.input[0]].astype(np.float64), self._input(node, 0)
        axes = tuple(range(2, x.ndim))
        epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
        d = x - x.mean(axis=axes, keepdims=True)
        s = np.sqrt(np.square(d).mean(axis=axes, keepdims=True) + epsilon)
        moved = radius + radius.mean(axis=axes, keepdims=True)
        wide = np.sqrt(np.square(moved).mean(axis=axes, keepdims=True))
        smallest = np.maximum(s - wide, np.sqrt(epsilon))
        scale = np.abs(self.values[node.input[1]]).reshape(-1, *[1] * len(axes))
        return scale * (moved / smallest + np.abs(d) * wide / (s * smallest))


RULES: dict[str, Callable[[Bound, onnx.NodeProto], Array]] = {
    "Add": Bound.add,
    "BatchNormalization": Bound.batch_norm,
    "Conv": Bound.product,
    "ConvTranspose": Bound.product,
    "Gemm": Bound.product,
    "InstanceNormalization": Bound.instance_norm,
    "MatMul": Bound.product,
    "Mul": Bound.mul,
    "Softmax": Bound.softmax,
    "Sub": Bound.add,
}
