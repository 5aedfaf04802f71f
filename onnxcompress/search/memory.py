"""The memory of a run, estimated on the graph: the weights, and the most bytes of tensors that live at once."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import onnx_ir as ir

from ..graph import edit, shapes
from ..graph.save import weights
from ..kinds import working_copy

FUSED = {"DequantizeLinear"}
"""What is no tensor of its own where an integer kernel reads what it reads."""


def peak_bytes(model: ir.Model, sizes: Mapping[str, tuple[int, ...]] | None = None) -> int:
    """Return the weights as they are stored, and the most that tensors of one sample take at once.

    Tensors between DequantizeLinear and QuantizeLinear are counted as the integers that they are in an engine that
    fuses them.
    """
    model = working_copy(model)
    extents = shapes.concrete(model, sizes).shapes
    last: dict[ir.Value, int] = {}
    nodes = list(model.graph)
    for place, node in enumerate(nodes):
        last |= {value: place for value in node.inputs if value is not None}
    last |= dict.fromkeys(model.graph.outputs, len(nodes))
    live = peak = sum(_bytes(value, extents) for value in model.graph.inputs if value.const_value is None)
    for place, node in enumerate(nodes):
        live += sum(_bytes(value, extents) for value in node.outputs)
        peak = max(peak, live)
        read = {value for value in (*node.inputs, *node.outputs) if value is not None and edit.constant(value) is None}
        live -= sum(_bytes(value, extents) for value in read if last.get(value, place) == place)
    return peak + sum(tensor.nbytes for tensor in weights(model))


def _bytes(value: ir.Value, extents: Mapping[ir.Value, tuple[int, ...]]) -> int:
    producer = value.producer()
    if producer is not None and producer.op_type in FUSED:
        return 0
    readers = [node for node, _ in value.uses()]
    quantized = bool(readers) and all(node.op_type == "QuantizeLinear" for node in readers)
    if quantized or value.dtype is None or value not in extents:
        return 0
    return int(prod(extents[value]) * value.dtype.itemsize)
