"""Constant propagation, a channel at a time: one small rule for each operator."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from ..graph import edit, operators
from ..graph.layer import Layer
from ..graph.norms import batch_norm
from ..graph.shapes import run_node
from ..graph.windows import differs_at_borders
from .constant_channels import Channel, ConstantChannels
from .engine import Engine
from .fused import ACTIVATIONS
from .means import reduced_axes
from .movement import MOVES, moved_inputs, padding, trace, traced_axes
from .norms import NORMS
from .rules import RULES, elementwise
from .weight_matrix import weight_matrix

Fixed: TypeAlias = Callable[[ir.Value], Iterable[tuple[int, Channel]]]


def propagate(engine: Engine, fixed: Fixed) -> ConstantChannels:
    """Return the constant slices of every tensor.

    `fixed` says what is known beforehand: for a value, axes with their channels.

    Zero times anything counts as zero, so an input that reaches Inf or NaN is not provided for, as everywhere in
    pruning.
    """
    constants = ConstantChannels(engine)
    for node in engine.model.graph:
        if node not in engine.followed or all(v in engine.known.values for v in node.outputs):
            continue
        op = edit.op_of(node)
        rule = _move if op in MOVES else _elementwise if RULES.get(op) is elementwise else PROPAGATE.get(op)
        if rule is not None:
            rule(constants, node)
        for value in node.outputs:
            for axis, channel in fixed(value):
                known = constants.along(value, axis)
                constants.set(value, axis, np.where(np.isnan(known), channel, known))
    return constants


def _move(constants: ConstantChannels, node: ir.Node) -> None:
    """Move the values as the operator does."""
    engine, sources = constants.engine, moved_inputs(node)
    axes = sorted({axis for source in sources for axis in constants.axes(source)})
    if MOVES[edit.op_of(node)].unchanged:
        for axis in axes:
            constants.set(node.outputs[0], axis, constants.along(sources[0], axis))
        return
    if all(edit.constant(v) is not None for v in node.inputs if v is not None):
        return  # a weight that is moved before use: what reads it looks through the move
    moved = [axis for axis in traced_axes(engine, node) if axis in axes]
    for value, traced in zip(node.outputs, (trace(engine, node) if moved else None) or [], strict=False):
        for axis in moved:
            table = np.concatenate([[padding(engine, node)], *(constants.along(s, axis) for s in sources)])
            field = table[traced.sources[axis]]
            for out, rows in enumerate(engine.axes(value)):
                if rows is not None:
                    others = tuple(d for d in range(field.ndim) if d != out)
                    low, high = field.min(axis=others), field.max(axis=others)  # NaN wherever one is NaN
                    constants.set(value, out, np.resize(np.where(low == high, low, np.nan), rows.shape[1]))


def _elementwise(constants: ConstantChannels, node: ir.Node) -> None:
    """Run the operator on the constants; unknown where any operand is, but for zero times anything."""
    engine, out = constants.engine, node.outputs[0]
    shape = engine.shape(out)
    for axis, rows in enumerate(engine.axes(out)):
        if rows is None:
            continue
        operands = [_operand(constants, v, axis - len(shape), shape[axis]) for v in node.inputs]
        known = ~np.isnan(np.stack([o for o in operands if o is not None])).any(0)
        result = np.full(shape[axis], np.nan)
        if known.any():
            arrays = [None if o is None else o[known] for o in operands]
            ran = run_node(node, arrays, engine.opset)
            if ran is not None and ran[0].shape == (int(known.sum()),):
                result[known] = ran[0]
        if edit.op_of(node) in ACTIVATIONS:
            result[np.sum([o for o in operands if o is not None], axis=0) == 0] = 0
        if node.op_type == "Mul":
            result[np.any([o == 0 for o in operands if o is not None], axis=0)] = 0
        constants.set(out, axis, result)


def _operand(constants: ConstantChannels, value: ir.Value | None, axis: int, extent: int) -> Channel | None:
    """Return an operand's constants along an axis, counted from the end as broadcasting does."""
    if value is None:
        return None
    shape = constants.engine.shape(value)
    if len(shape) >= -axis and shape[axis] == extent:
        return constants.along(value, axis)
    known = constants.engine.known.values.get(value)
    if known is not None and known.size == 1 and known.dtype.kind in "fiu":
        return np.full(extent, float(known.ravel()[0]))
    return np.full(extent, np.nan)


