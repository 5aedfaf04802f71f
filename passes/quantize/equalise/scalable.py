"""Which channels of which tensors can be multiplied by a factor without changing what a model computes."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.channels.analysis import analyse
from onnxcompress.channels.groups import Groups
from onnxcompress.channels.norms import NORMS
from onnxcompress.graph import edit
from onnxcompress.graph.layer import Layer
from onnxcompress.graph.operators import on_integers

from .axes import Row, Scalable, ScaledAxis
from .isolate import CHANNEL_AXES, direct, gamma, gated, is_normalisation, isolate, scale_of

_HOMOGENEOUS = (
    "Abs AveragePool Concat DepthToSpace Dropout Expand Flatten Gather GlobalAveragePool GlobalMaxPool Identity "
    "LeakyRelu MaxPool Neg Pad PRelu Relu Reshape Resize Slice SpaceToDepth Split Squeeze Tile Transpose Unsqueeze "
    "Upsample"
)
HOMOGENEOUS = frozenset(_HOMOGENEOUS.split())
"""f(s·x) = s·f(x) for every s > 0, constants unchanged."""

REDUCTIONS = {"ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum"}
"""The same, along the axes that stay."""

JOINTLY_HOMOGENEOUS = {"Add", "Concat", "Max", "Min", "Sub", "Sum"}
"""f(s·x, s·y) = s·f(x, y): constants among the operands are multiplied too."""

BLIND = {"Shape", "Size"}
"""They do not look at the values."""


def find_scalable(model: ir.Model) -> Scalable:
    """Return which channels can be scaled.

    Parameters
    ----------
    model : onnx_ir.Model
        Constants folded. Not changed.

    Notes
    -----
    The labels are those of the group engine, on a copy in which grouped convolutions and the factors of normalisations
    mix all channels: what they read and what they give can be scaled each by its own factors.
    """
    copy = model.clone()
    isolate(copy)
    freezer = _Freezer(copy)
    for node in model.graph:
        freezer.visit(node)
    return freezer.result()


class _Freezer:
    """Visits each node and freezes what cannot be scaled."""

    def __init__(self, copy: ir.Model) -> None:
        groups = Groups(analyse(copy))
        self._labels = {str(value.name): axes for value, axes in groups.axes.items()}
        self._reasons: dict[int, str] = dict(groups.engine.labels.frozen())
        self._scalable = Scalable(groups.engine.labels.count)
        for axes in groups.axes.values():
            for rows in axes:
                if rows is not None and len(rows) > 1:
                    several = (rows > 0).sum(0) > 1
                    self._freeze(rows[:, several], "it is one factor of a position, such as a head's")

    def rows(self, value: ir.Value | None, axis: int) -> Row | None:
        """Return the label of each position of an axis; None where there are none."""
        axes = self._labels.get(str(value.name)) if value is not None else None
        if axes is None or not -len(axes) <= axis < len(axes):
            return None
        rows = axes[axis]
        return None if rows is None else rows[0]

    def rank(self, value: ir.Value | None) -> int:
        return len(self._labels.get(str(value.name), ())) if value is not None else 0

    def _freeze(self, rows: npt.NDArray[np.int64] | None, reason: str) -> None:
        if rows is not None:
            for label in np.unique(rows).tolist():
                self._reasons.setdefault(label, reason)

    def freeze(self, value: ir.Value | None, reason: str, axes: Iterable[int] | None = None) -> None:
        for axis in range(self.rank(value)) if axes is None else axes:
            self._freeze(self.rows(value, axis), reason)

    def visit(self, node: ir.Node) -> None:
        op = edit.op_of(node)
        if op in BLIND:
            return
        rule = RULES.get(op, _Freezer.unknown)
        if gamma(node) is not None:
            rule = _Freezer.gamma
        elif gated(node) is not None:
            rule = _Freezer.gated
        elif op in JOINTLY_HOMOGENEOUS:
            rule = _Freezer.jointly
        elif op in HOMOGENEOUS or op in REDUCTIONS:
            rule = _Freezer.homogeneous
        rule(self, node)

    def unknown(self, node: ir.Node) -> None:
        for value in (*node.inputs, *node.outputs):
            self.freeze(value, f"{edit.label(node)}: scaling its input does not scale its output")

    def weighted(self, node: ir.Node) -> None:
        """A weight undoes the factors of its input and makes those of its output."""
        layer, out = Layer(node), node.outputs[0]
        if edit.op_of(node) == "MatMul" and edit.constant(layer.value) is None and edit.constant(layer.data) is None:
            self.freeze(layer.data, f"{edit.label(node)} multiplies it by what is computed")
            for value in (layer.value, out):
                self.freeze(value, f"{edit.label(node)}: not its channel axis", range(self.rank(value) - 1))
            return
        if not direct(layer.value) or layer.transposes_input or layer.is_stack:
            self.unknown(node)
            return
        channels = layer.known.channels
        for value in (layer.data, out):
            others = set(range(self.rank(value))) - {channels % max(self.rank(value), 1)}
            self.freeze(value, f"{edit.label(node)}: not its channel axis", others)
        read, made = self.rows(layer.data, channels), self.rows(out, channels)
        if read is not None:
            self._scalable.consumers.append(ScaledAxis(node, layer.index, layer.axes.summed, read))
            self._note(layer.data, channels, read)
        if made is not None:
            self._scalable.producers.append(ScaledAxis(node, layer.index, layer.axes.output, made))
        bias = layer.known.bias
        if layer.bias_value is not None and bias is not None and made is not None:
            self._constant(node, bias, -1, made, f"{edit.label(node)}: its bias is not constant")

    def _constant(self, node: ir.Node, index: int, axis: int, made: Row, reason: str) -> None:
        """Scale a constant that is added along with what it is added to; it must not broadcast along the axis."""
        tensor = edit.constant(node.inputs[index])
        if tensor is None:
            self._freeze(made, reason)
        elif len(tensor.shape) >= -axis and tensor.shape[axis] == len(made):
            self._scalable.added.append(ScaledAxis(node, index, len(tensor.shape) + axis, made))
        elif tensor.numpy().any():
            self._freeze(made, f"{edit.label(node)}: one constant is added to all of them")

    def _note(self, value: ir.Value, axis: int, rows: Row) -> None:
        self._scalable.tensors[str(value.name), axis % self.rank(value)] = rows

    def normalisation(self, node: ir.Node) -> None:
        """What is normalised keeps its scale; what comes out has that of the factors."""
        out = node.outputs[0]
        axis, scale = CHANNEL_AXES[edit.op_of(node)], scale_of(node)
        made = self.rows(out, axis)
        if not is_normalisation(node) or made is None:
            self.unknown(node)
            return
        reason = f"{edit.label(node)} normalises it"
        for value in (*node.inputs[:scale], *node.outputs[1:]):
            self.freeze(value, reason)
        self.freeze(out, reason, set(range(self.rank(out))) - {axis % self.rank(out)})
        self._scalable.producers.append(ScaledAxis(node, scale, 0, made))
        shift = NORMS[edit.op_of(node)].shift if edit.op_of(node) in NORMS else scale + 1
        if shift is not None and len(node.inputs) > shift and node.inputs[shift] is not None:
            self._constant(node, shift, -1, made, reason)

    def gamma(self, node: ir.Node) -> None:
        """A constant for each position of the last axis makes a scale of its own."""
        index, out = gamma(node), node.outputs[0]
        tensor, made = None if index is None else edit.constant(node.inputs[index]), self.rows(out, -1)
        if index is None or made is None or tensor is None:
            self.unknown(node)
            return
        reason = f"{edit.label(node)} multiplies it by a constant for each position"
        self.freeze(node.inputs[1 - index], reason)
        self.freeze(out, reason, range(self.rank(out) - 1))
        self._scalable.producers.append(ScaledAxis(node, index, len(tensor.shape) - 1, made))

    def gated(self, node: ir.Node) -> None:
        """A product of two computed tensors is scaled like one of them, if the other stays."""
        self.freeze(node.inputs[1 - (gated(node) or 0)], f"{edit.label(node)} multiplies it by what is computed")

    def homogeneous(self, node: ir.Node) -> None:
        op, data, out = edit.op_of(node), node.inputs[0], node.outputs[0]
        if edit.constant(data) is not None or self._fills(node):
            self.unknown(node)
        elif op in REDUCTIONS:
            kept = [r for axis in range(self.rank(out)) if (r := self.rows(out, axis)) is not None]
            for axis in range(self.rank(data)):
                rows = self.rows(data, axis)
                if rows is not None and not np.isin(rows, np.concatenate([*kept, np.zeros(1, np.int64)])).all():
                    self._freeze(rows, f"{edit.label(node)} mixes it with others along the axis")

    def _fills(self, node: ir.Node) -> bool:
        """Tell whether a node may put numbers beside the data that are not scaled, or scale by what is computed."""
        op, inputs = edit.op_of(node), node.inputs
        if op == "Pad" and len(inputs) > 2 and inputs[2] is not None:
            tensor = edit.constant(inputs[2])
            return tensor is None or bool(tensor.numpy().any())
        if op == "Resize":
            mode = node.attributes.get_string("coordinate_transformation_mode", "half_pixel")
            return mode == "tf_crop_and_resize"
        return op == "PRelu" and edit.constant(inputs[1]) is None

    def jointly(self, node: ir.Node) -> None:
        """Operands of a sum have the same factors."""
        out = node.outputs[0]
        joined = edit.op_of(node) == "Concat"
        for axis in range(-self.rank(out), 0):
            made = self.rows(out, axis)
            if made is None:
                continue
            for index, value in enumerate(node.inputs):
                if edit.constant(value) is not None:
                    rows = self.rows(value, axis) if joined else made
                    if rows is not None:
                        self._constant(node, index, axis, rows, "")
                    elif joined and axis != self._concat_axis(node):
                        self._freeze(made, f"{edit.label(node)}: it meets a constant")
                    continue
                rows = self.rows(value, axis)
                if rows is not None and value is not None:
                    self._note(value, axis, rows)
                elif not joined:
                    self._freeze(made, f"{edit.label(node)}: an operand is the same for all of them")

    def _concat_axis(self, node: ir.Node) -> int:
        rank = self.rank(node.outputs[0])
        return edit.int_attribute(node, "axis", 0) % rank - rank

    def product(self, node: ir.Node) -> None:
        """A product, or quotient, with a constant is scaled like the other operand."""
        divisor = edit.constant(node.inputs[1]) is not None
        factor = edit.constant(node.inputs[0]) is not None and edit.op_of(node) == "Mul"
        if divisor == factor:
            self.unknown(node)

    def clip(self, node: ir.Node) -> None:
        """Between its bounds it does nothing, so factors are limited by how near to them the samples come."""
        bounds = [-np.inf, np.inf]
        for index in (1, 2):
            value = node.inputs[index] if len(node.inputs) > index else None
            tensor = edit.constant(value)
            if value is not None and (tensor is None or tensor.size != 1):
                self.unknown(node)
                return
            if tensor is not None:
                bounds[index - 1] = float(tensor.numpy().ravel()[0])
        low, high = bounds
        if not low <= 0 <= high:
            self.unknown(node)
            return
        for axis in range(self.rank(node.inputs[0])):
            rows = self.rows(node.inputs[0], axis)
            if rows is not None:
                self._scalable.clips.append((ScaledAxis(node, 0, axis, rows), low, high))

    def result(self) -> Scalable:
        """Keep what can be scaled."""
        return self._scalable.without(self._reasons)


RULES: dict[str, Callable[[_Freezer, ir.Node], None]] = {
    **dict.fromkeys(CHANNEL_AXES, _Freezer.normalisation),
    **dict.fromkeys(on_integers("layer"), _Freezer.weighted),
    "Clip": _Freezer.clip,
    "Div": _Freezer.product,
    "Mul": _Freezer.product,
}
