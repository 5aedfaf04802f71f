"""One rule for all operators that move data: run the operator itself on coordinates and read what went where."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ..graph import edit
from ..graph.shapes import run_node
from .engine import Engine
from .labels import Rows
from .trace import Field, Trace


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
    sources = moved_inputs(node)
    if not any(rows is not None for source in sources for rows in engine.axes(source)):
        return
    traces = trace(engine, node)
    if traces is None:
        for source in sources:
            engine.freeze_all(source, f"{edit.label(node)}: its parameters are not known before the model runs")
        return
    for value, traced in zip(node.outputs, traces, strict=False):
        _label_output(engine, node, value, traced, sources)
        _join_empty(engine, node, value, sources)
        _freeze_what_cannot_be_rewritten(engine, node, rule, value)


def _join_empty(engine: Engine, node: ir.Node, value: ir.Value, sources: list[ir.Value]) -> None:
    """Let what Concat joins without a single element lose the same positions: it has none to be traced by."""
    axis = edit.int_attribute(node, "axis", 0) % max(len(engine.shape(value)), 1)
    for source in sources if edit.op_of(node) == "Concat" else ():
        for d, rows in enumerate(engine.axes(source)) if 0 in engine.shape(source) else ():
            if d != axis:
                engine.join(node, rows, engine.axes(value)[d])


def moved_inputs(node: ir.Node) -> list[ir.Value]:
    """Return the inputs whose elements a node moves."""
    moved = node.inputs if MOVES[edit.op_of(node)].data is None else node.inputs[:1]
    return [value for value in moved if value is not None]


def padding(engine: Engine, node: ir.Node) -> float:
    """Return what Pad fills with: zero where nothing is given, NaN where only a run knows, or the mode copies."""
    mode = node.attributes["mode"].as_string() if "mode" in node.attributes else "constant"
    given = node.inputs[2] if node.op_type == "Pad" and len(node.inputs) > 2 else None
    if mode != "constant":
        return np.nan
    known = np.zeros(1) if given is None else engine.known.values.get(given)
    return np.nan if known is None else float(known.ravel()[0])


def trace(engine: Engine, node: ir.Node) -> list[Trace] | None:
    """Find where each output of a data-movement node comes from; None when a parameter is unknown."""
    op = edit.op_of(node)
    rule, sources = MOVES[op], moved_inputs(node)
    parameters = _parameters(engine, node, rule)
    if parameters is None:
        return None
    shapes = [_run_shape(engine.shape(s), engine.axes(s), rule, node) for s in sources]
    if rule.independent and len({len(s) for s in shapes}) == 1 and len(shapes) > 1:
        shapes = _common_extents(node, shapes)
    attributes = tuple(sorted((a.name, repr(a.value)) for a in node.attributes.values()))
    given = tuple((index, a.dtype.str, a.shape, a.tobytes()) for index, a in parameters.items())
    key = (op, attributes, tuple(shapes), given)  # deep networks repeat the same blocks
    if key not in engine.traces:
        coordinates = _run(engine, node, parameters, shapes)
        engine.traces[key] = None if coordinates is None else [_traced(c, shapes) for c in coordinates]
    return engine.traces[key]


def _run_shape(shape: tuple[int, ...], axes: Sequence[Rows | None], rule: Move, node: ir.Node) -> tuple[int, ...]:
    if not rule.independent:
        return shape
    axis = edit.int_attribute(node, "axis", 0) % max(len(shape), 1)
    acted = axis if edit.op_of(node) in ("Concat", "Split") else -1
    return tuple(n if axes[d] is not None or d == acted else 1 for d, n in enumerate(shape))


def _parameters(engine: Engine, node: ir.Node, rule: Move) -> dict[int, npt.NDArray[Any]] | None:
    """Return the inputs that say how to move; Pad fills with 0, whatever it is told to fill with."""
    found: dict[int, npt.NDArray[Any]] = {}
    if "value" in node.attributes and node.attributes["value"].as_float():
        return None  # before opset 11 Pad would fill the numbers with it too
    for index, value in enumerate(node.inputs):
        if value is None or rule.data in (None, index):
            continue
        if node.op_type == "Pad" and index == 2:
            found[index] = np.zeros(engine.shape(value), np.int64)  # which stands for "padding" in coordinates
        elif (known := engine.known.values.get(value)) is not None:
            found[index] = known
        elif looks_up(engine, node):  # any index will do: the axis is frozen, the others do not care
            engine.freeze_axes(node.inputs[0], [edit.int_attribute(node, "axis", 0)], f"{edit.label(node)} looks it up")
            found[index] = np.zeros(engine.shape(value), np.int64)
        else:
            return None
    return found


def looks_up(engine: Engine, node: ir.Node) -> bool:
    """Tell whether a node gathers by indices that only a run knows."""
    return node.op_type == "Gather" and (node.inputs[1] is None or node.inputs[1] not in engine.known.values)


def traced_axes(engine: Engine, node: ir.Node) -> list[int]:
    """Return the axes that have labels in some input that a node moves, and whose positions can be traced."""
    sources = moved_inputs(node)
    found = {axis for source in sources for axis, rows in enumerate(engine.axes(source)) if rows is not None}
    if looks_up(engine, node):
        found -= {edit.int_attribute(node, "axis", 0) % len(engine.shape(sources[0]))}
    return sorted(found)


def _run(
    engine: Engine, node: ir.Node, parameters: dict[int, npt.NDArray[Any]], shapes: list[tuple[int, ...]]
) -> list[Field] | None:
    """Run the node with every element replaced by its number, counted from 1 over all moved inputs; 0 is padding."""
    ends = np.cumsum([int(np.prod(s)) for s in shapes])
    counted = (
        np.arange(end - np.prod(s), end, dtype=np.int64).reshape(s) + 1 for s, end in zip(shapes, ends, strict=True)
    )
    moved = MOVES[edit.op_of(node)].data
    arrays: list[npt.NDArray[Any] | None] = [
        next(counted) if value is not None and moved in (None, index) else parameters.get(index)
        for index, value in enumerate(node.inputs)
    ]
    return run_node(node, arrays, engine.opset)


def _common_extents(node: ir.Node, shapes: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Concat's inputs must agree on the other axes: where one input has labels there, all run at full extent."""
    axis = edit.int_attribute(node, "axis", 0) % len(shapes[0])
    widest = [max(extents) for extents in zip(*shapes, strict=True)]
    return [tuple(s[d] if d == axis else widest[d] for d in range(len(s))) for s in shapes]


