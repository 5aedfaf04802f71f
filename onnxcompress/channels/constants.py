"""Which channels have the same value for every input: constant propagation, one number per position of an axis."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ..graph import edit
from ..graph.norms import batch_norm
from ..graph.shapes import run_node
from .engine import Engine
from .means import reduced_axes
from .movement import MOVES, moved_inputs, trace, traced_axes
from .rules import RULES, elementwise

Channel: TypeAlias = npt.NDArray[np.float64]
"""One number per position of an axis: what the whole slice at that position is, NaN where it depends on the input."""


Fixed: TypeAlias = Callable[[ir.Value], Iterable[tuple[int, Channel]]]


class Constants:
    """The constant slices of every tensor.

    `fixed` says what is known beforehand: for a value, axes with their channels.

    Zero times anything counts as zero, so an input that reaches Inf or NaN is not provided for, as everywhere in
    pruning.
    """

    def __init__(self, engine: Engine, fixed: Fixed) -> None:
        self.engine = engine
        self._found: dict[tuple[ir.Value, int], Channel] = {}
        for node in engine.model.graph:
            if node not in engine.followed or all(v in engine.known.values for v in node.outputs):
                continue
            op = edit.op_of(node)
            rule = _move if op in MOVES else _elementwise if RULES.get(op) is elementwise else PROPAGATE.get(op)
            if rule is not None:
                rule(self, node)
            for value in node.outputs:
                for axis, channel in fixed(value):
                    known = self.along(value, axis)
                    self.set(value, axis, np.where(np.isnan(known), channel, known))

    def along(self, value: ir.Value | None, axis: int) -> Channel:
        """Return the constant slices of a tensor along an axis."""
        if value is None:
            return np.zeros(0)
        shape = self.engine.shape(value)
        key = (value, axis % max(len(shape), 1))
        if key not in self._found:
            array = self._array(value)
            if array is not None and shape:
                others = tuple(d for d in range(len(shape)) if d != key[1])
                low, high = array.min(axis=others), array.max(axis=others)
                self._found[key] = np.where(low == high, low, np.nan)
            else:
                return np.full(shape[axis] if shape else 0, np.nan)
        return self._found[key]

    def _array(self, value: ir.Value) -> npt.NDArray[np.float64] | None:
        """Return a constant, or a small value computed from constants alone (a class token, expanded)."""
        tensor = edit.constant(value)
        array = self.engine.known.values.get(value) if tensor is None else tensor.numpy()
        floating = array is not None and (array.dtype.kind == "f" or array.dtype.name == "bfloat16")
        return array.astype(np.float64, copy=False) if array is not None and floating else None

    def set(self, value: ir.Value, axis: int, channel: Channel) -> None:
        """Note the constant slices of a node's output, where there are any."""
        if not np.isnan(channel).all():
            self._found[value, axis] = channel

    def axes(self, value: ir.Value | None) -> list[int]:
        """Return the axes of a tensor along which some slice is known."""
        if value is None:
            return []
        if self._array(value) is not None:
            return list(range(len(self.engine.shape(value))))
        return [axis for axis in range(len(self.engine.shape(value))) if (value, axis) in self._found]


def _move(constants: Constants, node: ir.Node) -> None:
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


def padding(engine: Engine, node: ir.Node) -> float:
    """Return what Pad fills with: zero where nothing is given, NaN where only a run knows, or the mode copies."""
    mode = node.attributes["mode"].as_string() if "mode" in node.attributes else "constant"
    given = node.inputs[2] if node.op_type == "Pad" and len(node.inputs) > 2 else None
    if mode != "constant":
        return np.nan
    known = np.zeros(1) if given is None else engine.known.values.get(given)
    return np.nan if known is None else float(known.ravel()[0])


def _elementwise(constants: Constants, node: ir.Node) -> None:
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
        if node.op_type == "Mul":
            result[np.any([o == 0 for o in operands if o is not None], axis=0)] = 0
        constants.set(out, axis, result)


def _operand(constants: Constants, value: ir.Value | None, axis: int, extent: int) -> Channel | None:
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


