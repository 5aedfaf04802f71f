"""Streams whose channels may be turned into others: what writes them and what reads them only multiply by weights.

Between its writers and its readers such a stream is added up, moved, and divided by its length (an RMS normalisation,
which no rotation changes), and no operator treats one channel otherwise than another. So the weights that write it can
be multiplied by an orthogonal matrix and those that read it by its transpose, and the model computes what it did
(Ashkboos et al., SliceGPT, arXiv:2401.15024). The scale of a normalisation goes into the weights that read it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ..graph import edit, operators
from ..graph.layer import Layer
from .groups import Group, Groups

Matrix = npt.NDArray[np.float64]
State = Literal["turned", "scaled", "squared"]

SUMS = ("Add", "Sub", "Sum")
PASSED_ON = (*operators.KEEP_ELEMENTS, *operators.MOVE_ELEMENTS, "Concat", "Dropout", "Split")
LENGTHS = ("ReduceMean", "ReduceSum")
"""What they make of squares is the same in any basis."""

RMS_NORMS = {
    "RMSNormalization": 1,
    "SimplifiedLayerNormalization": 1,
    "com.microsoft::SimplifiedLayerNormalization": 1,
    "com.microsoft::SkipSimplifiedLayerNormalization": 2,
}
"""Operators that divide by the root of the mean square → the input that holds their scale."""

ZEROS = 0.01
"""Of more zeros a weight has a mask; the row of a padding token is none."""


@dataclass
class Stream:
    """A group whose channels can be turned.

    Attributes
    ----------
    group : Group
    writers : set
        (constant, axis) whose positions are the stream's channels.
    readers : dict
        (constant, axis) that the stream is multiplied by → the scale that stands before it, if one does.
    read : dict
        Tensor that readers multiply → where one reads it: first output of a node, input, axis.
    """

    group: Group
    writers: set[tuple[ir.Value, int]] = field(default_factory=set)
    readers: dict[tuple[ir.Value, int], ir.Value | None] = field(default_factory=dict)
    read: dict[ir.Value, tuple[str, int, int]] = field(default_factory=dict)


def find_streams(groups: Groups) -> dict[str, Stream]:
    """Return the groups whose channels can be turned, by their names."""
    found = {}
    for group in groups.prunable:
        stream = _Walk(groups, group).stream() if _may(group) else None
        if stream is not None:
            found[group.name] = stream
    return found


def _may(group: Group) -> bool:
    """Tell whether each axis is the stream's alone, and each of its channels stands there once."""
    lines = {id(member.line): member for member in group.members}.values()
    return group.size > 1 and all(
        len(member.line.rows) == 1 and np.array_equal(np.sort(member.line.rows[0]), group.labels) for member in lines
    )


class _UnfitError(Exception):
    """An operator that treats the channels one by one."""


