"""A removal as those see it that carry it out: which positions stay, and how a node's sizes are rewritten."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ..errors import PassError
from ..graph import edit
from .groups import Groups
from .labels import Rows

Kept = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Removal:
    """What a node rewriter may ask about the removal; `arrays` are constants as they were before it."""

    insert: edit.Inserter
    groups: Groups
    gone: npt.NDArray[np.bool_]
    arrays: Mapping[ir.Value, npt.NDArray[np.floating]] = field(default_factory=dict)
    _follows: dict[ir.Value, bool] = field(default_factory=dict)

    def kept(self, value: ir.Value | None, axis: int) -> Kept | None:
        """Return which positions of an axis stay; None when all do."""
        axes = self.groups.axes.get(value) if value is not None else None
        rows: Rows | None = axes[axis] if axes else None
        if rows is None:
            return None
        removed = np.asarray(self.gone[rows].any(0))
        return ~removed if removed.any() else None

    def extent(self, value: ir.Value, axis: int) -> int:
        """Return the extent of an axis after the removal."""
        kept = self.kept(value, axis)
        return self.groups.engine.shape(value)[axis] if kept is None else int(kept.sum())

    def follows(self, value: ir.Value) -> bool:
        """Tell whether a size computed in the graph changes by itself: whether it asks what loses channels."""
        if value not in self._follows:
            node = value.producer()
            read = [] if node is None else [v for v in node.inputs if v is not None]
            moving = value in self.groups.engine.known.moving
            if node is not None and moving and edit.op_of(node) in ("Shape", "Size"):
                ranks = range(len(self.groups.engine.shape(read[0])))
                self._follows[value] = any(self.kept(read[0], axis) is not None for axis in ranks)
            else:
                self._follows[value] = moving and any(self.follows(v) for v in read)
        return self._follows[value]

    def parameter(self, node: ir.Node, index: int) -> npt.NDArray[np.int64] | None:
        """Return a node's constant integer input as a fresh array; None when it follows shapes by itself."""
        value = node.inputs[index] if len(node.inputs) > index else None
        array = self.groups.engine.constant(value)
        return None if array is None else np.array(array, np.int64)

    def set_parameter(self, node: ir.Node, index: int, array: npt.NDArray[np.int64]) -> None:
        """Give the node a constant of its own, of the type of the old one: others may read that."""
        while len(node.inputs) <= index:
            node.resize_inputs(len(node.inputs) + 1)
        old = self.groups.engine.constant(node.inputs[index])
        name = f"{node.name or node.outputs[0].name}_{index}"
        dtype = np.int64 if old is None else old.dtype
        node.replace_input_with(index, self.insert.constant(name, np.asarray(array, dtype)))

    def set_elements(self, node: ir.Node, index: int, elements: Mapping[int, int]) -> None:
        """Overwrite some elements of a parameter that is computed in the graph; the others stay computed."""
        value = edit.required(node, index)
        count, name = len(self.groups.engine.known.values[value]), edit.output_name(node)
        parts = []
        for place in range(count):
            if place in elements:
                parts.append(self.insert.constant(f"{name}_{place}", np.array([elements[place]])))
            else:
                where = self.insert.constant(f"{name}_at_{place}", np.array([place]))
                parts.append(self.insert.node("Gather", [value, where], attributes={"axis": 0}, before=node))
        node.replace_input_with(index, self.insert.node("Concat", parts, attributes={"axis": 0}, before=node))


def labels_of(groups: Groups, channels: Mapping[str, list[int]]) -> list[int]:
    """Translate group names and channel numbers into labels."""
    by_name = {group.name: group for group in groups.prunable}
    labels: list[int] = []
    for name, indices in channels.items():
        if name not in by_name:
            raise PassError(f"group '{name}': the model has no prunable group of that name; was the plan made for it?")
        if any(not 0 <= i < by_name[name].size for i in indices):
            raise PassError(f"group '{name}': channels must be in 0…{by_name[name].size - 1}, got {indices}")
        labels += by_name[name].labels[indices].tolist()
    return labels