def _weighted(constants: Constants, node: ir.Node) -> None:
    """Conv, ConvTranspose, Gemm, MatMul: an output is constant when all that it really reads is."""
    layout = layout_of(constants.engine, node)
    if layout is None:
        return
    data, axis, matrix, bias, out_axis = layout
    channel = constants.along(data, axis)
    if padded(node):
        channel = np.where(channel == 0, channel, np.nan)
    uses = matrix.any
    known = (~np.isnan(channel)) | ~uses
    total = np.where(np.isnan(channel) | ~uses, 0, channel * matrix.sum).sum(1)
    result = np.where(known.all(1), total, np.nan)
    constants.set(node.outputs[0], out_axis, result if bias is None else result + bias)


class Matrix:
    """A weight seen as a matrix (outputs, inputs): what each input adds to each output if it is constant.

    Attributes
    ----------
    sum : (outputs, inputs) float array
        The weights of each pair added up over the kernel.
    any : (outputs, inputs) bool array
        Whether any weight of the pair is not zero (NaN counts as not zero).
    """

    def __init__(self, total: npt.NDArray[np.float64], nonzero: npt.NDArray[np.bool_]) -> None:
        self.sum, self.any = total, nonzero


Part: TypeAlias = Callable[[npt.NDArray[np.floating]], npt.NDArray[np.floating]]
Layout: TypeAlias = tuple[ir.Value, int, Matrix, "Channel | None", int]


def layout_of(engine: Engine, node: ir.Node, part: Part = np.asarray) -> Layout | None:
    """Return (data, data axis, weight matrix, bias or None, output axis) of a node with a constant weight.

    `part` (such as the positive weights) is taken of the weights.
    """
    data, weight = node.inputs[0], node.inputs[1]
    array = engine.array(weight)
    if data is None or array is None or array.dtype.kind not in "fV" or node.op_type not in WEIGHTED:
        return None
    if len(engine.shape(data)) < 2:
        return None
    if node.op_type == "MatMul":
        if array.ndim != 2:
            return None
        rank = len(engine.shape(data))
        return data, rank - 1, _matrix(part(array.T), ()), None, rank - 1
    if node.op_type == "Gemm":
        if edit.int_attribute(node, "transA", 0):
            return None
        alpha = node.attributes.get_float("alpha", 1.0)
        beta = node.attributes.get_float("beta", 1.0)
        matrix = _matrix(part(alpha * (array if edit.int_attribute(node, "transB", 0) else array.T)), ())
        return data, 1, matrix, _bias(engine, node, len(matrix.sum), beta), 1
    groups = edit.int_attribute(node, "group", 1)
    axes = tuple(range(2, array.ndim))
    matrix = _conv_matrix(part(array), groups, axes, transposed=node.op_type == "ConvTranspose")
    return data, 1, matrix, _bias(engine, node, len(matrix.sum)), 1


WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def _bias(engine: Engine, node: ir.Node, outputs: int, beta: float = 1.0) -> Channel | None:
    """Return what is added to each output; NaN where that is no constant, or not the same in each row."""
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return None
    array = engine.array(node.inputs[2])
    if array is None or array.size not in (1, outputs) or array.ndim > 1:
        return np.full(outputs, np.nan)
    return np.broadcast_to(beta * array.astype(np.float64), (outputs,))


def _matrix(array: npt.NDArray[np.floating], axes: tuple[int, ...]) -> Matrix:
    return Matrix(array.sum(axis=axes, dtype=np.float64), (array != 0).any(axis=axes) if axes else array != 0)