class _Walk:
    """Follows a stream from its writers to its readers."""

    def __init__(self, groups: Groups, group: Group) -> None:
        self._groups, self._found = groups, Stream(group)
        self._axes: dict[ir.Value, list[int]] = {}
        for member in group.members:
            self._axes.setdefault(member.value, []).append(member.axis)
        self._states: dict[ir.Value, State] = {}
        self._scales: dict[ir.Value, ir.Value] = {}
        self._summed = {(sink.node, sink.data): sink for sink in groups.sinks}

    def stream(self) -> Stream | None:
        """Return it, or None where it cannot be turned."""
        touched = [n for n in self._groups.engine.model.graph if any(v in self._axes for v in (*n.inputs, *n.outputs))]
        try:
            for node in touched:
                self._follow(node)
            self._check(touched)
        except _UnfitError:
            return None
        return self._found

    def _follow(self, node: ir.Node) -> None:
        op, layer = edit.op_of(node), Layer.of(node)
        read = [value for value in node.inputs if value in self._states]
        if op in ("Shape", "Size"):
            return
        if op == "Gather" and edit.constant(node.inputs[0]) is not None:
            self._write(node, node.inputs[0])
        elif layer is not None:
            self._multiply(node, layer, read)
        elif op in RMS_NORMS:
            self._normalise(node, RMS_NORMS[op])
        elif read and op in PASSED_ON:
            self._pass_on(node, read)
        elif op in SUMS:
            self._add(node)
        elif read and op in ("Mul", "Div", "Pow"):
            self._scale(node, op)
        elif not (op in LENGTHS and read == [node.inputs[0]] and self._states[read[0]] == "squared"):
            raise _UnfitError(op)

    def _say(self, value: ir.Value, state: State, scale: ir.Value | None = None) -> None:
        if value in self._axes:
            if len(self._axes[value]) > 1:
                raise _UnfitError(value.name)
            self._states[value] = state
            if scale is not None:
                self._scales[value] = scale

    def _write(self, node: ir.Node, *constants: ir.Value | None) -> None:
        for value in constants:
            if value in self._axes and value is not None:
                if edit.constant(value) is None:
                    raise _UnfitError(value.name)
                self._found.writers.update((value, axis) for axis in self._axes[value])
        for out in node.outputs:
            self._say(out, "turned")

    def _multiply(self, node: ir.Node, layer: Layer, read: list[ir.Value]) -> None:
        weight = layer.value
        if layer.groups != 1 or edit.constant(weight) is None or layer.is_stack:
            raise _UnfitError(node.op_type)
        for data in read:
            sink = self._summed.get((node, data))
            if data is weight or sink is None or sink.weight is not weight or self._states[data] == "squared":
                raise _UnfitError(node.op_type)
            key = weight, sink.in_axis
            if self._found.readers.setdefault(key, self._scales.get(data)) is not self._scales.get(data):
                raise _UnfitError(str(weight.name))
            self._found.read.setdefault(data, (edit.output_name(node), list(node.inputs).index(data), sink.axis))
        if any(out in self._axes for out in node.outputs):
            own = [axis for axis in self._axes.get(weight, []) if self._groups.roles.get((weight, axis)) == "out"]
            if len(own) != 1:
                raise _UnfitError(str(weight.name))
            self._found.writers.add((weight, own[0]))
            self._write(node, *(v for v in node.inputs if v is not weight and v not in read))

    def _normalise(self, node: ir.Node, at: int) -> None:
        if any(self._states.get(v) not in ("turned", None) for v in node.inputs if v is not None):
            raise _UnfitError(node.op_type)
        scale, bias = node.inputs[at], node.inputs[at + 1] if len(node.inputs) > at + 1 else None
        self._write(node, bias)
        self._say(node.outputs[0], "scaled", self._constant(scale))

    def _constant(self, value: ir.Value | None) -> ir.Value:
        if value is None or edit.constant(value) is None or value.is_graph_input():
            raise _UnfitError("scale")
        return value

    def _pass_on(self, node: ir.Node, read: list[ir.Value]) -> None:
        states, scales = {self._states[v] for v in read}, {self._scales.get(v) for v in read}
        others = [v for v in node.inputs if v in self._axes and v not in read]
        if len(states) > 1 or len(scales) > 1 or (others and states != {"turned"}):
            raise _UnfitError(node.op_type)
        self._write(node, *others)
        for out in node.outputs:
            self._say(out, states.copy().pop(), scales.copy().pop())

    def _add(self, node: ir.Node) -> None:
        if any(self._states.get(v, "turned") != "turned" or v not in self._axes for v in node.inputs if v is not None):
            raise _UnfitError(node.op_type)
        self._write(node, *(v for v in node.inputs if v not in self._states))

    def _scale(self, node: ir.Node, op: str) -> None:
        first, second = node.inputs[:2]
        out = node.outputs[0]
        if op == "Mul" and second in self._states and first is not second:
            first, second = second, first
        if first is None or second is None or self._states.get(first) not in ("turned", "scaled"):
            raise _UnfitError(op)
        plain = self._states[first] == "turned"
        exponent = edit.constant(second) if op == "Pow" else None
        if (op == "Mul" and first is second and plain) or (exponent is not None and (exponent.numpy() == 2).all()):
            self._say(out, "squared")
        elif op != "Pow" and second not in self._axes:
            self._say(out, self._states[first], self._scales.get(first))
        elif op == "Mul" and plain and second not in self._states:
            self._say(out, "scaled", self._constant(second))
        else:
            raise _UnfitError(op)

    def _check(self, touched: list[ir.Node]) -> None:
        """Make sure that all constants of the stream were met, are floats without a mask, and read here alone."""
        found = self._found
        met = {value for value, _ in (*found.writers, *found.readers)} | set(self._scales.values())
        axes = {*found.writers, *found.readers}
        members = [(v, a) for v, at in self._axes.items() if edit.constant(v) is not None for a in at]
        if not found.readers or any(v not in self._scales.values() and (v, a) not in axes for v, a in members):
            raise _UnfitError("a constant")
        tied = {value for value, _ in found.writers} & {v for v, scale in found.readers.items() if scale is not None}
        for value in met:
            tensor = edit.constant(value)
            if tensor is None or not tensor.dtype.is_floating_point() or value.is_graph_input():
                raise _UnfitError(str(value.name))
            if any(node not in touched for node, _ in value.uses()) or value in tied or _has_mask(tensor):
                raise _UnfitError(str(value.name))
        if any(v not in self._states for v in self._axes if edit.constant(v) is None):
            raise _UnfitError("what is computed of constants")


def _has_mask(tensor: ir.TensorProtocol) -> bool:
    """Tell whether zeros were written into it, which a rotation would fill."""
    return bool(np.count_nonzero(tensor.numpy()) < (1 - ZEROS) * tensor.size)


def rotate(stream: Stream, matrix: Matrix | None = None) -> Iterator[str]:
    """Turn a stream in place: its channels become ``x @ matrix``; scales go into what reads them.

    Parameters
    ----------
    stream : Stream
    matrix : (size, size) array, optional
        Orthogonal, in the order of the group's channels; by default only the scales move.

    Yields
    ------
    str
        The name of each constant that was changed.
    """
    matrix = np.eye(stream.group.size) if matrix is None else matrix
    index = {(member.value, member.axis): member.index for member in stream.group.members}
    arrays: dict[ir.Value, Matrix] = {}

    def turn(value: ir.Value, axis: int, by: Matrix) -> None:
        array = arrays[value] if value in arrays else edit.array(value).astype(np.float64)
        arrays[value] = np.moveaxis(np.tensordot(array, by, (axis, 0)), -1, axis)

    scales = {scale for scale in stream.readers.values() if scale is not None}
    for (value, axis), scale in stream.readers.items():
        at = index[value, axis]
        by = matrix[np.ix_(at, at)]
        if scale is not None:
            (place,) = (a for v, a in index if v is scale)
            factors = np.empty(len(at))
            factors[index[scale, place]] = edit.array(scale).astype(np.float64).ravel()
            by = factors[at][:, None] * by
        turn(value, axis, by)
    for value, axis in stream.writers:
        at = index[value, axis]
        turn(value, axis, matrix[np.ix_(at, at)])
    for value, array in {**arrays, **{s: np.ones(edit.array(s).shape) for s in scales}}.items():
        edit.set_constant(value, array.astype(edit.array(value).dtype))
        yield str(value.name)
