"""A model with noise as large as eight bits make it, on every tensor: what quantization may do to its outputs."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE}
LEVELS = 127.0


def noisy(model: onnx.ModelProto, draws: int = 3) -> list[onnx.ModelProto]:
    """Return copies whose weights and tensors carry uniform noise of one step of 255 on each."""
    return [_copy(model, seed) for seed in range(draws)]


def _copy(model: onnx.ModelProto, seed: int) -> onnx.ModelProto:
    random = np.random.default_rng(seed)
    copy = onnx.shape_inference.infer_shapes(model)
    outputs = {value.name for value in copy.graph.output}
    kinds = {v.name: v.type.tensor_type.elem_type for v in (*copy.graph.value_info, *copy.graph.output)}
    for tensor in copy.graph.initializer:
        if tensor.data_type in FLOATS and len(tensor.dims) > 1:
            array = numpy_helper.to_array(tensor)
            step = float(np.abs(array).max(initial=0)) / LEVELS
            changed = (array + random.uniform(-step, step, array.shape)).astype(array.dtype)
            tensor.CopyFrom(numpy_helper.from_array(changed, tensor.name))
    nodes = []
    varying = {value.name for value in copy.graph.input} - {tensor.name for tensor in copy.graph.initializer}
    for node in copy.graph.node:
        nodes.append(node)
        if not varying.intersection(_read(node)):
            continue
        varying.update(node.output)
        for place, name in enumerate(node.output):
            if kinds.get(name) in FLOATS and name not in outputs:
                node.output[place] = f"{name} before"
                nodes += _added(name, kinds[name], int(random.integers(1 << 20)))
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    return copy


def _read(node: onnx.NodeProto) -> set[str]:
    """Return what a node reads, its inner graphs included."""
    inner = [n for a in node.attribute if a.HasField("g") for n in a.g.node]
    return {*node.input}.union(*map(_read, inner))


def _added(name: str, kind: int, seed: int) -> list[onnx.NodeProto]:
    """Write noise up to one step of the tensor's own range, added to it."""
    before = f"{name} before"
    unit = numpy_helper.from_array(np.array(1 / LEVELS, helper.tensor_dtype_to_np_dtype(kind)))
    return [
        helper.make_node("Abs", [before], [f"{name} abs"]),
        helper.make_node("ReduceMax", [f"{name} abs"], [f"{name} top"], keepdims=0),
        helper.make_node("Constant", [], [f"{name} unit"], value=unit),
        helper.make_node("Mul", [f"{name} top", f"{name} unit"], [f"{name} step"]),
        helper.make_node("RandomUniformLike", [before], [f"{name} drawn"], low=-1.0, high=1.0, seed=float(seed)),
        helper.make_node("Mul", [f"{name} drawn", f"{name} step"], [f"{name} noise"]),
        helper.make_node("Add", [before, f"{name} noise"], [name]),
    ]
