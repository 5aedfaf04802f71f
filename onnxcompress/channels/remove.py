"""Remove channels: slice every constant, and rewrite every constant size, index and attribute that counts them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ..errors import PassError
from ..graph import edit, shapes
from .groups import Groups
from .labels import Rows

Kept = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Removal:
    """What a node rewriter may ask about the removal."""

    model: ir.Model
    groups: Groups
    gone: npt.NDArray[np.bool_]

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

    def parameter(self, node: ir.Node, index: int) -> npt.NDArray[np.int64] | None:
        """Return a node's constant integer input as a fresh array; None when it follows shapes by itself."""
        value = node.inputs[index] if len(node.inputs) > index else None
        array = self.groups.engine.known.fixed(value)
        return None if array is None else np.array(array, np.int64)

    def set_parameter(self, node: ir.Node, index: int, array: npt.NDArray[np.int64]) -> None:
        """Give the node a constant of its own: others may read the old one."""
        while len(node.inputs) <= index:
            node.resize_inputs(len(node.inputs) + 1)
        name = f"{node.name or node.outputs[0].name}_{index}"
        node.replace_input_with(index, edit.add_constant(self.model.graph, name, np.asarray(array, np.int64)))


def remove(model: ir.Model, groups: Groups, channels: Mapping[str, list[int]]) -> int:
    """Remove channels from a model, in place.

    Parameters
    ----------
    model : onnx_ir.Model
        The model that `groups` was found in.
    groups : Groups
    channels : mapping
        Group name → the channels that go, numbered as in `Group.labels`.

    Returns
    -------
    int
        How many elements of constants went.

    Raises
    ------
    PassError
        A name is no prunable group of this model, or a channel is out of range.
    """
    removal = Removal(model, groups, groups.table(labels_of(groups, channels)))
    for node in model.graph:
        rewrite = REWRITERS.get(edit.op_of(node))
        if rewrite is not None:
            rewrite(removal, node)
    removed = 0
    for value, axes in groups.axes.items():
        tensor = edit.constant(value)
        if tensor is None:
            continue
        kept = {axis: k for axis in range(len(axes)) if (k := removal.kept(value, axis)) is not None}
        if kept:
            array = tensor.numpy()
            for axis, keep in kept.items():
                array = np.compress(keep, array, axis)
            removed += tensor.size - array.size
            edit.set_constant(value, array)
    shapes.forget(model)
    shapes.infer(model)
    return removed


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


def _conv(removal: Removal, node: ir.Node) -> None:
    """Set `group` to what is left of it."""
    data, weight = node.inputs[0], node.inputs[1]
    assert data is not None and weight is not None
    before = edit.int_attribute(node, "group", 1)
    if before == 1:
        return
    if node.op_type == "Conv":
        groups = removal.extent(data, 1) // removal.extent(weight, 1)
    else:
        groups = removal.extent(node.outputs[0], 1) // removal.extent(weight, 1)
    edit.set_attribute(node, "group", groups)


