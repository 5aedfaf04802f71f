"""What is known of every axis while the graph is walked: rules ask it and tell it."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ..graph import constants, edit, shapes
from ..graph.interface import Interface
from .head_labels import Heads
from .labels import Labels, Rows
from .trace import Trace

Axes = list[Rows | None]
"""The label rows of each axis; None for an axis whose positions nothing may remove one by one."""


@dataclass(frozen=True)
class Sink:
    """A place where channels are used up: summed over, with weights or without.

    Attributes
    ----------
    node : onnx_ir.Node
        The operator that sums over the axis.
    data, axis :
        The operand and the axis that is summed over.
    weight : onnx_ir.Value or None
        The other operand; None when the operator just adds positions up (ReduceSum).
    in_axis, out_axis : int
        Axes of `weight`: the one summed over, and the one that becomes the output's channels.
    groups : int
        How many groups the data axis is cut into (grouped convolution).
    rows : Rows
        The labels used up at each position of the data axis.
    """

    node: ir.Node
    data: ir.Value
    axis: int
    weight: ir.Value | None
    in_axis: int
    out_axis: int
    groups: int
    rows: Rows


class Engine:
    """What a rule may ask and say. Rules are functions of an engine and a node, in a table by operator.

    `shifted` holds the values, and axes counted from the end, along which a masked channel is not zero, since something
    was added to all of them: the sum over such a channel is not nothing. `divisors` are the labels of values that are
    divided by and would be zero where a channel is. `followed` are the nodes that a rule was applied to: of the others
    some shape is not known, or does not fit, and nothing may be concluded. `heads` are those of attention operators.
    """

    def __init__(self, model: ir.Model, interface: Interface = "stays") -> None:
        self.model, self.interface = model, interface
        self.known, self.larger = shapes.concrete_twice(model)
        self.labels = Labels()
        self.sinks: list[Sink] = []
        self.opset = model.opset_imports.get("", 1)
        self._axes: dict[ir.Value, Axes] = {}
        self.fixed: dict[ir.Value, str] = {}
        self.shifted: set[tuple[ir.Value, int]] = set()
        self.divisors: list[Rows] = []
        self.followed: set[ir.Node] = set()
        self.traces: dict[Hashable, list[Trace] | None] = {}
        self.heads: dict[ir.Node, Heads] = {}

    def shape(self, value: ir.Value) -> tuple[int, ...]:
        """Return the concrete shape, or () when it is unknown."""
        return self.known.shapes.get(value, ())

    def constant(self, value: ir.Value | None) -> npt.NDArray[Any] | None:
        """Return the array of a small value that no input can change, else None."""
        array = self.known.values.get(value) if value is not None else None
        if value is None or array is None or value not in self.known.moving:
            return array
        other = self.larger.values.get(value)
        return array if other is not None and np.array_equal(array, other) else None

    def array(self, value: ir.Value | None) -> npt.NDArray[Any] | None:
        """Return what a constant holds, also of one that is moved or dequantized before it is used."""
        return constants.find(value, dequantized=True, read=self._read)

    def _read(self, value: ir.Value | None) -> npt.NDArray[Any] | None:
        held = constants.held(value)
        return self.constant(value) if held is None else held

    def is_free(self, value: ir.Value, axis: int) -> bool:
        """Tell whether the extent of an axis depends on the input's."""
        other = self.larger.shapes.get(value)
        return other is not None and len(other) > axis and other[axis] != self.shape(value)[axis]

    def shifted_axes(self, value: ir.Value) -> list[int]:
        """Return the axes, counted from the end, along which a value is shifted."""
        return [axis for axis in range(-len(self.shape(value)), 0) if (value, axis) in self.shifted]

    def axes(self, value: ir.Value) -> Axes:
        """Return the label rows of each axis; a constant gets fresh ones when it is first met."""
        if value not in self._axes:
            shape = self.shape(value)
            tensor = edit.constant(value)
            movable = tensor is not None and tensor.dtype in shapes.FLOATS | QUANTIZED
            self._axes[value] = [self.labels.fresh(n) if movable and n > 1 else None for n in shape]
        return self._axes[value]

    def set(self, value: ir.Value, axes: Sequence[Rows | None]) -> None:
        """Give a node's output its label rows."""
        self._axes[value] = list(axes)

    def is_weight(self, value: ir.Value | None) -> bool:
        """Tell whether a value is a constant that may be a weight, or has labels, as one that was moved has."""
        if value is None or value in self._axes:
            return value is not None and any(rows is not None for rows in self._axes[value])
        tensor = edit.constant(value)
        return tensor is not None and tensor.dtype in shapes.FLOATS | QUANTIZED

    def known_axes(self) -> Iterable[tuple[ir.Value, Axes]]:
        """Every value met so far, with its label rows."""
        return self._axes.items()

    def join(self, node: ir.Node, a: Rows | None, b: Rows | None) -> Rows | None:
        """Let two axes lose the same positions. Against an axis that is fixed, the other freezes."""
        if a is not None and b is not None and a.shape[1] == b.shape[1]:
            self.labels.join(a, b, f"{edit.label(node)}: it meets positions that stay")
            return a
        for rows in (a, b):
            if rows is not None:
                self.labels.freeze(rows, self._why_fixed(node))
        return a if a is not None else b

    def freeze_all(self, value: ir.Value, reason: str) -> None:
        """Freeze every label of a value."""
        self.freeze_axes(value, range(len(self.axes(value))), reason)

    def freeze_axes(self, value: ir.Value | None, axes: Iterable[int], reason: str) -> None:
        """Freeze the labels of some axes of a value (negative axes count from the end)."""
        if value is None:
            return
        known = self.axes(value)
        for axis in axes:
            rows = known[axis] if -len(known) <= axis < len(known) else None
            if rows is not None:
                self.labels.freeze(rows, reason)

    def _why_fixed(self, node: ir.Node) -> str:
        reasons = [self.fixed[v] for v in node.inputs if v is not None and v in self.fixed]
        return f"{edit.label(node)}: {reasons[0] if reasons else 'it meets an axis that is fixed'}"


QUANTIZED = {ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT32}
