"""Rules about tensors: types, zero points, granularity, scales."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from ..graph import edit
from ..graph.constants import find
from ..graph.layer import Layer, axes_of
from ..graph.operators import PRODUCTS
from .finding import Effect, Finding
from .quantized import DEQUANTIZE, Quantized, Reader, Stored, dequantize_of, dequantized_type, readers
from .target import Section, Target, Tensors

Findings = Iterator[Finding]


def effect(section: Section) -> Effect:
    """Return what breaking a section's rules leads to."""
    return "rejected" if section.outside == "reject" else "float"


def section_of(tensor: Stored, target: Target) -> Tensors | None:
    """Return the rules for a tensor's role; biases have rules of their own."""
    return {"activation": target.activations, "weight": target.weights}.get(tensor.role)


def types(model: Quantized, target: Target) -> Findings:
    """Find activations and weights in types that the engine does not take."""
    for tensor in model.stored:
        section = section_of(tensor, target)
        if section is None or tensor.block or tensor.dtype in section.dtypes or weight_only(tensor.node, target):
            continue
        allowed = " or ".join(section.dtypes)
        reason = f"{tensor.role} is {tensor.dtype}; it takes {allowed}"
        yield Finding("type", effect(section), edit.label(tensor.node), reason)


def weight_only(node: ir.Node, target: Target) -> bool:
    """Tell whether a DequantizeLinear's weight is one that the engine multiplies float activations by as it is."""
    accepted = target.blocks
    if accepted is None or edit.op_of(node) not in DEQUANTIZE or dequantized_type(node) not in accepted.dtypes:
        return False
    if not accepted.whole and not edit.int_attribute(node, "block_size", 0):
        return False
    found = list(readers(node.outputs[0]))
    return bool(found) and all(
        edit.op_of(reader.node) in accepted.operators
        and reader.index == 1
        and not _is_turned(reader.node)
        and dequantize_of(reader.node.inputs[0]) is None
        for reader in found
    )


def _is_turned(node: ir.Node) -> bool:
    """Tell whether a Gemm reads its weight transposed, so that its outputs are the first axis."""
    return edit.op_of(node) == "Gemm" and axes_of(node, 1, 2).output == 0


def pairs(model: Quantized, target: Target) -> Findings:
    """Find operators whose types of activation and weight do not go together."""
    for node, activation, weight in products(model):
        known = activation in target.activations.dtypes
        known = known and weight in (*target.weights.dtypes, *target.activations.dtypes)
        if target.pairs and known and (activation, weight) not in target.pairs:
            reason = f"{activation} does not go with {weight} as the second operand"
            yield Finding("pair", effect(target.weights), edit.label(node), reason)


def products(model: Quantized) -> Iterator[tuple[ir.Node, str, str]]:
    """Yield each operator that multiplies a stored activation by a stored weight or activation, with both types."""
    for node in model.nodes:
        layer = Layer.of(node)
        sources = [] if layer is None else [dequantize_of(value) for value in (layer.data, layer.value)]
        found = [(model.role(source), dequantized_type(source)) for source in sources if source is not None]
        found += [(tensor.role, tensor.dtype) for tensor in model.at(node) if tensor.data is not None]
        found.sort(key=lambda kind: kind[0] == "weight")
        if len(found) == 2 and found[0][0] == "activation":
            yield node, found[0][1], found[1][1]


MIDDLE = {"uint2": 2, "uint4": 8, "uint8": 128, "uint16": 32768}
"""Zero points of symmetric unsigned types; those of all others are 0."""


def zero_points(model: Quantized, target: Target) -> Findings:
    """Find zero points that are not the middle of their type's range where the engine wants it so."""
    for tensor in model.stored:
        section = section_of(tensor, target)
        if section is None or tensor.dtype not in section.symmetric:
            continue
        middle = MIDDLE.get(tensor.dtype, 0)
        zero = find(tensor.zero)
        if tensor.zero is not None and zero is None:
            reason = f"the zero point of its {tensor.role} is not a constant"
        else:
            values = np.zeros(1) if zero is None else zero.astype(np.float32).reshape(-1)
            wrong = values[values != middle]
            if not wrong.size:
                continue
            reason = f"the zero point of its {tensor.role} is {wrong[0]:g}; it takes {middle}"
        yield Finding("zero-point", effect(section), edit.label(tensor.node), reason)


def granularity(model: Quantized, target: Target) -> Findings:
    """Find several scales where the engine takes one."""
    for tensor in model.stored:
        section = section_of(tensor, target)
        scales = tensor.scales
        if section is None or tensor.block or section.per_channel or scales is None or scales.size < 2:
            continue
        reason = f"{tensor.role} has {scales.size} scales; it takes one for each tensor"
        yield Finding("granularity", effect(section), edit.label(tensor.node), reason)


