"""One small rule for each operator that computes, in a table. Whatever has no rule freezes what it touches."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from ..graph import constants, edit, operators
from ..graph.layer import Layer, WeightAxes, axes_of
from ..graph.windows import window
from .engine import Axes, Engine, Sink
from .fused import ACTIVATIONS, mixture_of_experts, nhwc_conv
from .heads import HEADS, Label
from .labels import Rows
from .means import centred, reduced_axes
from .movement import MOVES, move
from .norms import NORMS, width_normalization

Rule = Callable[[Engine, ir.Node], None]


def rule_of(node: ir.Node) -> Rule:
    """Return the rule for a node."""
    op = edit.op_of(node)
    return move if op in MOVES else RULES.get(op, no_rule)


def no_rule(engine: Engine, node: ir.Node) -> None:
    """Freeze everything the node reads: nobody knows what it does with a channel."""
    called = node.op_identifier() in engine.model.functions
    inner = "it runs an inner graph" if edit.inner_graphs(node) else ""
    what = "it calls a function of the model" if called else inner or "this operator has no rule"
    for value in node.inputs:
        if value is not None:
            engine.freeze_all(value, f"{edit.label(node)}: {what}")


def _refusing(label: Label) -> Rule:
    """Return the rule of something that labels a node, or says why it cannot."""

    def rule(engine: Engine, node: ir.Node) -> None:
        reason = label(engine, node)
        for value in node.inputs if reason else ():
            if value is not None:
                engine.freeze_all(value, f"{edit.label(node)}: {reason}")

    return rule


def fused_product(engine: Engine, node: ir.Node) -> None:
    """Sum over K, whatever is fused behind it; stacks that are transposed have no rule."""
    transposed = edit.int_attribute(node, "transBatchA", 0) or edit.int_attribute(node, "transBatchB", 0)
    (no_rule if transposed else matmul)(engine, node)


def fused_conv(engine: Engine, node: ir.Node) -> None:
    """Add another tensor to what a convolution gives."""
    conv(engine, node)
    other = node.inputs[3] if len(node.inputs) > 3 else None
    if other is not None:
        out = list(engine.axes(node.outputs[0]))
        for axis, rows in enumerate(engine.axes(other)):
            out[axis] = engine.join(node, out[axis], rows)
        engine.set(node.outputs[0], out)


def elementwise(engine: Engine, node: ir.Node) -> None:
    """Join axes under broadcasting: position p of the output needs position p of every input."""
    out = node.outputs[0]
    rank = len(engine.shape(out))
    result: Axes = []
    for axis in range(-rank, 0):
        extent = engine.shape(out)[axis]
        operands = [v for v in node.inputs if v is not None and -axis <= len(engine.shape(v))]
        full = [v for v in operands if engine.shape(v)[axis] == extent > 1]
        if not full:
            result.append(None)
            continue
        joined = engine.axes(full[0])[axis]
        for value in full[1:]:
            joined = engine.join(node, joined, engine.axes(value)[axis])
        result.append(joined)
    engine.set(out, result)


def conv(engine: Engine, node: ir.Node) -> None:
    """Sum over input channels; a group is a factor of both channel axes and can go as a whole."""
    layer = Layer(node)
    axes = axes_of(node, layer.index, len(engine.shape(layer.value)))
    out, consumed, into = _channels(engine, layer, axes)
    if into is not None and consumed is not None:
        sink = Sink(node, layer.data, 1, layer.value, axes.summed, axes.output, layer.groups, consumed)
        engine.sinks.append(sink)
    if layer.bias_value is not None:
        engine.join(node, out, engine.axes(layer.bias_value)[0])
    _spatial(engine, layer, out)


def _channels(engine: Engine, layer: Layer, axes: WeightAxes) -> tuple[Rows | None, Rows | None, Rows | None]:
    """Return the labels of the output channels, those used up, and those of the data's channels."""
    node, groups = layer.node, layer.groups
    into = engine.axes(layer.data)[1]
    inside, outside = engine.axes(layer.value)[axes.summed], engine.axes(layer.value)[axes.output]
    if groups == 1:
        engine.join(node, into, inside)
        return outside, inside, into
    group = engine.labels.fresh(groups)
    each_out = engine.shape(layer.value)[axes.output] * layer.repeats(axes.output) // groups
    consumed, grouped = _grouped(
        engine, node, inside, group, engine.shape(layer.data)[1] // groups, whole=axes.summed == 0
    )
    engine.join(node, into, grouped)
    _, produced = _grouped(engine, node, outside, group, each_out, whole=axes.output == 0)
    return produced, consumed, into