def _weighted(constants: ConstantChannels, node: ir.Node) -> None:
    """An output of a layer is constant when all that it really reads is."""
    matrix = weight_matrix(constants.engine, node)
    if matrix is None:
        _stacked(constants, node)
        return
    channel = constants.along(matrix.data, matrix.axis)
    if differs_at_borders(node):
        channel = np.where(channel == 0, channel, np.nan)
    uses = matrix.any
    known = (~np.isnan(channel)) | ~uses
    total = np.where(np.isnan(channel) | ~uses, 0, channel * matrix.sum).sum(1)
    result = np.where(known.all(1), total, np.nan)
    constants.set(node.outputs[0], matrix.out_axis, result if matrix.bias is None else result + matrix.bias)


def _stacked(constants: ConstantChannels, node: ir.Node) -> None:
    """A channel that no matrix of a stack (an expert) makes is zero."""
    layer = Layer.of(node, constants.engine.array)
    array = None if layer is None or layer.takes_bias else constants.engine.array(layer.value)
    if layer is not None and array is not None and array.ndim > 2 and array.dtype.kind in "fV":
        output = layer.axes.output
        read = (array != 0).any(axis=tuple(axis for axis in range(array.ndim) if axis != output))
        rank = len(constants.engine.shape(node.outputs[0]))
        constants.set(node.outputs[0], layer.channel_axis(rank), np.where(read, np.nan, 0))


def _batch_norm(constants: ConstantChannels, node: ir.Node) -> None:
    found = batch_norm(node, constants.engine.array)
    if found is not None:
        factor, mean, shift = found
        channel = constants.along(node.inputs[0], 1)
        constants.set(node.outputs[0], 1, np.where(factor == 0, shift, (channel - mean) * factor + shift))


def _norm(constants: ConstantChannels, node: ir.Node) -> None:
    """A channel whose scale is zero is its shift, whatever the others are; without a mean zero stays zero."""
    known, engine, out = NORMS[edit.op_of(node)], constants.engine, node.outputs[0]
    rank, parameters = len(engine.shape(out)), known.parameters(node)
    parts = [constants.along(value, -1) for value in known.summands(node)]
    whole = np.sum(np.broadcast_arrays(*parts), axis=0) if parts else np.zeros(0)
    total = known.sum_of(node)
    if total is not None and whole.shape == (engine.shape(total)[-1:]):
        constants.set(total, rank - 1, whole)
    scale = engine.array(parameters.get(known.scale))
    if scale is None or scale.ndim != 1 or whole.shape != scale.shape:
        return
    given = None if known.shift is None else parameters.get(known.shift)
    shift = np.zeros(1) if given is None else engine.array(given)
    zero = (scale == 0) | (False if known.centred else whole == 0)
    constants.set(out, rank - 1, np.where(zero, np.nan if shift is None else shift.astype(np.float64), np.nan))


def _turned(constants: ConstantChannels, node: ir.Node) -> None:
    """Turning pairs of numbers leaves those at zero that are both zero."""
    heads, data, out = constants.engine.heads.get(node), node.inputs[0], node.outputs[0]
    if heads is None or data is None:
        return
    last = len(constants.engine.shape(out)) - 1
    size, turned = heads.size.shape[1], 2 * heads.values.shape[1]
    zero = (constants.along(data, last) == 0).reshape(-1, size)
    beside = edit.int_attribute(node, "interleaved", 0)  # else a half stands behind the other
    halves = zero[:, :turned].reshape(len(zero), -1, 2) if beside else zero[:, :turned].reshape(len(zero), 2, -1)
    both = halves.all(axis=-1 if beside else 1)
    spread = np.repeat(both, 2, axis=1) if beside else np.tile(both, (1, 2))
    found = np.concatenate([spread, zero[:, turned:]], axis=1).ravel()
    constants.set(out, last, np.where(found, 0, np.nan))


