"""Operators that pick elements by what they are given: GridSample between pixels, Compress by a condition."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..rules.step import Step
from ..rules.tape import Tensor
from .composite import Composite, Results, extents

NEAREST, LINEAR = ("nearest",), ("bilinear", "linear")


def _grid_sample(step: Step) -> Results:
    """M. Jaderberg et al., "Spatial Transformer Networks", arXiv:1506.02025."""
    tape, grid = step.tape, step.input(1)
    sizes = [_size(step, axis) for axis in (3, 2)]
    made = tape.op("Shape", grid, start=1, end=3)
    places = [_place(step, tape.op("Gather", grid, tape.of(np.array(i)), axis=3), sizes[i]) for i in (0, 1)]
    corners = [_corners(step, place) for place in places]
    channels = tape.op("Shape", step.x, start=0, end=2)
    flat = step.x.reshape([0, 0, -1])
    total: Tensor | None = None
    for x, weight_x in corners[0]:
        for y, weight_y in corners[1]:
            picked = _picked(step, flat, channels, x, y, sizes)
            factor = _product([weight_x, weight_y, *_inside(step, x, y, sizes)])
            part = picked if factor is None else picked * _row(factor)
            total = part if total is None else total + part
    assert total is not None, "there is at least one corner"
    return [total.reshape(tape.op("Concat", channels, made, axis=0))]


def _size(step: Step, axis: int) -> Tensor:
    return step.tape.op("Squeeze", step.tape.op("Shape", step.x, start=axis, end=axis + 1)).number()


def _place(step: Step, position: Tensor, size: Tensor) -> Tensor:
    """Return where between pixels a position from -1 to 1 is."""
    if step.integer("align_corners", 0):
        place = (position + 1.0) * 0.5 * (size - 1.0)
    else:
        place = ((position + 1.0) * size - 1.0) * 0.5
    return _clipped(step, place, size) if _padding(step.node) == "border" else place


def _clipped(step: Step, place: Tensor, size: Tensor) -> Tensor:
    return step.tape.op("Min", step.tape.op("Max", place, step.tape.of(0.0)), size - 1.0)


def _corners(step: Step, place: Tensor) -> list[tuple[Tensor, Tensor | None]]:
    """Return the pixels around a place, and how much of each counts."""
    if step.node.attributes.get_string("mode", "linear") in NEAREST:
        return [(step.tape.op("Round", place), None)]
    low = step.tape.op("Floor", place)
    share = place - low
    return [(low, 1.0 - share), (low + 1.0, share)]


def _picked(step: Step, flat: Tensor, channels: Tensor, x: Tensor, y: Tensor, sizes: list[Tensor]) -> Tensor:
    tape = step.tape
    row, column = _clipped(step, y, sizes[1]), _clipped(step, x, sizes[0])
    index = tape.op("Cast", row * sizes[0] + column, to=int(ir.DataType.INT64))
    one = index.reshape([0, 1, -1])
    each = tape.op("Expand", one, tape.op("Concat", channels, tape.op("Shape", one, start=2), axis=0))
    return tape.op("GatherElements", flat, each, axis=2)


def _inside(step: Step, x: Tensor, y: Tensor, sizes: list[Tensor]) -> list[Tensor]:
    """Return what makes pixels outside zero."""
    if _padding(step.node) == "border":
        return []
    found = []
    for place, size in ((x, sizes[0]), (y, sizes[1])):
        found.append(step.tape.op("And", place >= 0.0, place <= size - 1.0))
    return [step.tape.op("And", *found).number()]


def _product(factors: list[Tensor | None]) -> Tensor | None:
    total: Tensor | None = None
    for factor in factors:
        total = factor if total is None else total if factor is None else total * factor
    return total


def _row(factor: Tensor) -> Tensor:
    return factor.reshape([0, 1, -1])


def _padding(node: ir.Node) -> str:
    return node.attributes.get_string("padding_mode", "zeros")


def _unfit_grid(node: ir.Node) -> str:
    if len(extents(node.inputs[0])) != 4:
        return "of data that is not known to have four axes"
    mode = node.attributes.get_string("mode", "linear")
    if mode not in (*NEAREST, *LINEAR):
        return f"in {mode} mode"
    return "with reflection" if _padding(node) == "reflection" else ""


def _compress(step: Step) -> Results:
    """Gather the positions at which the condition holds."""
    places = step.tape.op("NonZero", step.input(1)).reshape([-1])
    if "axis" in step.node.attributes:
        return [step.tape.op("Gather", step.x, places, axis=step.integer("axis", 0))]
    return [step.tape.op("Gather", step.x.reshape([-1]), places)]


COMPOSITES: dict[str, Composite] = {
    "Compress": Composite(_compress),
    "GridSample": Composite(_grid_sample, _unfit_grid),
}
