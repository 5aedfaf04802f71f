"""The rules, by name: each takes the model and the target, and yields what it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import onnx_ir as ir

from ..graph import edit
from ..graph.constants import find, is_constant
from ..graph.layer import Layer
from ..graph.operators import INTEGER_OPERATORS
from ..graph.shapes import FLOATS
from . import lacking, storage
from .finding import Finding
from .quantized import (
    DEQUANTIZE,
    QUANTIZE,
    Quantized,
    dequantize_of,
    dequantized_type,
    same_grid,
)
from .storage import effect
from .target import Target

Findings = Iterator[Finding]

CLOSE = 1e-4
"""Relative difference between a bias' scale and the product of the others that float32 explains, with room."""


def opset(model: Quantized, target: Target) -> Findings:
    """Find a version of ONNX's operators outside the range."""
    version = model.model.graph.opset_imports.get("", target.opset.min)
    if not target.opset.min <= version <= target.opset.max:
        reason = f"opset {version}; it takes {target.opset.min} to {target.opset.max}"
        yield Finding("opset", effect(target.opset), "model", reason)


def bias_format(model: Quantized, target: Target) -> Findings:
    """Find biases stored otherwise than the engine wants."""
    kind = effect(target.bias)
    for tensor in model.stored:
        if tensor.role == "bias" and target.bias.format == "float":
            reason = f"a bias of {tensor.dtype} behind a DequantizeLinear; it takes a float one"
            yield Finding("bias", kind, edit.label(tensor.node), reason)
        elif tensor.role == "bias" and tensor.dtype != "int32":
            yield Finding("bias", kind, edit.label(tensor.node), f"its bias is {tensor.dtype}; it takes int32")
    if target.bias.format == "float":
        return
    for node in model.nodes:
        layer = Layer.of(node, among=target.bias.required)
        if layer is None or layer.bias_value is None or _completed(node, target):
            continue
        if all(map(dequantize_of, (layer.data, layer.value))) and dequantize_of(layer.bias_value) is None:
            yield Finding("bias", kind, edit.label(node), "its bias is float; it takes int32 behind a DequantizeLinear")


def bias_scale(model: Quantized, target: Target) -> Findings:
    """Find int32 biases whose grid is not that of the sums they are added to."""
    for node in model.nodes:
        layer = Layer.of(node, among=target.bias.required)
        if layer is None or layer.bias_value is None or target.bias.format == "float":
            continue
        sources = [dequantize_of(value) for value in (layer.data, layer.value, layer.bias_value)]
        bias = sources[2]
        if bias is None or dequantized_type(bias) != "int32" or sources[0] is None or sources[1] is None:
            continue
        found = [find(source.inputs[1]) for source in sources if source is not None]
        zero = find(bias.inputs[2]) if len(bias.inputs) > 2 else None
        if zero is not None and zero.any():
            yield Finding("bias-scale", effect(target.bias), edit.label(node), "the zero point of its bias is not 0")
        if any(scale is None for scale in found):
            continue
        x, w, b = (np.asarray(scale, np.float64).reshape(-1) for scale in found)
        if b.size not in (1, w.size, max(x.size * w.size, 1)) or not np.allclose(b, x * w, rtol=CLOSE, atol=0):
            reason = f"the scale of its bias is {b[0]:g}, and that of its input times that of its weight {(x * w)[0]:g}"
            yield Finding("bias-scale", effect(target.bias), edit.label(node), reason)


def mixed(model: Quantized, target: Target) -> Findings:
    """Find operators of which one operand is stored as integers and the other is float."""
    for node in model.nodes:
        layer = Layer.of(node)
        if layer is None or layer.op not in target.operators.integer:
            continue
        sources = [dequantize_of(value) for value in (layer.data, layer.value)]
        source = sources[0] or sources[1]
        if all(sources) or source is None:
            continue
        block_types = target.blocks.dtypes if target.blocks is not None else []
        told = edit.int_attribute(source, "block_size", 0) and dequantized_type(source) not in block_types
        if told or storage.weight_only(source, target):
            continue
        have, lack = ("activation", "weight") if sources[0] else ("weight", "activation")
        if have == "activation" and not is_constant(layer.value):
            lack = "second operand"
        if lack == "weight" and _completed(node, target):
            reason = "its weight is float, and the engine stores it as integers with one scale for all channels"
            yield Finding("mixed", "advice", edit.label(node), reason)
            continue
        reason = f"its {have} is stored as integers and its {lack} is float: computed in float"
        yield Finding("mixed", "float", edit.label(node), reason)


def _completed(node: ir.Node, target: Target) -> bool:
    """Tell whether the engine itself stores a node's float weight and bias as integers; not beside a stored bias."""
    layer = Layer.of(node)
    if layer is not None and dequantize_of(layer.bias_value) is not None:
        return False
    between_integers = dequantize_of(node.inputs[0]) is not None and _quantizes(_behind(node, target)) is not None
    return edit.op_of(node) in target.operators.completes and between_integers


