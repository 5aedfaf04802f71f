"""Channels that are always equal: one of them can do the work of all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ..graph import edit, operators
from ..graph.layer import Layer
from .engine import Engine
from .groups import Groups
from .means import reduced_axes
from .movement import MOVES, looks_up, moved_inputs, trace
from .removal import labels_of
from .rules import RULES, elementwise, pooling, resize

Kinds: TypeAlias = npt.NDArray[np.int64]
"""One number for each position of an axis: where it is the same, the slices there are equal for every input."""

Merges: TypeAlias = dict[str, list[tuple[int, int]]]
"""Group name → (channel that goes, equal channel that stays)."""


class Equal:
    """Which slices of every tensor are equal: the same operator on the same slices with the same parameters."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._found: dict[tuple[ir.Value, int], Kinds] = {}
        for node in engine.model.graph:
            if node not in engine.followed:
                continue
            op = edit.op_of(node)
            rule = _move if op in MOVES else _elementwise if RULES.get(op) is elementwise else FOLLOW.get(op)
            if rule is None and RULES.get(op) in (pooling, resize):
                rule = _kept
            if rule is not None:
                rule(self, node)

    def along(self, value: ir.Value, axis: int) -> Kinds:
        """Return the kinds of slices of a tensor along an axis; all different where nothing is known."""
        shape = self.engine.shape(value)
        key = (value, axis % len(shape))
        if key not in self._found:
            tensor = edit.constant(value)
            alike = np.arange(shape[axis]) if tensor is None else _rows(np.moveaxis(tensor.numpy(), axis, 0))
            self._found[key] = alike
        return self._found[key]

    def axes(self, value: ir.Value) -> list[int]:
        """Return the axes of a tensor whose positions have labels."""
        return [axis for axis, rows in enumerate(self.engine.axes(value)) if rows is not None]

    def set(self, value: ir.Value, axis: int, *parts: Kinds) -> None:
        """Note that slices are equal where all of the parts are."""
        shape = self.engine.shape(value)
        if parts and 0 <= axis < len(shape) and all(len(part) == shape[axis] for part in parts):
            self._found[value, axis] = _rows(np.stack(parts, axis=1))


def _rows(array: npt.NDArray[np.generic]) -> Kinds:
    """Number the rows of an array (along axis 0) by their bytes."""
    if not array.size:
        return np.arange(len(array))
    flat = np.ascontiguousarray(array).reshape(len(array), -1).view(np.uint8)
    keys = flat.view(f"V{flat.shape[1]}").ravel()
    return np.unique(keys, return_inverse=True)[1].reshape(-1).astype(np.int64)


def _move(equal: Equal, node: ir.Node) -> None:
    engine, sources, out = equal.engine, moved_inputs(node), node.outputs[0]
    if MOVES[edit.op_of(node)].unchanged:
        for axis in equal.axes(out):
            equal.set(out, axis, equal.along(sources[0], axis))
        return
    if looks_up(engine, node) or not any(equal.axes(value) for value in node.outputs):
        return
    for value, traced in zip(node.outputs, trace(engine, node) or [], strict=False):
        fields = []
        for axis, source in enumerate(traced.sources):
            labelled = any(engine.axes(s)[axis] is not None for s in sources)
            fields.append(_one_after_another([equal.along(s, axis) for s in sources])[source] if labelled else source)
        for out_axis in equal.axes(value):
            n = engine.shape(value)[out_axis]
            moved = [np.moveaxis(field, out_axis, 0) for field in fields]
            equal.set(value, out_axis, *(np.resize(_rows(field), n) for field in moved))


def _one_after_another(kinds: list[Kinds]) -> Kinds:
    """Join the kinds of several axes, without making any equal that were not; padding comes first."""
    starts = np.cumsum([1, *(len(each) for each in kinds)])
    return np.concatenate([[0], *(each + start for each, start in zip(kinds, starts, strict=False))])


