"""Operators that only move elements: their gradients move them back, and add where one was read several times."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ...graph import edit
from .step import Gradients, Rule, Step, first, unbroadcast
from .tape import MICROSOFT, Tensor


def _like_input(step: Step) -> Tensor:
    return step.g.reshape_like(step.x)


def _transpose(step: Step) -> Tensor:
    order = edit.ints_attribute(step.node, "perm") or list(range(step.rank()))[::-1]
    return step.g.transpose(*(int(axis) for axis in np.argsort(order)))


def _concat(step: Step) -> Gradients:
    axis = step.integer("axis", 1) % step.rank()
    extents = [(step.dims(value) or ())[axis] for value in step.node.inputs]
    if all(isinstance(extent, int) for extent in extents):
        sizes = step.tape.of(np.array(extents, np.int64))
    else:
        lengths = [step.tape.op("Shape", value, start=axis, end=axis + 1) for value in step.node.inputs]
        sizes = step.tape.op("Concat", *lengths, axis=0)
    if len(extents) == 1:
        return {0: step.g}
    parts = step.tape.ops("Split", step.g, sizes, axis=axis, outputs=len(extents))
    return dict(enumerate(parts))


def _split(step: Step) -> Tensor:
    """Put zeros where an output of it is not used."""
    parts = [
        gradient if gradient is not None else zeros(step.tape.of(output))
        for gradient, output in zip(step.gradients, step.node.outputs, strict=True)
    ]
    return step.tape.op("Concat", *parts, axis=step.integer("axis", 0))


def zeros(like: Tensor) -> Tensor:
    """Return zeros of the shape of another."""
    return like.tape.of(0.0).expand_like(like)


def _expand(step: Step) -> Tensor:
    return unbroadcast(step.g, step.dims(step.y), step.x, step.dims(step.x))


def _tile(step: Step) -> Tensor:
    """Split each axis into repeats and extent, and sum over the repeats."""
    rank, shape = step.rank(), step.x.shape()
    repeats = step.input(1)
    pairs = step.tape.op("Concat", repeats.unsqueeze(1), shape.unsqueeze(1), axis=1).reshape([-1])
    return step.g.reshape(pairs).sum(range(0, 2 * rank, 2), keepdims=False)


def _slice(step: Step) -> Tensor:
    """Scatter along each axis that was sliced: which positions were read is found by slicing their numbers."""
    tape, node = step.tape, step.node
    if step.has(1):
        starts, ends = step.input(1), step.input(2)
        held = step.constant(3)
        axes = None if held is None else tuple(int(axis) for axis in held)
        steps = step.input(4) if step.has(4) else None
    else:
        starts, ends = (tape.of(np.array(edit.ints_attribute(node, name), np.int64)) for name in ("starts", "ends"))
        axes, steps = edit.ints_attribute(node, "axes"), None
    count = int((step.dims(starts) or (0,))[0])  # type: ignore[arg-type]
    which = [int(axis) % step.rank() for axis in (range(count) if axes is None else axes)]
    gradient, shape = step.g, step.x.shape()
    for number, axis in enumerate(which):
        gradient = _unslice(step, gradient, shape, axis, [starts, ends, steps], number)
    return gradient


def _unslice(
    step: Step, gradient: Tensor, shape: Tensor, axis: int, bounds: list[Tensor | None], number: int
) -> Tensor:
    tape, rank = step.tape, step.rank()
    one = [
        None if bound is None else tape.op("Slice", bound, tape.ints(number), tape.ints(number + 1)) for bound in bounds
    ]
    extent = tape.op("Gather", shape, tape.of(np.array(axis, np.int64)), axis=0)
    numbers = tape.op("Range", tape.of(np.array(0, np.int64)), extent, tape.of(np.array(1, np.int64)))
    read = tape.op("Slice", numbers, one[0], one[1], tape.ints(0), one[2])
    length = extent.unsqueeze(0)
    zero = tape.of(0.0)
    target = tape.op("Concat", length, tape.op("Slice", gradient.shape(), tape.ints(0), tape.ints(axis)), axis=0)
    rest = tape.op("Slice", gradient.shape(), tape.ints(axis + 1), tape.ints(rank))
    blank = tape.op("Expand", zero, tape.op("Concat", target, rest, axis=0))
    order = [axis, *(other for other in range(rank) if other != axis)]
    moved = gradient.transpose(*order)
    scattered = tape.op("ScatterND", blank, read.unsqueeze(1), moved)
    return scattered.transpose(*(int(a) for a in np.argsort(order)))


def _computed_axes(node: ir.Node) -> str:
    given = len(node.inputs) > 3 and node.inputs[3] is not None
    if given and edit.constant(node.inputs[3]) is None:
        return "with axes that are computed"
    return _unknown_rank(node)


def _unknown_rank(node: ir.Node) -> str:
    return (
        "" if all(v is None or v.shape is not None for v in node.inputs) else "where the rank of an input is not known"
    )


def _gather(step: Step) -> Tensor:
    """Add up the rows that were read, by the number that each has."""
    axis, tape = step.integer("axis", 0) % step.rank(), step.tape
    if "GatherGrad" in tape.kernels:
        indices = _positive(step, step.input(1), tape.op("Gather", step.x.shape(), tape.of(np.array(axis, np.int64))))
        return tape.op("GatherGrad", step.x.shape(), indices, step.g, domain=MICROSOFT, axis=axis)
    picked_rank = len(step.dims(step.input(1)) or ())
    order = [*range(axis, axis + picked_rank), *range(axis), *range(axis + picked_rank, step.rank() - 1 + picked_rank)]
    rows = step.g.transpose(*order) if axis else step.g
    shape = step.x.shape()
    if axis:
        shape = tape.op("Gather", shape, tape.ints(axis, *(a for a in range(step.rank()) if a != axis)), axis=0)
    blank = tape.op("Expand", tape.of(0.0), shape)
    indices = _positive(step, step.input(1), tape.op("Gather", shape, tape.of(np.array(0, np.int64)), axis=0))
    added = tape.op("ScatterND", blank, indices.unsqueeze(picked_rank), rows, reduction="add")
    back = [axis, *(a for a in range(step.rank()) if a != axis)]
    return added.transpose(*(int(a) for a in np.argsort(back))) if axis else added


def _positive(step: Step, indices: Tensor, extent: Tensor) -> Tensor:
    wide = step.tape.op("Cast", indices, to=int(ir.DataType.INT64))
    return step.tape.op("Where", wide < step.tape.of(np.array(0, np.int64)), wide + extent, wide)


def _gather_elements(step: Step) -> Tensor:
    axis = step.integer("axis", 0)
    return step.tape.op("ScatterElements", zeros(step.x), step.input(1), step.g, axis=axis, reduction="add")


def _gather_nd(step: Step) -> Tensor:
    """Put the batch's own numbers in front of the indices, so that one scatter adds them all."""
    batch, tape = step.integer("batch_dims", 0), step.tape
    indices = step.input(1)
    rank = len(step.dims(indices) or ())
    lead = tape.op("Slice", indices.shape(), tape.ints(0), tape.ints(rank - 1))
    one = tape.op("Concat", lead, tape.ints(1), axis=0)
    columns = []
    for axis in range(batch):
        extent = tape.op("Gather", indices.shape(), tape.of(np.array(axis, np.int64)), axis=0)
        numbers = tape.op("Range", tape.of(np.array(0, np.int64)), extent, tape.of(np.array(1, np.int64)))
        columns.append(tape.op("Expand", numbers.reshape([-1, *[1] * (rank - 1 - axis)]), one))
    full = tape.op("Concat", *columns, indices, axis=-1) if columns else indices
    return tape.op("ScatterND", zeros(step.x), full, step.g, reduction="add")


