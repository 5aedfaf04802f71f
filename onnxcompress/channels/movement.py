"""One rule for all operators that move data: run the operator itself on coordinates and read what went where."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ..graph import edit
from ..graph.shapes import run_node
from .labels import Rows

if TYPE_CHECKING:
    from .engine import Engine

Coordinates = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Move:
    """How an operator moves data.

    Attributes
    ----------
    data : int or None
        Which input is moved; None means all of them (Concat).
    parameter : int or None
        The input that may hold channel counts (a target shape, sizes, pads) and must be rewritten with them.
    independent : bool
        Axes without labels may be run with extent 1, since the operator treats them all alike.
    unchanged : bool
        Output position = input position: coordinates need not be run at all.
    """

    data: int | None = 0
    parameter: int | None = None
    independent: bool = False
    unchanged: bool = False


MOVES: dict[str, Move] = {
    "Cast": Move(unchanged=True),
    "CastLike": Move(unchanged=True),
    "Concat": Move(data=None, independent=True),
    "DepthToSpace": Move(),
    "Dropout": Move(unchanged=True),
    "Expand": Move(parameter=1),
    "Flatten": Move(),
    "Gather": Move(parameter=1),
    "Identity": Move(unchanged=True),
    "Pad": Move(parameter=1),
    "Reshape": Move(parameter=1),
    "Slice": Move(parameter=2),
    "SpaceToDepth": Move(),
    "Split": Move(parameter=1, independent=True),
    "Squeeze": Move(),
    "Tile": Move(parameter=1),
    "Transpose": Move(independent=True),
    "Unsqueeze": Move(),
}


def move(engine: Engine, node: ir.Node) -> None:
    """Give the outputs of a data-movement node their labels."""
    rule = MOVES[edit.op_of(node)]
    if rule.unchanged:
        source = node.inputs[0]
        engine.set(node.outputs[0], engine.axes(source) if source is not None else [])
        return
    sources = [v for v in (node.inputs if rule.data is None else node.inputs[:1]) if v is not None]
    if not any(rows is not None for source in sources for rows in engine.axes(source)):
        return
    axes = [engine.axes(source) for source in sources]
    shapes = [_run_shape(engine.shape(s), a, rule, node) for s, a in zip(sources, axes, strict=True)]
    outputs = _coordinates(engine, node, rule, shapes)
    if outputs is None:
        for source in sources:
            engine.freeze_all(source, f"{edit.label(node)}: its parameters are not known before the model runs")
        return
    for value, coordinates in zip(node.outputs, outputs, strict=False):
        _label_output(engine, node, value, coordinates, axes, shapes)
        _freeze_what_cannot_be_rewritten(engine, node, rule, value)


def _run_shape(shape: tuple[int, ...], axes: Sequence[Rows | None], rule: Move, node: ir.Node) -> tuple[int, ...]:
    if not rule.independent:
        return shape
    axis = edit.int_attribute(node, "axis", 0) % max(len(shape), 1)
    acted = axis if edit.op_of(node) in ("Concat", "Split") else -1
    return tuple(n if axes[d] is not None or d == acted else 1 for d, n in enumerate(shape))


def _coordinates(engine: Engine, node: ir.Node, rule: Move, shapes: list[tuple[int, ...]]) -> list[Coordinates] | None:
    """Run the node with every element replaced by its number, counted from 1 over all moved inputs; 0 is padding."""
    if rule.independent and len({len(s) for s in shapes}) == 1 and len(shapes) > 1:
        shapes[:] = _common_extents(node, shapes)
    ends = np.cumsum([int(np.prod(s)) for s in shapes])
    counted = [
        np.arange(end - np.prod(s), end, dtype=np.int64).reshape(s) + 1 for s, end in zip(shapes, ends, strict=True)
    ]
    return run_on(engine, node, counted)


def run_on(engine: Engine, node: ir.Node, moved: list[npt.NDArray[Any]]) -> list[npt.NDArray[Any]] | None:
    """Run a data-movement node with other arrays in place of what it moves; None when a parameter is unknown."""
    rule = MOVES[edit.op_of(node)]
    arrays: list[npt.NDArray[Any] | None] = []
    waiting = iter(moved)
    for index, value in enumerate(node.inputs):
        if value is None or (edit.op_of(node) == "Pad" and index == 2):
            arrays.append(None)  # the padding value is 0, which means "no source" to whoever reads coordinates
        elif rule.data is None or index == rule.data:
            arrays.append(next(waiting))
        elif (known := engine.known.values.get(value)) is not None:
            arrays.append(known)
        elif edit.op_of(node) == "Gather":  # any index will do: the gathered axis is frozen, the others do not care
            engine.freeze_axes(node.inputs[0], [edit.int_attribute(node, "axis", 0)], f"{edit.label(node)} looks it up")
            arrays.append(np.zeros(engine.shape(value), np.int64))
        else:
            return None
    return run_node(node, arrays, engine.opset)


def _common_extents(node: ir.Node, shapes: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Concat's inputs must agree on the other axes: where one input has labels there, all run at full extent."""
    axis = edit.int_attribute(node, "axis", 0) % len(shapes[0])
    widest = [max(extents) for extents in zip(*shapes, strict=True)]
    return [tuple(s[d] if d == axis else widest[d] for d in range(len(s))) for s in shapes]


