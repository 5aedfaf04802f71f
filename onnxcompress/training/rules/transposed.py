"""ConvTranspose: what Conv is to its data, Conv is to this one's result."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from ...graph import edit
from ...graph.windows import output_padding, padding_before, says_its_size
from .kernel import Geometry, weight_gradient
from .products import channel_sums, unknown_window
from .step import Gradients, Rule, Step
from .tape import Tensor


def _conv_transpose(step: Step) -> Gradients:
    geometry, found = _geometry(step), Gradients()
    if step.wants(0):
        found[0] = _data(step, geometry)
    if step.wants(1):
        found[1] = weight_gradient(geometry, step.g, step.x, step.input(1))
    if step.wants(2):
        found[2] = channel_sums(step.g, step.rank())
    return found


def _data(step: Step, geometry: Geometry) -> Tensor:
    attributes: dict[str, Any] = {"strides": geometry.strides, "dilations": geometry.dilations}
    pads = [*geometry.before, *geometry.after]
    return step.tape.op("Conv", step.g, step.input(1), pads=pads, group=geometry.groups, **attributes)


def _geometry(step: Step) -> Geometry:
    geometry = Geometry(step)
    if not says_its_size(step.node):
        return geometry
    rank = len(geometry.kernel)
    made, read = ([int(extent) for extent in (step.dims(value) or ())[2:]] for value in (step.y, step.x))  # type: ignore[arg-type]
    for axis in range(rank):
        whole = geometry.strides[axis] * (read[axis] - 1) + geometry.spans[axis]
        before = padding_before(step.node, axis, rank, whole - made[axis])
        # Behind, as much as leads back to as many positions as there were.
        geometry.before[axis], geometry.after[axis] = before, max(whole - made[axis] - before, 0)
    return geometry


def _unfit(node: ir.Node) -> str:
    sized = [value for value in (node.inputs[0], node.outputs[0]) if value is not None and value.shape is not None]
    known = len(sized) == 2 and all(isinstance(dim, int) for value in sized for dim in (value.shape or ())[2:])
    if says_its_size(node) and not known:
        return "that says its size where the size of its input is not known before it runs"
    if why := unknown_window(node):
        return why
    more = output_padding(node, len((sized[0].shape or ())[2:]))
    strides = edit.ints_attribute(node, "strides") or (1,) * len(more)
    widened = any(each >= stride for each, stride in zip(more, strides, strict=True))
    return "with an output_padding as large as its stride" if widened else ""


RULES: dict[str, Rule] = {"ConvTranspose": Rule(_conv_transpose, refuses=_unfit)}