def _grouped(
    engine: Engine, node: ir.Node, rows: Rows | None, group: Rows, each: int, *, whole: bool
) -> tuple[Rows | None, Rows]:
    """Write one channel axis of a grouped convolution as group · position inside the group.

    `whole` says that the weight's axis runs over all groups (and so is joined with the product); else it runs
    over the positions of one group and is a factor itself.
    """
    member = np.tile(engine.labels.fresh(each), len(group[0])) if each > 1 else None
    product = np.repeat(group, each, axis=1)
    if member is not None:
        product = np.concatenate([product, member])
    if whole:
        engine.join(node, rows, product)
    elif rows is not None and member is not None:
        engine.join(node, rows, member[:, :each])
    return member, product


def _spatial(engine: Engine, layer: Layer, out: Rows | None) -> None:
    """Freeze the spatial axes along which a convolution mixes positions, and label what it gives."""
    node, data = layer.node, layer.data
    rank = len(engine.shape(node.outputs[0])) or len(engine.shape(data))
    alone = _pointwise_axes(engine, layer)
    spatial = [axis for axis in range(2, len(engine.shape(data))) if axis not in alone]
    for value in (data, layer.value):
        engine.freeze_axes(value, spatial, f"{edit.label(node)}: a spatial axis")
    biased = layer.bias_value is not None
    shifted = [axis for axis in alone if biased or (data, axis - rank) in engine.shifted]
    engine.shifted.update((node.outputs[0], axis - rank) for axis in shifted if engine.axes(data)[axis] is not None)
    kept = [engine.axes(data)[axis] if axis in alone else None for axis in range(2, rank)]
    engine.set(node.outputs[0], [engine.axes(data)[0], out, *kept])


def _pointwise_axes(engine: Engine, layer: Layer) -> set[int]:
    """Return the spatial axes that a convolution leaves as they are: kernel 1, every position, no padding."""
    sizes, kernel = engine.shape(layer.data)[2:], engine.shape(layer.value)[2:]
    more = edit.ints_attribute(layer.node, "output_padding") or (0,) * len(kernel)
    found = set()
    for axis, (size, extent, extra) in enumerate(zip(sizes, kernel, more, strict=False)):
        stride, _, before, after = window(layer.node, axis, len(kernel), size, extent)
        if (extent, stride, before, after, extra) == (1, 1, 0, 0, 0):
            found.add(2 + axis)
    return found


def gemm(engine: Engine, node: ir.Node) -> None:
    """Sum over K of A (M, K) and B (K, N), either of them transposed; C broadcasts."""
    layer = Layer(node)
    (a, b), (first, second) = (layer.data, layer.value), (axes_of(node, index, 2) for index in (0, 1))
    engine.join(node, engine.axes(a)[first.summed], engine.axes(b)[second.summed])
    _contract(engine, layer, first, second)
    out: Axes = [engine.axes(a)[first.output], engine.axes(b)[second.output]]
    bias = layer.bias_value
    if bias is not None:
        for axis in range(-len(engine.shape(bias)), 0):
            if engine.shape(bias)[axis] > 1:
                out[axis] = engine.join(node, out[axis], engine.axes(bias)[axis])
    engine.set(node.outputs[0], out)


