"""Rules for operators that onnxruntime fuses, or adds: products with more in them, activations, mixtures of experts."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..graph import edit
from ..graph.layer import Layer, axes_of
from .engine import Engine, Sink
from .labels import Rows

ACTIVATIONS = ("com.microsoft::BiasGelu", "com.microsoft::FastGelu", "com.microsoft::Gelu", "com.microsoft::QuickGelu")
"""Element-wise, of what is read added up; zero stays zero."""


def nhwc_conv(engine: Engine, node: ir.Node) -> str:
    """Sum over input channels, which come last."""
    layer = Layer(node)
    if layer.groups > 1:
        return "a convolution in groups with channels last"
    axes = axes_of(node, layer.index, len(engine.shape(layer.value)))
    rank = len(engine.shape(layer.data))
    for value, spatial in ((layer.data, range(1, rank - 1)), (layer.value, range(2, rank))):
        engine.freeze_axes(value, spatial, f"{edit.label(node)}: a spatial axis")
    rows = engine.join(node, engine.axes(layer.data)[-1], engine.axes(layer.value)[axes.summed])
    if rows is not None:
        engine.sinks.append(Sink(node, layer.data, rank - 1, layer.value, axes.summed, axes.output, 1, rows))
    out = engine.axes(layer.value)[axes.output]
    if layer.bias_value is not None:
        out = engine.join(node, out, engine.axes(layer.bias_value)[0])
    engine.set(node.outputs[0], [engine.axes(layer.data)[0], *[None] * (rank - 2), out])
    return ""


def mixture_of_experts(engine: Engine, node: ir.Node) -> str:
    """Experts' inner width goes by pairs where gates stand between; which experts there are is the router's choice."""
    read = [node.inputs[index] if index < len(node.inputs) else None for index in range(8)]
    data, _, first, first_bias, second, second_bias, third, third_bias = read
    if data is None or first is None or second is None:
        return "weights are left out"
    width, fused = engine.shape(second)[2], engine.shape(first)[1] // engine.shape(second)[2]
    one = engine.labels.fresh(width)
    halves = edit.int_attribute(node, "swiglu_fusion", 0) == 2  # else what is gated stands beside its gate
    inner: Rows = np.tile(one, fused) if halves else np.repeat(one, fused, axis=1)
    for value, axis, rows in (
        (first, 1, inner),
        (first_bias, 1, inner),
        (third, 1, one),
        (third_bias, 1, one),
        (second, 2, one),
    ):
        if value is not None:
            engine.join(node, engine.axes(value)[axis], rows)
    engine.sinks.append(Sink(node, second, 2, None, 0, 0, 1, one))
    into = engine.axes(data)[-1]
    for weight in (first, third):
        read_by = None if weight is None else engine.join(node, into, engine.axes(weight)[2])
        if read_by is not None and into is not None:
            engine.sinks.append(Sink(node, data, len(engine.shape(data)) - 1, weight, 2, 1, 1, read_by))
    out = engine.join(node, engine.axes(second)[1], into)  # what it gives is as wide as what it reads
    if second_bias is not None:
        out = engine.join(node, out, engine.axes(second_bias)[1])
    for value in read[1:]:
        engine.freeze_axes(value, [-1 if value is read[1] else 0], f"{edit.label(node)}: the router chooses an expert")
    engine.freeze_axes(data, range(len(engine.shape(data)) - 1), f"{edit.label(node)}: each row by itself")
    engine.set(node.outputs[0], [*[None] * (len(engine.shape(data)) - 1), out])
    return ""
