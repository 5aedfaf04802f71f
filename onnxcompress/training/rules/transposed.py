"""ConvTranspose: what Conv is to its data, Conv is to this one's result."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from ...graph import edit
from .products import Geometry, channel_sums, unknown_window, weight_gradient
from .step import Gradients, Rule, Step
from .tape import Tensor


def _conv_transpose(step: Step) -> Gradients:
    geometry, found = _geometry(step), Gradients()
    if step.wants(0):
        found[0] = _data(step, geometry)
    if step.wants(1):
        found[1] = weight_gradient(geometry, step.g, step.x, step.input(1))
    if step.wants(2):
        found[2] = channel_sums(step)
    return found


def _data(step: Step, geometry: Geometry) -> Tensor:
    attributes: dict[str, Any] = {"strides": geometry.strides, "dilations": geometry.dilations}
    pads = [*geometry.before, *geometry.after]
    return step.tape.op("Conv", step.g, step.input(1), pads=pads, group=geometry.groups, **attributes)


def _geometry(step: Step) -> Geometry:
    geometry = Geometry(step)
    if not _chooses_pads(step.node):
        return geometry
    rank = len(geometry.kernel)
    made, read = ([int(extent) for extent in (step.dims(value) or ())[2:]] for value in (step.y, step.x))  # type: ignore[arg-type]
    for axis in range(rank):
        whole = geometry.strides[axis] * (read[axis] - 1) + geometry.spans[axis]
        before = _before(step.node, axis, rank, whole - made[axis])
        # Behind, as much as leads back to as many positions as there were.
        geometry.before[axis], geometry.after[axis] = before, max(whole - made[axis] - before, 0)
    return geometry


def _before(node: ir.Node, axis: int, rank: int, less: int) -> int:
    """Return the padding before, where a node says how large its result is: half of what is too much."""
    total = max(less + _output_padding(node, rank)[axis], 0)
    return total // 2 if node.attributes.get_string("auto_pad", "NOTSET") == "SAME_UPPER" else total - total // 2


def _output_padding(node: ir.Node, rank: int) -> tuple[int, ...]:
    return edit.ints_attribute(node, "output_padding") or (0,) * rank


def _chooses_pads(node: ir.Node) -> bool:
    return "output_shape" in node.attributes or node.attributes.get_string("auto_pad", "NOTSET").startswith("SAME")


def _unfit(node: ir.Node) -> str:
    sized = [value for value in (node.inputs[0], node.outputs[0]) if value is not None and value.shape is not None]
    known = len(sized) == 2 and all(isinstance(dim, int) for value in sized for dim in (value.shape or ())[2:])
    if _chooses_pads(node) and not known:
        return "with auto_pad or output_shape where the size of its input is not known before it runs"
    if why := unknown_window(node):
        return why
    rank = len(node.inputs[1].shape or ()) - 2 if node.inputs[1] is not None else 0
    strides = edit.ints_attribute(node, "strides") or (1,) * rank
    widened = any(more >= stride for more, stride in zip(_output_padding(node, rank), strides, strict=True))
    return "with an output_padding as large as its stride" if widened else ""


RULES: dict[str, Rule] = {"ConvTranspose": Rule(_conv_transpose, refuses=_unfit)}