def _group_normalization(removal: Removal, node: ir.Node) -> None:
    data = node.inputs[0]
    assert data is not None
    size = removal.groups.engine.shape(data)[1] // edit.int_attribute(node, "num_groups", 1)
    edit.set_attribute(node, "num_groups", removal.extent(data, 1) // size)


def _target(removal: Removal, node: ir.Node) -> None:
    """Rewrite the constant target shape of Reshape and Expand; 0 and -1 (Reshape) and 1 (Expand) mean themselves."""
    out = node.outputs[0]
    attribute = edit.ints_attribute(node, "shape") if len(node.inputs) < 2 else None
    target = np.array(attribute) if attribute is not None else removal.parameter(node, 1)
    if target is None:
        return
    old = removal.groups.engine.shape(out)
    new = target.copy()
    for axis in range(-min(len(target), len(old)), 0):
        if removal.kept(out, axis) is not None and int(target[axis]) == old[axis]:
            new[axis] = removal.extent(out, axis)
    if attribute is not None:
        edit.set_attribute(node, "shape", new.tolist())
    elif (new != target).any():
        removal.set_parameter(node, 1, new)


def _split(removal: Removal, node: ir.Node) -> None:
    """Say the sizes: halves need not stay halves."""
    axis = edit.int_attribute(node, "axis", 0)
    if all(removal.kept(value, axis) is None for value in node.outputs):
        return
    sizes = [removal.extent(value, axis) for value in node.outputs]
    if removal.groups.engine.opset < 13:
        edit.set_attribute(node, "split", sizes)
    else:
        node.attributes.pop("num_outputs", None)
        removal.set_parameter(node, 1, np.array(sizes))


def _slice(removal: Removal, node: ir.Node) -> None:
    """Move starts and ends to where the kept positions now stand."""
    data = node.inputs[0]
    assert data is not None
    shape = removal.groups.engine.shape(data)
    by_attribute = removal.groups.engine.opset < 10
    read = (
        (lambda i, name: edit.ints_attribute(node, name)) if by_attribute else (lambda i, _: removal.parameter(node, i))
    )
    starts, ends, axes = read(1, "starts"), read(2, "ends"), read(3, "axes")
    if starts is None or ends is None:
        return
    starts, ends = np.array(starts), np.array(ends)
    changed = False
    for index, axis in enumerate(range(len(starts)) if axes is None else [int(a) for a in axes]):
        kept = removal.kept(data, axis)
        if kept is not None:
            first, last, _ = slice(int(starts[index]), int(ends[index])).indices(shape[axis])
            starts[index] = kept[:first].sum()
            ends[index] = starts[index] + kept[first:last].sum()
            changed = True
    if changed and by_attribute:
        edit.set_attribute(node, "starts", starts.tolist())
        edit.set_attribute(node, "ends", ends.tolist())
    elif changed:
        removal.set_parameter(node, 1, starts)
        removal.set_parameter(node, 2, ends)


def _gather(removal: Removal, node: ir.Node) -> None:
    """Renumber the indices and drop those of removed positions."""
    axis = edit.int_attribute(node, "axis", 0)
    kept = removal.kept(node.inputs[0], axis)
    indices = removal.parameter(node, 1)
    if kept is None or indices is None:
        return
    indices %= len(kept)
    position = np.cumsum(kept) - 1
    removal.set_parameter(node, 1, position[indices[kept[indices]]] if indices.ndim else position[indices])


def _pad(removal: Removal, node: ir.Node) -> None:
    """Pad by as many channels as are left of those that were added."""
    data, out = node.inputs[0], node.outputs[0]
    assert data is not None
    rank = len(removal.groups.engine.shape(data))
    attribute = edit.ints_attribute(node, "pads")
    pads = np.array(attribute) if attribute is not None else removal.parameter(node, 1)
    if pads is None:
        return
    given = removal.parameter(node, 3)
    axes = list(range(rank)) if given is None else [int(a) % rank for a in given]
    new = pads.copy()
    for index, axis in enumerate(axes):
        kept = removal.kept(out, axis)
        if kept is not None:
            before, after = int(pads[index]), int(pads[index + len(axes)])
            new[index] = kept[:before].sum()
            new[index + len(axes)] = kept[len(kept) - after :].sum()
    if attribute is not None:
        edit.set_attribute(node, "pads", new.tolist())
    elif (new != pads).any():
        removal.set_parameter(node, 1, new)


def _resize(removal: Removal, node: ir.Node) -> None:
    sizes = removal.parameter(node, 3)
    if sizes is not None and len(sizes) == len(removal.groups.engine.shape(node.outputs[0])):
        removal.set_parameter(node, 3, np.array([removal.extent(node.outputs[0], d) for d in range(len(sizes))]))


REWRITERS: dict[str, Callable[[Removal, ir.Node], None]] = {
    "Conv": _conv,
    "ConvTranspose": _conv,
    "Expand": _target,
    "Gather": _gather,
    "GroupNormalization": _group_normalization,
    "Pad": _pad,
    "Reshape": _target,
    "Resize": _resize,
    "Slice": _slice,
    "Split": _split,
}