def _traced(coordinates: Field, shapes: list[tuple[int, ...]]) -> Trace:
    rank = max(len(shape) for shape in shapes)
    others = [tuple(d for d in range(coordinates.ndim) if d != axis) for axis in range(coordinates.ndim)]
    padded = [(coordinates == 0).all(axis=axes) for axes in others]
    return Trace(coordinates.shape, [_source(coordinates, axis, shapes) for axis in range(rank)], padded)


def _source(coordinates: Field, axis: int, shapes: list[tuple[int, ...]]) -> Field:
    """Turn element numbers into positions along an axis of the inputs, and drop what does not change."""
    field = np.zeros_like(coordinates)
    start, before = 1, 1
    for shape in shapes:
        size = int(np.prod(shape))
        if axis < len(shape):
            mine = (coordinates >= start) & (coordinates < start + size)
            stride = int(np.prod(shape[axis + 1 :]))
            field[mine] = before + (coordinates[mine] - start) // stride % shape[axis]
            before += shape[axis]
        start += size
    for d in range(field.ndim):
        first = np.take(field, [0], d) if field.size else field
        if (field == first).all():
            field = first
    return field


def _label_output(engine: Engine, node: ir.Node, value: ir.Value, traced: Trace, sources: list[ir.Value]) -> None:
    if len(traced.shape) != len(engine.shape(value)):  # what is known of one of them is of another branch
        for given in sources:
            engine.freeze_all(given, f"{edit.label(node)}: the shape of '{value.name}' is not known")
        engine.set(value, [None] * len(engine.shape(value)))
        return
    out: list[list[Rows]] = [[] for _ in traced.shape]
    known = [(engine.axes(source), engine.shape(source)) for source in sources]
    for axis, source in enumerate(traced.sources):
        for row in _tables(engine, [(axes[axis], shape[axis]) for axes, shape in known if axis < len(shape)]):
            _place(engine, node, row[source], source == 0, out)
    rows = [np.concatenate(r) if r else None for r in out]
    if edit.op_of(node) == "Pad":
        _label_padding(engine, node, traced, rows)
    for axis, row in enumerate(rows):
        if row is not None and engine.is_free(value, axis):
            engine.labels.freeze(row, f"{edit.label(node)} merges it with an extent of the input")
    shape = engine.shape(value)
    engine.set(value, [r if r is not None and r.shape[1] == n > 1 else None for r, n in zip(rows, shape, strict=True)])