def _conv_matrix(array: npt.NDArray[np.floating], groups: int, axes: tuple[int, ...], *, transposed: bool) -> Matrix:
    blocks = _matrix(array, axes)
    if groups == 1:
        return Matrix(blocks.sum.T, blocks.any.T) if transposed else blocks
    rows, columns = blocks.sum.shape
    shape = (columns * groups, rows) if transposed else (rows, columns * groups)
    total, nonzero = np.zeros(shape), np.zeros(shape, bool)
    for g in range(groups):
        outs = slice(g * shape[0] // groups, (g + 1) * shape[0] // groups)
        ins = slice(g * shape[1] // groups, (g + 1) * shape[1] // groups)
        part = slice(ins.start, ins.stop) if transposed else slice(outs.start, outs.stop)
        total[outs, ins] = blocks.sum[part].T if transposed else blocks.sum[part]
        nonzero[outs, ins] = blocks.any[part].T if transposed else blocks.any[part]
    return Matrix(total, nonzero)


def padded(node: ir.Node) -> bool:
    """Tell whether borders see something else than the constant: padding, or any ConvTranspose."""
    auto = node.attributes["auto_pad"].as_string() if "auto_pad" in node.attributes else "NOTSET"
    pads = edit.ints_attribute(node, "pads") or ()
    return node.op_type == "ConvTranspose" or auto.startswith("SAME") or any(pads)


def _batch_norm(constants: Constants, node: ir.Node) -> None:
    found = batch_norm(node, constants.engine.array)
    if found is not None:
        factor, mean, shift = found
        channel = constants.along(node.inputs[0], 1)
        constants.set(node.outputs[0], 1, np.where(factor == 0, shift, (channel - mean) * factor + shift))


def _layer_norm(constants: Constants, node: ir.Node) -> None:
    """A channel whose scale is zero is its shift, whatever the others are."""
    scale, shift = _scale_and_shift(constants, node)
    rank = len(constants.engine.shape(node.outputs[0]))
    if scale is not None and scale.ndim == 1:
        constants.set(node.outputs[0], rank - 1, np.where(scale == 0, shift, np.nan))


def _normalised(constants: Constants, node: ir.Node) -> None:
    """A channel is its shift where its scale is zero, or where zeros alone are normalised together."""
    scale, shift = _scale_and_shift(constants, node)
    channel = constants.along(node.inputs[0], 1)
    groups = edit.int_attribute(node, "num_groups", len(channel))
    if scale is not None and scale.shape == channel.shape and np.shape(shift) in ((), channel.shape):
        zero = np.repeat((channel.reshape(groups, -1) == 0).all(1), len(channel) // groups)
        constants.set(node.outputs[0], 1, np.where(zero | (scale == 0), shift, np.nan))


def _scale_and_shift(constants: Constants, node: ir.Node) -> tuple[Channel | None, Channel]:
    """Return a normalisation's scale, if it is constant, and its shift, NaN where that is not."""
    scale = constants.engine.array(node.inputs[1])
    given = node.inputs[2] if len(node.inputs) > 2 else None
    shift = constants.engine.array(given)
    unknown: Channel = np.array(0.0 if given is None else np.nan)
    shift = unknown if shift is None else shift.astype(np.float64)
    return None if scale is None else scale.astype(np.float64), shift


def _filled(constants: Constants, node: ir.Node) -> None:
    """Every position holds the same number."""
    attribute = node.attributes.get("value")
    number = 0.0 if attribute is None else float(attribute.as_tensor().numpy().ravel()[0])
    for axis, n in enumerate(constants.engine.shape(node.outputs[0])):
        constants.set(node.outputs[0], axis, np.full(n, number))


def _quantized(constants: Constants, node: ir.Node) -> None:
    """Zero stays zero; among quantized values 0 stands for the zero point."""
    for axis in constants.axes(node.inputs[0]):
        channel = constants.along(node.inputs[0], axis)
        constants.set(node.outputs[0], axis, np.where(channel == 0, 0, np.nan))


def _spatial(constants: Constants, node: ir.Node) -> None:
    """Pooling, resizing: a constant channel stays what it is; where borders mix in padding, only zero does."""
    exact = node.op_type in ("MaxPool", "GlobalAveragePool", "GlobalMaxPool")
    for axis in (0, 1):
        if axis in constants.axes(node.inputs[0]):
            channel = constants.along(node.inputs[0], axis)
            constants.set(node.outputs[0], axis, channel if exact else np.where(channel == 0, 0, np.nan))


def _reduction(constants: Constants, node: ir.Node) -> None:
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


PROPAGATE: dict[str, Callable[[Constants, ir.Node], None]] = {
    "AveragePool": _spatial,
    "BatchNormalization": _batch_norm,
    "ConstantOfShape": _filled,
    "Conv": _weighted,
    "ConvTranspose": _weighted,
    "DequantizeLinear": _quantized,
    "Gemm": _weighted,
    "GlobalAveragePool": _spatial,
    "LayerNormalization": _layer_norm,
    "RMSNormalization": _layer_norm,
    "GlobalMaxPool": _spatial,
    "GroupNormalization": _normalised,
    "InstanceNormalization": _normalised,
    "MatMul": _weighted,
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