def matmul(engine: Engine, node: ir.Node) -> None:
    """Sum over the last axis of A and the last but one of B; leading axes broadcast."""
    layer = Layer(node)
    a, b = layer.data, layer.value
    shape_a, shape_b, shape_out = engine.shape(a), engine.shape(b), engine.shape(node.outputs[0])
    if len(shape_a) < 2 or len(shape_b) < 2:
        no_rule(engine, node)
        return
    first, second = axes_of(node, 0, len(shape_a)), axes_of(node, 1, len(shape_b))
    engine.join(node, engine.axes(a)[first.summed], engine.axes(b)[second.summed])
    _contract(engine, layer, first, second)
    out: Axes = [None] * len(shape_out)
    out[-2], out[-1] = engine.axes(a)[first.output], engine.axes(b)[second.output]
    for axis in range(-len(shape_out), -2):
        full = [v for v, s in ((a, shape_a), (b, shape_b)) if -axis <= len(s) and s[axis] == shape_out[axis] > 1]
        rows = [engine.axes(v)[axis] for v in full]
        if rows:
            out[axis] = engine.join(node, rows[0], rows[1]) if len(rows) > 1 else rows[0]
    engine.set(node.outputs[0], out)


def _contract(engine: Engine, layer: Layer, first: WeightAxes, second: WeightAxes) -> None:
    rows = engine.axes(layer.data)[first.summed]
    if rows is not None and engine.axes(layer.value)[second.summed] is not None:
        sink = Sink(layer.node, layer.data, first.summed, layer.value, second.summed, second.output, 1, rows)
        engine.sinks.append(sink)


def per_channel(engine: Engine, node: ir.Node) -> None:
    """Join axis 1 with one-dimensional parameters: BatchNormalization, InstanceNormalization."""
    data = edit.required(node, 0)
    axes = list(engine.axes(data))
    for value in node.inputs[1:]:
        if value is not None and len(axes) > 1 and engine.shape(value) == engine.shape(data)[1:2] != (1,):
            axes[1] = engine.join(node, axes[1], engine.axes(value)[0])
    if node.op_type == "InstanceNormalization":
        _freeze_together(engine, node, data, range(2, len(axes)))
    engine.set(node.outputs[0], axes)


def group_normalization(engine: Engine, node: ir.Node) -> None:
    """Freeze the positions inside a group, which are normalised together; whole groups stay removable."""
    data = edit.required(node, 0)
    per_channel(engine, node)
    groups = edit.int_attribute(node, "num_groups", 1)
    size = engine.shape(data)[1] // groups
    group, member = engine.labels.fresh(groups), engine.labels.fresh(size)
    product = np.concatenate([np.repeat(group, size, axis=1), np.tile(member, groups)])
    engine.join(node, engine.axes(data)[1], product)
    engine.labels.freeze(member, f"{edit.label(node)} normalises it together with others")
    if any(v is not None and engine.shape(v) == (groups,) != engine.shape(data)[1:2] for v in node.inputs[1:]):
        engine.labels.freeze(group, f"{edit.label(node)} has one scale for each group")
    _freeze_together(engine, node, data, range(2, len(engine.shape(data))))


def normalization(engine: Engine, node: ir.Node) -> None:
    """Normalise rows: all that is read loses the same channels."""
    elementwise(engine, node)
    width_normalization(engine, node, engine.axes(node.outputs[0]))


def recurrent(engine: Engine, node: ir.Node) -> None:
    """A hidden unit goes with all its gates, in both directions: they share the output's last axis."""
    known = operators.facts(edit.op_of(node))
    data, (weight, recurrence) = node.inputs[0], (edit.required(node, index) for index in known.weights)
    if data is None or edit.int_attribute(node, "layout", 0):
        no_rule(engine, node)
        return
    hidden = engine.labels.fresh(engine.shape(recurrence)[2])
    for index, (axis, times) in _hidden_axes(known).items():
        value = node.inputs[index] if index < len(node.inputs) else None
        if value is not None and not (index in operators.STATES and is_zero(engine, value)):
            engine.join(node, engine.axes(value)[axis], np.tile(hidden, times))
    axes = axes_of(node, known.weights[0], 3)
    engine.join(node, engine.axes(recurrence)[axes.summed], hidden)
    engine.sinks.append(Sink(node, recurrence, axes.summed, None, 0, 0, 1, hidden))
    rows = engine.join(node, engine.axes(data)[2], engine.axes(weight)[axes.summed])
    if rows is not None and engine.axes(data)[2] is not None:
        engine.sinks.append(Sink(node, data, 2, weight, axes.summed, axes.output, 1, rows))
    for value in node.outputs:
        engine.set(value, [*[None] * (len(engine.shape(value)) - 1), hidden])