def _scatter_elements(step: Step) -> Gradients:
    axis, indices = step.integer("axis", 0), step.input(1)
    found = {2: step.tape.op("GatherElements", step.g, indices, axis=axis)}
    if step.wants(0):
        overwritten = step.tape.op("ScatterElements", step.g, indices, zeros(indices), axis=axis)
        found[0] = step.g if _adds(step.node) else overwritten
    return found


def _scatter_nd(step: Step) -> Gradients:
    found = {2: step.tape.op("GatherND", step.g, step.input(1))}
    if step.wants(0):
        overwritten = step.tape.op("ScatterND", step.g, step.input(1), zeros(step.input(2)))
        found[0] = step.g if _adds(step.node) else overwritten
    return found


def _adds(node: ir.Node) -> bool:
    return node.attributes.get_string("reduction", "none") == "add"


def _with_reduction(node: ir.Node) -> str:
    reduction = node.attributes.get_string("reduction", "none")
    return "" if reduction in ("none", "add") else f"with the reduction '{reduction}'"


def _trilu(step: Step) -> Tensor:
    k = [step.input(1)] if step.has(1) else []
    return step.tape.op("Trilu", step.g, *k, upper=step.integer("upper", 1))


def _cumulative_sum(step: Step) -> Tensor:
    exclusive, back = step.integer("exclusive", 0), 1 - step.integer("reverse", 0)
    return step.tape.op("CumSum", step.g, step.input(1), exclusive=exclusive, reverse=back)