def _tables(engine: Engine, axes: list[tuple[Rows | None, int]]) -> Rows:
    """Return the labels of an axis's positions, all inputs one after another; the first position is padding."""
    if all(rows is None for rows, _ in axes):
        return NOTHING
    parts = [np.zeros((1, n), np.int64) if rows is None else engine.labels.resolve(rows) for rows, n in axes]
    table = np.zeros((max(len(part) for part in parts), 1 + sum(part.shape[1] for part in parts)), np.int64)
    start = 1
    for part in parts:
        table[: len(part), start : start + part.shape[1]] = part
        start += part.shape[1]
    return table


NOTHING: Rows = np.zeros((0, 1), np.int64)


def _place(engine: Engine, node: ir.Node, field: Field, padding: npt.NDArray[np.bool_], out: list[list[Rows]]) -> None:
    """Find the output axis that a field of labels runs along; if it runs along several, factor it."""
    labels = field[field > 0]
    if not labels.size:
        return
    if (labels == labels[0]).all():
        engine.labels.freeze(labels[None, :1], f"{edit.label(node)} takes it by itself")
        return
    candidates = [d for d, n in enumerate(field.shape) if n > 1]
    along = [d for d in candidates if len(candidates) == 1 or _varies(field, padding, d)]
    if len(along) == 1:
        out[along[0]].append(_along(field, along[0]))
        return
    fresh = {d: engine.labels.fresh(field.shape[d]) for d in along}
    corner = tuple(slice(None) if d in along else slice(0, 1) for d in range(field.ndim))
    single = field[corner]
    product = np.stack([np.broadcast_to(_on_axis(fresh[d][0], d, field.ndim), single.shape).ravel() for d in along])
    engine.labels.join(single.reshape(1, -1), product, f"{edit.label(node)} mixes it with positions that stay")
    for d in along:
        out[d].append(fresh[d])


def _varies(field: Field, padding: npt.NDArray[np.bool_], axis: int) -> bool:
    """Tell whether the labels change along `axis`, padding aside."""
    full = np.where(padding, field.max(axis=axis, keepdims=True), field)
    return bool((full != np.take(full, [0], axis)).any())


def _along(field: Field, axis: int) -> Rows:
    row: Rows = field.max(axis=tuple(d for d in range(field.ndim) if d != axis))[None]
    return row


def _on_axis(row: npt.NDArray[np.int64], axis: int, rank: int) -> Field:
    return row.reshape([-1 if d == axis else 1 for d in range(rank)])


WIDTH = ("LayerNormalization", "com.microsoft::SkipLayerNormalization")
"""Normalisations that take the mean away, over the width that they read."""


def _label_padding(engine: Engine, node: ir.Node, traced: Trace, rows: list[Rows | None]) -> None:
    """Channels that Pad adds get labels of their own: they can go when what they are added to goes."""
    for axis, row in enumerate(rows):
        if row is not None:
            empty = traced.padded[axis] & (row == 0).all(0)
            added = engine.labels.fresh(int(empty.sum()))
            row[0, empty] = added[0]
            if any(edit.op_of(use) in WIDTH for use in node.outputs[0].consumers()):
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