def _hidden_axes(known: operators.Operator) -> dict[int, tuple[int, int]]:
    """Return, for each input with hidden units, their axis and how often they stand along it."""
    found = dict.fromkeys(known.weights, (1, known.gates))
    if known.bias is not None:
        found[known.bias] = (1, 2 * known.gates)  # of the input and of the state
    states = dict.fromkeys(operators.STATES, (2, 1))
    return found | states | dict.fromkeys(known.more, (1, PEEPHOLES))


PEEPHOLES = 3
"""Gates of an LSTM that look at the cell."""


def is_zero(engine: Engine, value: ir.Value) -> bool:
    """Tell whether a state is known to be zero, which is what it is without being given."""
    known = engine.known.values.get(value)
    return known is not None and not known.any()


def normalised_over_axes(engine: Engine, node: ir.Node) -> None:
    """Freeze the axes that an operator's attribute `axes` or `axis` says it mixes (Softmax, LpNormalization, …)."""
    data = edit.required(node, 0)
    rank = len(engine.shape(data))
    default = (0, 2, 3) if node.op_type == "MeanVarianceNormalization" else None
    axis = edit.int_attribute(node, "axis", 1 if node.op_type == "LRN" or engine.opset < 13 else -1) % max(rank, 1)
    flattened = node.op_type in ("Softmax", "LogSoftmax", "Hardmax") and engine.opset < 13
    mixed = edit.ints_attribute(node, "axes") or default or tuple(range(axis, rank) if flattened else (axis,))
    _freeze_together(engine, node, data, mixed)
    engine.set(node.outputs[0], engine.axes(data))


def _freeze_together(engine: Engine, node: ir.Node, data: ir.Value, axes: range | tuple[int, ...]) -> None:
    engine.freeze_axes(data, axes, f"{edit.label(node)} mixes it with others along the axis")


def pooling(engine: Engine, node: ir.Node) -> None:
    """Keep batch and channels; spatial axes change."""
    data = edit.required(node, 0)
    axes = engine.axes(data)
    engine.freeze_axes(data, range(2, len(axes)), f"{edit.label(node)}: a spatial axis")
    for value in node.outputs:
        engine.set(value, [*axes[:2], *[None] * (len(engine.shape(value)) - 2)])


def resize(engine: Engine, node: ir.Node) -> None:
    """Keep the axes whose extent stays."""
    data = edit.required(node, 0)
    before, after = engine.shape(data), engine.shape(node.outputs[0])
    same = [a == b for a, b in zip(before, after, strict=True)] if len(before) == len(after) else []
    engine.freeze_axes(data, [d for d, s in enumerate(same) if not s], f"{edit.label(node)} resizes it")
    sizes = node.inputs[3] if len(node.inputs) > 3 else None
    if sizes is not None and engine.constant(sizes) is None:
        engine.freeze_all(data, f"{edit.label(node)}: its sizes are computed in the graph")
    engine.set(node.outputs[0], [r if s else None for r, s in zip(engine.axes(data), same, strict=True)])


def reduction(engine: Engine, node: ir.Node) -> None:
    """Drop the reduced axes: a sum uses channels up, any other reduction over labels freezes them.

    In a variance that is written out, (x - m)² is summed, but it is the channels of x that must be zero.
    """
    data, out = edit.required(node, 0), node.outputs[0]
    axes, reduced = engine.axes(data), reduced_axes(engine, node)
    if reduced is None:
        no_rule(engine, node)
        return
    parts = centred(engine, node)
    source = data if parts is None else parts[0]
    for axis in reduced:
        rows = axes[axis]
        if rows is not None and node.op_type in SUMS and (source, axis - len(axes)) not in engine.shifted:
            engine.sinks.append(Sink(node, source, axis, None, 0, 0, 1, rows))
        elif rows is not None:
            engine.labels.freeze(rows, f"{edit.label(node)} mixes it with others along the axis")
    keep = edit.int_attribute(node, "keepdims", 1)
    engine.set(out, [None if d in reduced else r for d, r in enumerate(axes) if keep or d not in reduced])