def _depth_to_space(step: Step) -> Tensor:
    size, tape = step.integer("blocksize", 1), step.tape
    if step.node.attributes.get_string("mode", "DCR") == "DCR":
        return tape.op("SpaceToDepth", step.g, blocksize=size)
    rows, height, width = (tape.op("Shape", step.x, start=axis, end=axis + 1) for axis in (0, 2, 3))
    block = tape.ints(size)
    blocks = tape.op("Concat", rows, tape.ints(-1), height, block, width, block, axis=0)
    return step.g.reshape(blocks).transpose(0, 1, 3, 5, 2, 4).reshape_like(step.x)


def _space_to_depth(step: Step) -> Tensor:
    return step.tape.op("DepthToSpace", step.g, blocksize=step.integer("blocksize", 1))


def _reverse_sequence(step: Step) -> Tensor:
    batch, time = step.integer("batch_axis", 1), step.integer("time_axis", 0)
    return step.tape.op("ReverseSequence", step.g, step.input(1), batch_axis=batch, time_axis=time)


def _top_k(step: Step) -> Tensor:
    """Put the gradients where the values were found."""
    indices = step.node.outputs[1]
    indices.name = indices.name or f"{step.node.outputs[0].name}/places"
    return step.tape.op("ScatterElements", zeros(step.x), indices, step.g, axis=step.integer("axis", -1))


RULES: dict[str, Rule] = {
    "Concat": Rule(_concat, refuses=_unknown_rank),
    "CumSum": first(_cumulative_sum),
    "DepthToSpace": first(_depth_to_space),
    "Expand": first(_expand),
    "Flatten": first(_like_input),
    "Gather": first(_gather, _unknown_rank),
    "GatherElements": first(_gather_elements),
    "GatherND": first(_gather_nd, _unknown_rank),
    "Reshape": first(_like_input),
    "ScatterElements": Rule(_scatter_elements, frozenset({0, 2}), _with_reduction),
    "ScatterND": Rule(_scatter_nd, frozenset({0, 2}), _with_reduction),
    "ReverseSequence": first(_reverse_sequence),
    "Slice": first(_slice, _computed_axes),
    "SpaceToDepth": first(_space_to_depth),
    "Split": first(_split),
    "Squeeze": first(_like_input),
    "Tile": first(_tile, _unknown_rank),
    "TopK": first(_top_k),
    "Transpose": first(_transpose, _unknown_rank),
    "Trilu": first(_trilu),
    "Unsqueeze": first(_like_input),
}