def axes(model: Quantized, target: Target) -> Findings:
    """Find weights whose scales do not follow the output channels of the operator that reads them."""
    for tensor in model.stored:
        scales = tensor.scales
        if tensor.role != "weight" or tensor.block or scales is None or scales.size < 2:
            continue
        for reader in readers(tensor.node.outputs[0]) if edit.op_of(tensor.node) in DEQUANTIZE else ():
            yield from _axis(tensor, reader, target)


def _axis(tensor: Stored, reader: Reader, target: Target) -> Findings:
    rank = len(tensor.data.shape) if tensor.data is not None and tensor.data.shape is not None else None
    op = edit.op_of(reader.node)
    if op not in PRODUCTS or rank is None or reader.perm is None:
        return
    wanted = {
        "Conv": target.axes.conv,
        "ConvTranspose": target.axes.conv_transpose,
        "Gemm": target.axes.gemm,
        "MatMul": target.axes.matmul,
    }[op]
    if _is_turned(reader.node):
        wanted = 1 - wanted
    wanted %= rank
    if reader.perm:
        wanted = reader.perm[wanted]
    if tensor.axis % rank != wanted:
        reason = (
            f"scales along axis {tensor.axis} of its weight; {edit.label(reader.node)} has its channels on {wanted}"
        )
        yield Finding("axis", effect(target.axes), edit.label(tensor.node), reason)


def blocks(model: Quantized, target: Target) -> Findings:
    """Find blocks of a type or size that the engine does not take."""
    for tensor in model.stored:
        if not tensor.block:
            continue
        accepted = target.blocks
        if accepted is None:
            yield Finding("block", effect(target.weights), edit.label(tensor.node), "it takes no scales for blocks")
        elif tensor.dtype not in accepted.dtypes or tensor.role != "weight":
            allowed = " or ".join(accepted.dtypes)
            reason = f"blocks of {tensor.dtype} in its {tensor.role}; it takes weights of {allowed}"
            yield Finding("block", effect(accepted), edit.label(tensor.node), reason)
        elif not accepted.min <= tensor.block <= accepted.max or tensor.block & (tensor.block - 1):
            reason = f"blocks of {tensor.block}; it takes powers of two from {accepted.min} to {accepted.max}"
            yield Finding("block", effect(accepted), edit.label(tensor.node), reason)


def scales(model: Quantized, target: Target) -> Findings:
    """Find scales that no engine computes with: zero, negative, denormal, infinite, NaN."""
    for tensor in model.stored:
        found = tensor.scales
        if found is None:
            continue
        values = found.astype(np.float64).reshape(-1)
        smallest = ir.DataType(tensor.scale.dtype or 1).numpy() if tensor.scale is not None else np.dtype("float32")
        tiny = float(np.finfo(smallest).tiny) if np.issubdtype(smallest, np.floating) else 0.0
        wrong = values[~(np.isfinite(values) & (values >= tiny) & (values > 0))]
        if wrong.size:
            reason = f"scale {wrong[0]:g}; {wrong.size} of {values.size} are zero, negative, denormal or not finite"
            yield Finding("scale", "rejected", edit.label(tensor.node), reason)


def powers_of_two(model: Quantized, target: Target) -> Findings:
    """Find scales that are no powers of two where the engine shifts instead of multiplying."""
    for tensor in model.stored:
        found = tensor.scales
        if found is None or not target.scales.power_of_two:
            continue
        values = found.astype(np.float64).reshape(-1)
        values = values[np.isfinite(values) & (values > 0)]
        wrong = values[np.frexp(values)[0] != 0.5]
        if wrong.size:
            reason = f"scale {wrong[0]:g} of its {tensor.role} is no power of two"
            yield Finding("power-of-two", effect(target.scales), edit.label(tensor.node), reason)


def ranges(model: Quantized, target: Target) -> Findings:
    """Find weights that use more of their type than the engine bears."""
    if target.weights.range is None:
        return
    low, high = target.weights.range
    for node, activation, weight in products(model):
        held = target.weights.range_with
        if (held and activation not in held) or weight != "int8":
            continue
        for data in _weights(model, node):
            values = find(data)
            if values is not None and values.size and (values.min() < low or values.max() > high):
                reason = f"weights reach from {values.min()} to {values.max()}; [{low}, {high}] is safe"
                yield Finding("range", "advice", edit.label(node), reason)


def _weights(model: Quantized, node: ir.Node) -> Iterator[ir.Value | None]:
    layer = Layer.of(node)
    for value in () if layer is None else (layer.data, layer.value):
        source = dequantize_of(value)
        if source is not None and model.role(source) == "weight":
            yield source.inputs[0]
    yield from (tensor.data for tensor in model.at(node) if tensor.role == "weight")