SUMS = {"ReduceL1", "ReduceL2", "ReduceMean", "ReduceSum", "ReduceSumSquare"}
"""Reductions to which a channel of zeros adds nothing; a mean still divides by the old count."""


def filled(engine: Engine, node: ir.Node) -> None:
    """All positions are alike: any can go, where the extent does not follow the input's."""
    out = node.outputs[0]
    shape = engine.shape(out)
    fixed = [n > 1 and not engine.is_free(out, axis) for axis, n in enumerate(shape)]
    engine.set(out, [engine.labels.fresh(n) if f else None for n, f in zip(shape, fixed, strict=True)])


def quantize_or_dequantize(engine: Engine, node: ir.Node) -> None:
    """Keep every axis; scales and zero points along `axis` go with it."""
    data = edit.required(node, 0)
    axes = list(engine.axes(data))
    axis = edit.int_attribute(node, "axis", 1)
    for value in node.inputs[1:]:
        if value is not None and len(engine.shape(value)) == 1 and engine.shape(value)[0] > 1:
            axes[axis] = engine.join(node, axes[axis], engine.axes(value)[0])
        elif value is not None and len(engine.shape(value)) > 1:
            engine.freeze_all(data, f"{edit.label(node)}: it is quantized in blocks")
    if edit.constant(data) is not None and constants.root(node.outputs[0], dequantized=True) is None:
        engine.freeze_all(data, f"{edit.label(node)}: its zero point is not 0")
    engine.set(node.outputs[0], axes)


_ELEMENTWISE = (
    "Abs Acos Acosh Add And Asin Asinh Atan Atanh BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Ceil Celu Clip Cos Cosh "
    "Div Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual HardSigmoid HardSwish IsInf IsNaN LeakyRelu Less "
    "LessOrEqual Log Max Mean Min Mish Mod Mul Neg Not Or Pow PRelu Reciprocal Relu Round Selu Shrink Sigmoid Sign "
    "Sin Sinh Softplus Softsign Sqrt Sub Sum Swish Tan Tanh ThresholdedRelu Where Xor"
)
_POOLING = "AveragePool GlobalAveragePool GlobalLpPool GlobalMaxPool LpPool MaxPool"
_REDUCTIONS = (
    "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare"
)
_MIXING = "Hardmax LogSoftmax LpNormalization LRN MeanVarianceNormalization Softmax"

RULES: dict[str, Rule] = {
    **dict.fromkeys(operators.CONVOLUTIONS, conv),
    **dict.fromkeys(operators.RECURRENT, recurrent),
    "BatchNormalization": per_channel,
    "ConstantOfShape": filled,
    "DequantizeLinear": quantize_or_dequantize,
    "Gemm": gemm,
    "GroupNormalization": group_normalization,
    "InstanceNormalization": per_channel,
    "MatMul": matmul,
    "QuantizeLinear": quantize_or_dequantize,
    "Resize": resize,
    "Upsample": resize,
    **dict.fromkeys(NORMS, normalization),
    **dict.fromkeys(ACTIVATIONS, elementwise),
    **{op: _refusing(label) for op, label in HEADS.items()},
    "com.microsoft::FusedConv": fused_conv,
    "com.microsoft::FusedGemm": gemm,
    "com.microsoft::FusedMatMul": fused_product,
    "com.microsoft::MoE": _refusing(mixture_of_experts),
    "com.microsoft::NhwcConv": _refusing(nhwc_conv),
    **dict.fromkeys(_ELEMENTWISE.split(), elementwise),
    **dict.fromkeys(_MIXING.split(), normalised_over_axes),
    **dict.fromkeys(_POOLING.split(), pooling),
    **dict.fromkeys(_REDUCTIONS.split(), reduction),
}