def _normalised(constants: ConstantChannels, node: ir.Node) -> None:
    """A channel is its shift where its scale is zero, or where zeros alone are normalised together."""
    scale, shift = _scale_and_shift(constants, node)
    channel = constants.along(node.inputs[0], 1)
    groups = edit.int_attribute(node, "num_groups", len(channel))
    if scale is not None and scale.shape == channel.shape and np.shape(shift) in ((), channel.shape):
        zero = np.repeat((channel.reshape(groups, -1) == 0).all(1), len(channel) // groups)
        constants.set(node.outputs[0], 1, np.where(zero | (scale == 0), shift, np.nan))


def _scale_and_shift(constants: ConstantChannels, node: ir.Node) -> tuple[Channel | None, Channel]:
    """Return a normalisation's scale, if it is constant, and its shift, NaN where that is not."""
    scale = constants.engine.array(node.inputs[1])
    given = node.inputs[2] if len(node.inputs) > 2 else None
    shift = constants.engine.array(given)
    unknown: Channel = np.array(0.0 if given is None else np.nan)
    shift = unknown if shift is None else shift.astype(np.float64)
    return None if scale is None else scale.astype(np.float64), shift


def _filled(constants: ConstantChannels, node: ir.Node) -> None:
    """Every position holds the same number."""
    attribute = node.attributes.get("value")
    number = 0.0 if attribute is None else float(attribute.as_tensor().numpy().ravel()[0])
    for axis, n in enumerate(constants.engine.shape(node.outputs[0])):
        constants.set(node.outputs[0], axis, np.full(n, number))


def _quantized(constants: ConstantChannels, node: ir.Node) -> None:
    """Zero stays zero; among quantized values 0 stands for the zero point."""
    for axis in constants.axes(node.inputs[0]):
        channel = constants.along(node.inputs[0], axis)
        constants.set(node.outputs[0], axis, np.where(channel == 0, 0, np.nan))


def _spatial(constants: ConstantChannels, node: ir.Node) -> None:
    """Pooling, resizing: a constant channel stays what it is; where borders mix in padding, only zero does."""
    exact = node.op_type in ("MaxPool", "GlobalAveragePool", "GlobalMaxPool")
    for axis in (0, 1):
        if axis in constants.axes(node.inputs[0]):
            channel = constants.along(node.inputs[0], axis)
            constants.set(node.outputs[0], axis, channel if exact else np.where(channel == 0, 0, np.nan))


def _reduction(constants: ConstantChannels, node: ir.Node) -> None:
    """Reductions over other axes: zero stays zero, and a mean, maximum or minimum stays what it is."""
    data, reduced = node.inputs[0], reduced_axes(constants.engine, node)
    if data is None or reduced is None:
        return
    exact = node.op_type in ("ReduceMean", "ReduceMax", "ReduceMin")
    keep = edit.int_attribute(node, "keepdims", 1)
    left = [axis for axis in range(len(constants.engine.shape(data))) if keep or axis not in reduced]
    for target, axis in enumerate(left):
        if axis not in reduced and axis in constants.axes(data):
            channel = constants.along(data, axis)
            constants.set(node.outputs[0], target, channel if exact else np.where(channel == 0, 0, np.nan))


PROPAGATE: dict[str, Callable[[ConstantChannels, ir.Node], None]] = {
    **dict.fromkeys(operators.PRODUCTS, _weighted),
    **dict.fromkeys(NORMS, _norm),
    **dict.fromkeys(("RotaryEmbedding", "com.microsoft::RotaryEmbedding"), _turned),
    "AveragePool": _spatial,
    "BatchNormalization": _batch_norm,
    "ConstantOfShape": _filled,
    "DequantizeLinear": _quantized,
    "GlobalAveragePool": _spatial,
    "GlobalMaxPool": _spatial,
    "GroupNormalization": _normalised,
    "InstanceNormalization": _normalised,
    "MaxPool": _spatial,
    "QuantizeLinear": _quantized,
    "ReduceL1": _reduction,
    "ReduceL2": _reduction,
    "ReduceMax": _reduction,
    "ReduceMean": _reduction,
    "ReduceMin": _reduction,
    "ReduceSum": _reduction,
    "ReduceSumSquare": _reduction,
    "Resize": _spatial,
}