def _elementwise(equal: Equal, node: ir.Node) -> None:
    out = node.outputs[0]
    shape = equal.engine.shape(out)
    for axis in equal.axes(out):
        back = axis - len(shape)
        read = [v for v in node.inputs if v is not None and len(equal.engine.shape(v)) >= -back]
        equal.set(out, axis, *(equal.along(v, back) for v in read if equal.engine.shape(v)[back] == shape[axis]))


def _weighted(equal: Equal, node: ir.Node) -> None:
    """Equal weights, equal biases, and, in groups, equal inputs."""
    engine, layer, out = equal.engine, Layer(node, read=equal.engine.array), node.outputs[0]
    if engine.array(layer.value) is None or layer.is_stack:
        return
    given = layer.bias_value
    bias = None if given is None else engine.array(given)
    if given is not None and (bias is None or bias.ndim > 1):
        return
    weight = layer.blocks(layer.stored).reshape(layer.outputs, -1)
    axis = layer.channel_axis(len(engine.shape(out)))
    parts = [_rows(weight)] if bias is None or bias.size == 1 else [_rows(weight), _rows(bias.reshape(-1))]
    if layer.groups > 1:
        inputs = equal.along(layer.data, 1).reshape(layer.groups, -1)
        parts.append(np.repeat(_rows(inputs), len(weight) // layer.groups))
    equal.set(out, axis, *parts)
    if not layer.is_convolution and not layer.takes_bias:
        for other in equal.axes(out)[:-1] if axis in equal.axes(out) else equal.axes(out):
            equal.set(out, other, equal.along(layer.data, other))


def _per_channel(equal: Equal, node: ir.Node) -> None:
    data, out = node.inputs[0], node.outputs[0]
    if data is not None and len(equal.engine.shape(out)) > 1:
        equal.set(out, 1, equal.along(data, 1), *(equal.along(v, 0) for v in node.inputs[1:] if v is not None))


def _normalised(equal: Equal, node: ir.Node) -> None:
    """Equal channels of a normalisation over the last axis, with equal scales and shifts, stay equal."""
    data, out = node.inputs[0], node.outputs[0]
    last = len(equal.engine.shape(out)) - 1
    if data is not None and edit.int_attribute(node, "axis", -1) in (-1, last):
        parts = [v for v in node.inputs if v is not None and equal.engine.shape(v)]
        equal.set(out, last, *(equal.along(v, -1) for v in parts))


def _kept(equal: Equal, node: ir.Node) -> None:
    """Equal slices stay equal along the axes that keep their extent: each is treated alike."""
    data, out = node.inputs[0], node.outputs[0]
    for axis in equal.axes(out) if data is not None else []:
        if data is not None and axis < 2:
            equal.set(out, axis, equal.along(data, axis))


def _reduction(equal: Equal, node: ir.Node) -> None:
    data, out, reduced = node.inputs[0], node.outputs[0], reduced_axes(equal.engine, node)
    if data is None or reduced is None:
        return
    keep = edit.int_attribute(node, "keepdims", 1)
    left = [axis for axis in range(len(equal.engine.shape(data))) if keep or axis not in reduced]
    for target in equal.axes(out):
        if left[target] not in reduced:
            equal.set(out, target, equal.along(data, left[target]))


FOLLOW: dict[str, Callable[[Equal, ir.Node], None]] = {
    "BatchNormalization": _per_channel,
    "InstanceNormalization": _per_channel,
    "LayerNormalization": _normalised,
    "RMSNormalization": _normalised,
    "ReduceMax": _reduction,
    "ReduceMean": _reduction,
    "ReduceMin": _reduction,
    "ReduceSum": _reduction,
    **dict.fromkeys(operators.PRODUCTS, _weighted),
}


def find_duplicates(groups: Groups, skipped: Mapping[str, list[int]]) -> Merges:
    """Find channels that equal another of their group wherever they are read, by weights that can be added up.

    Parameters
    ----------
    groups : Groups
    skipped : mapping
        Group name → channels that go anyway.
    """
    equal, weights = Equal(groups.engine), _addable(groups)
    unfit = np.zeros(groups.engine.labels.count, bool)
    read: list[list[tuple[int, ...]]] = [[] for _ in unfit]
    for number, sink in enumerate(groups.sinks):
        rows = groups.engine.labels.resolve(sink.rows)
        if sink.weight not in weights or len(rows) > 1:
            unfit[rows] = True
            continue
        kinds = equal.along(sink.data, sink.axis)
        for label, places in _positions(rows[0]):
            read[label].append((number, *kinds[places].tolist()))
    merges: Merges = {}
    for group in groups.prunable:
        first: dict[tuple[tuple[int, ...], ...], int] = {}
        gone = set(skipped.get(group.name, ()))
        for channel, label in enumerate(group.labels.tolist()):
            if read[label] and not unfit[label] and channel not in gone:
                kept = first.setdefault(tuple(read[label]), channel)
                if kept != channel:
                    merges.setdefault(group.name, []).append((channel, kept))
    return _leave_some(groups, merges, skipped)


def _leave_some(groups: Groups, merges: Merges, skipped: Mapping[str, list[int]]) -> Merges:
    """Give up merges that would leave an axis with nothing."""
    merged = groups.table(labels_of(groups, {name: [gone for gone, _ in pairs] for name, pairs in merges.items()}))
    gone = merged | groups.table(labels_of(groups, skipped))
    for axes in groups.axes.values():
        for rows in axes:
            if rows is not None and gone[rows].any(0).all():
                gone[rows[merged[rows]]] = False
    by_name = {group.name: group.labels for group in groups.prunable}
    left = {name: [pair for pair in pairs if gone[by_name[name][pair[0]]]] for name, pairs in merges.items()}
    return {name: pairs for name, pairs in left.items() if pairs}


def merge(groups: Groups, merges: Merges) -> None:
    """Add the weights that read a channel that goes to those that read the equal one; the channels stay."""
    partner: dict[int, int] = {}
    for group in groups.prunable:
        for gone, kept in merges.get(group.name, ()):
            partner[int(group.labels[gone])] = int(group.labels[kept])
    merged = groups.table(partner)
    done: set[ir.Value] = set()
    for sink in groups.sinks:
        if sink.weight is None or sink.weight in done or edit.constant(sink.weight) is None:
            continue
        done.add(sink.weight)
        row = groups.engine.labels.resolve(sink.rows)[0]
        if not merged[row].any():
            continue
        places = dict(_positions(row))
        pairs = [(places[a], places[partner[a]]) for a in places if a in partner]
        if pairs:
            _add(sink.weight, sink.in_axis, *(np.concatenate(side) for side in zip(*pairs, strict=True)))


def _add(weight: ir.Value, axis: int, gone: Kinds, kept: Kinds) -> None:
    array = edit.array(weight)
    total = np.moveaxis(array.astype(np.float64), axis, 0)
    np.add.at(total, kept, total[gone])
    edit.set_constant(weight, np.moveaxis(total, 0, axis).astype(array.dtype))


def _addable(groups: Groups) -> set[ir.Value]:
    """Return the weights that are read by sums over channels alone, and each input channel by its own weights."""
    found: dict[ir.Value, set[tuple[ir.Node, int]]] = {}
    for sink in groups.sinks:
        tensor = edit.constant(sink.weight)
        if sink.weight is None or tensor is None or sink.groups > 1 or sink.node.op_type not in operators.PRODUCTS:
            continue
        if tensor.dtype.is_floating_point() and edit.constant(sink.data) is None:
            found.setdefault(sink.weight, set()).add((sink.node, 1))
    return {value for value, uses in found.items() if set(map(tuple, value.uses())) == uses}


def _positions(row: npt.NDArray[np.int64]) -> Iterable[tuple[int, Kinds]]:
    """Yield each label with the positions at which it stands, in order."""
    order = np.argsort(row, kind="stable")
    labels, starts = np.unique(row[order], return_index=True)
    return ((int(label), places) for label, places in zip(labels, np.split(order, starts[1:]), strict=True) if label)