def outputs(model: Quantized, target: Target) -> Findings:
    """Find operators that read integers and whose output does not go to a QuantizeLinear alone."""
    for node in model.nodes:
        op = edit.op_of(node)
        if op not in target.operators.integer or op in target.operators.float_output or not _reads_integers(node):
            continue
        out = _behind(node, target)
        if _quantizes(out) is None:
            reason = f"its output is not quantized ({out.name}): computed in float"
            yield Finding("output", "float", edit.label(node), reason)


def _data(node: ir.Node) -> list[ir.Value]:
    """Return the inputs of floats: those that decide whether a node computes on integers."""
    return [value for value in node.inputs[:2] if value is not None and (value.dtype in FLOATS or value.dtype is None)]


def _reads_integers(node: ir.Node) -> bool:
    data = _data(node)
    return bool(data) and all(dequantize_of(value) is not None for value in data)


def _behind(node: ir.Node, target: Target) -> ir.Value:
    """Return a node's output, behind what the engine fuses into the node."""
    out = node.outputs[0]
    while (reader := _only_reader(out)) is not None and edit.op_of(reader) in target.operators.fused:
        out = reader.outputs[0]
    return out


def _only_reader(value: ir.Value) -> ir.Node | None:
    uses = list(value.uses())
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None


def _quantizes(value: ir.Value) -> ir.Node | None:
    """Return the QuantizeLinear that alone reads a value."""
    reader = _only_reader(value)
    return reader if reader is not None and edit.op_of(reader) in QUANTIZE else None


def _dequantizes(value: ir.Value | None) -> ir.Node | None:
    producer = None if value is None else value.producer()
    return producer if producer is not None and edit.op_of(producer) in DEQUANTIZE else None


def moves(model: Quantized, target: Target) -> Findings:
    """Find data movement with another scale or zero point behind it than before it."""
    for node in model.nodes:
        before = _dequantizes(node.inputs[0]) if node.inputs else None
        if edit.op_of(node) not in target.operators.moves or before is None:
            continue
        for out in node.outputs:
            after = _quantizes(out)
            if after is not None and not same_grid(before, after):
                reason = "it moves integers as they are, and the scale or zero point behind it is another one"
                yield Finding("move", "float", edit.label(node), reason)


def stray(model: Quantized, target: Target) -> Findings:
    """Find pairs of QuantizeLinear and DequantizeLinear that no operator on integers reads or writes."""
    takes = {*target.operators.integer, *target.operators.moves, *target.operators.fused, *INTEGER_OPERATORS}
    for node in model.nodes:
        if edit.op_of(node) not in QUANTIZE or is_constant(node.inputs[0]):
            continue
        pairs = [use.node for use in node.outputs[0].uses()]
        if not pairs or any(edit.op_of(pair) not in DEQUANTIZE for pair in pairs) or node.outputs[0].is_graph_output():
            continue
        producer = node.inputs[0].producer() if node.inputs[0] is not None else None
        if producer is not None and (edit.op_of(producer) in takes or any(map(_dequantizes, producer.inputs))):
            continue
        users = [use.node for pair in pairs for use in pair.outputs[0].uses()]
        quantized_again = any(_quantizes(out) for user in users for out in user.outputs)
        if not quantized_again and not any(edit.op_of(user) in takes for user in users):
            reason = "neither what writes it nor what reads it computes on integers: it only costs time"
            yield Finding("stray", "float", edit.label(node), reason)


def between(model: Quantized, target: Target) -> Findings:
    """Find operators between DequantizeLinear and QuantizeLinear that the engine does not compute on integers."""
    takes = {*target.operators.integer, *target.operators.moves, *target.operators.fused}
    skipped = takes | QUANTIZE | DEQUANTIZE | INTEGER_OPERATORS | set(target.operators.rejected)
    for node in model.nodes:
        if edit.op_of(node) in skipped or not any(_dequantizes(value) for value in node.inputs):
            continue
        if any(_quantizes(out) for out in node.outputs):
            reason = "it stands between integers, and is computed in float"
            yield Finding("between", "float", edit.label(node), reason)


def left_in_float(model: Quantized, target: Target) -> Findings:
    """Find operators that the engine computes on integers, and that read floats only."""
    for node in model.nodes:
        data = _data(node)
        if edit.op_of(node) not in target.operators.integer or all(is_constant(value) for value in data):
            continue
        known = [value.dtype for value in (*data, *node.outputs[:1]) if value.dtype is not None]
        if any(dtype not in FLOATS for dtype in known) or any(dequantize_of(value) for value in data):
            continue
        producer = data[0].producer()
        if edit.op_of(node) in target.operators.fused and producer is not None:
            continue
        yield Finding("float", "float", edit.label(node), "its inputs are float; it could compute on integers")


RULES: Mapping[str, Callable[[Quantized, Target], Findings]] = {
    "opset": opset,
    "operator": lacking.operators,
    "type": storage.types,
    "pair": storage.pairs,
    "zero-point": storage.zero_points,
    "granularity": storage.granularity,
    "axis": storage.axes,
    "block": storage.blocks,
    "scale": storage.scales,
    "power-of-two": storage.powers_of_two,
    "bias": bias_format,
    "bias-scale": bias_scale,
    "range": storage.ranges,
    "mixed": mixed,
    "output": outputs,
    "move": moves,
    "stray": stray,
    "between": between,
    "float": left_in_float,
}