def _label_output(
    engine: Engine,
    node: ir.Node,
    value: ir.Value,
    source: Coordinates,
    axes: list[list[Rows | None]],
    shapes: list[tuple[int, ...]],
) -> None:
    out: list[list[Rows]] = [[] for _ in source.shape]
    rank = max(len(a) for a in axes)
    for axis in range(rank):
        for field in _fields(engine, source, axis, axes, shapes):
            _place(engine, node, field, source, out)
    rows = [np.concatenate(r) if r else None for r in out]
    if edit.op_of(node) == "Pad":
        _label_padding(engine, node, source, rows)
    for axis, row in enumerate(rows):
        if row is not None and engine.is_free(value, axis):
            engine.labels.freeze(row, f"{edit.label(node)} merges it with an extent of the input")
    shape = engine.shape(value)
    engine.set(value, [r if r is not None and r.shape[1] == n > 1 else None for r, n in zip(rows, shape, strict=True)])


def _fields(
    engine: Engine, source: Coordinates, axis: int, axes: list[list[Rows | None]], shapes: list[tuple[int, ...]]
) -> list[Coordinates]:
    """For each label row of an input axis: the label of every output element (0: none)."""
    fields: list[Coordinates] = []
    start = 1
    for input_axes, shape in zip(axes, shapes, strict=True):
        size = int(np.prod(shape))
        rows = engine.labels.resolve(r) if axis < len(shape) and (r := input_axes[axis]) is not None else None
        if rows is not None and shape[axis] == rows.shape[1]:
            mine = (source >= start) & (source < start + size)
            stride = int(np.prod(shape[axis + 1 :]))
            position = (np.where(mine, source - start, 0) // stride) % shape[axis]
            while len(fields) < len(rows):
                fields.append(np.zeros_like(source))
            for row, field in zip(rows, fields, strict=False):
                field[mine] = row[position[mine]]
        start += size
    return fields


def _place(engine: Engine, node: ir.Node, field: Coordinates, source: Coordinates, out: list[list[Rows]]) -> None:
    """Find the output axis that a field of labels runs along; if it runs along several, factor it."""
    labels = np.unique(field[field > 0])
    if not labels.size:
        return
    padding = source == 0
    candidates = [d for d, n in enumerate(source.shape) if n > 1]
    if len(labels) == 1 or not candidates:
        engine.labels.freeze(labels[None], f"{edit.label(node)} takes it by itself")
        return
    along = [d for d in candidates if _varies(field, padding, d)]
    if len(along) == 1:
        out[along[0]].append(_along(field, along[0]))
        return
    fresh = {d: engine.labels.fresh(source.shape[d]) for d in along}
    corner = tuple(slice(None) if d in along else slice(0, 1) for d in range(field.ndim))
    single = field[corner]
    product = np.stack([np.broadcast_to(_on_axis(fresh[d][0], d, field.ndim), single.shape).ravel() for d in along])
    engine.labels.join(single.reshape(1, -1), product, f"{edit.label(node)} mixes it with positions that stay")
    for d in along:
        out[d].append(fresh[d])


def _varies(field: Coordinates, padding: npt.NDArray[np.bool_], axis: int) -> bool:
    """Tell whether the labels change along `axis`, padding aside."""
    full = np.where(padding, field.max(axis=axis, keepdims=True), field)
    return bool((full != np.take(full, [0], axis)).any())


def _along(field: Coordinates, axis: int) -> Rows:
    row: Rows = field.max(axis=tuple(d for d in range(field.ndim) if d != axis))[None]
    return row


def _on_axis(row: npt.NDArray[np.int64], axis: int, rank: int) -> Coordinates:
    return row.reshape([-1 if d == axis else 1 for d in range(rank)])


WIDTH = ("LayerNormalization", "RMSNormalization")


def _label_padding(engine: Engine, node: ir.Node, source: Coordinates, rows: list[Rows | None]) -> None:
    """Channels that Pad adds get labels of their own: they can go when what they are added to goes."""
    for axis, row in enumerate(rows):
        if row is not None:
            others = tuple(d for d in range(source.ndim) if d != axis)
            empty = (source == 0).all(axis=others) & (row == 0).all(0)
            added = engine.labels.fresh(int(empty.sum()))
            row[0, empty] = added[0]
            if any(use.op_type in WIDTH for use in node.outputs[0].consumers()):
                engine.labels.freeze(added, f"{edit.label(node)} keeps the width of a normalisation")


def _freeze_what_cannot_be_rewritten(engine: Engine, node: ir.Node, rule: Move, value: ir.Value) -> None:
    op = edit.op_of(node)
    if op in ("DepthToSpace", "SpaceToDepth"):
        for rows in engine.axes(value)[2:]:
            if rows is not None:
                engine.labels.freeze(rows, f"{edit.label(node)}: its block size is fixed")
    if rule.parameter is None or len(node.inputs) <= rule.parameter or node.inputs[rule.parameter] is None:
        return
    parameter = node.inputs[rule.parameter]
    if engine.constant(parameter) is not None or op in ("Expand", "Reshape"):
        return
    for rows in engine.axes(value):
        if rows is not None and not _same_rows(engine, node.inputs[0], rows):
            engine.labels.freeze(rows, f"{edit.label(node)}: its sizes are computed in the graph")


def _same_rows(engine: Engine, source: ir.Value | None, rows: Rows) -> bool:
    """Tell whether an input axis has just these labels, so that the operator leaves the axis as it is."""
    resolved = engine.labels.resolve(rows)
    before = [] if source is None else [engine.labels.resolve(r) for r in engine.axes(source) if r is not None]
    return any(np.array_equal(r, resolved) for r in before)
