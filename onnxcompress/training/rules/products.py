"""Matrix products and convolutions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir

from ...graph import edit
from ...graph.layer import Layer, axes_of
from ...graph.windows import asks_for_same
from .kernel import Geometry, weight_gradient
from .step import Gradients, Rule, Step, sum_where_one, unknown_rank
from .tape import MICROSOFT, Dim, Tensor, product


def _matmul(step: Step) -> Gradients:
    a, b, g = step.x, step.input(1), step.g
    shapes = [step.dims(a) or (), step.dims(b) or ()]
    if len(shapes[0]) == 1:
        a, g, shapes[0] = a.unsqueeze(0), g.unsqueeze(-2) if len(shapes[1]) > 1 else g.unsqueeze(-1), (1, *shapes[0])
    if len(shapes[1]) == 1:
        b, g, shapes[1] = b.unsqueeze(1), g.unsqueeze(-1), (*shapes[1], 1)
    if len(shapes[1]) == 2 and len(shapes[0]) > 2:
        return _shared_matrix(step, a, b, g, shapes)
    found: Gradients = {}
    if step.wants(0):
        found[0] = _to_operand(step, product(g, b, transpose_b=True), 0)
    if step.wants(1):
        found[1] = _to_operand(step, product(a, g, transpose_a=True), 1)
    return found


def _shared_matrix(step: Step, a: Tensor, b: Tensor, g: Tensor, shapes: list[tuple[Dim, ...]]) -> Gradients:
    """Let all rows of a stack meet one matrix in a single product."""
    found: Gradients = {}
    tape = step.tape
    if step.wants(0):
        found[0] = product(g, b, transpose_b=True)
    if step.wants(1):
        rows, made = (t.reshape(tape.op("Concat", tape.ints(-1), _last(t), axis=0)) for t in (a, g))
        found[1] = tape.op("Gemm", rows, made, transA=1)
        if step.rank(1) == 1:
            found[1] = found[1].reshape_like(step.input(1))
    return found


def _last(tensor: Tensor) -> Tensor:
    return tensor.tape.op("Shape", tensor, start=-1)


def _to_operand(step: Step, gradient: Tensor, index: int) -> Tensor:
    """Sum over the stacks that one operand was repeated for, and take away axes that were put in."""
    operand = step.input(index)
    has, other = step.dims(operand) or (), step.dims(step.input(1 - index)) or ()
    rank = max(len(has), len(other), 2)
    lead = max(rank - max(len(has), 2), 0)
    if lead:
        gradient = gradient.sum(range(lead), keepdims=False)
    repeated = [axis for axis in range(len(has) - 2) if has[axis] == 1 and _at(other, axis, len(has)) != 1]
    unknown = any(not isinstance(dim, int) and dim != _at(other, axis, len(has)) for axis, dim in enumerate(has[:-2]))
    if unknown:
        gradient = sum_where_one(gradient, operand)
    elif repeated:
        gradient = gradient.sum(repeated)
    return gradient.reshape_like(operand)


def _at(dims: tuple[object, ...], axis: int, rank: int) -> object:
    """Return the other operand's extent at an axis of the first, 1 where it has none."""
    place = axis - rank + len(dims)
    return dims[place] if place >= 0 else 1


def _gemm(step: Step) -> Gradients:
    """Differentiate ``alpha·A'·B' + beta·C``."""
    layer = Layer(step.node)
    alpha, beta = layer.alpha, layer.beta
    over_a, over_b = int(layer.transposes_input), 1 - axes_of(step.node, 1, 2).output
    a, b, g, tape = step.x, step.input(1), step.g, step.tape
    found: Gradients = {}
    if step.wants(0):
        pair = (b, g, over_b, 1) if over_a else (g, b, 0, 1 - over_b)
        found[0] = tape.op("Gemm", pair[0], pair[1], alpha=alpha, transA=pair[2], transB=pair[3])
    if step.wants(1):
        pair = (g, a, 1, over_a) if over_b else (a, g, 1 - over_a, 0)
        found[1] = tape.op("Gemm", pair[0], pair[1], alpha=alpha, transA=pair[2], transB=pair[3])
    if step.wants(2):
        found[2] = step.fit(g if beta == 1 else g * beta, 2)
    return found


def _conv(step: Step) -> Gradients:
    geometry, found = Geometry(step), Gradients()
    turned = set(geometry.strides) == {1} and min(_turned_pads(geometry)) >= 0
    if step.wants(0) and turned:
        found[0] = _turned_data(step, geometry)
    if "ConvGrad" in step.tape.kernels:
        wanted = {index for index in (0, 1) if step.wants(index) and index not in found}
        found |= _conv_kernel(step, geometry, wanted)
    elif step.wants(0) and not turned:
        found[0] = _conv_data(step, geometry)
    if step.wants(1) and 1 not in found:
        found[1] = _conv_weight(step, geometry)
    if step.wants(2):
        found[2] = channel_sums(step.g, step.rank())
    return found


def channel_sums(tensor: Tensor, rank: int) -> Tensor:
    """Sum over all axes but that of the channels."""
    return tensor.sum([axis for axis in range(rank) if axis != 1], keepdims=False)


def _conv_kernel(step: Step, geometry: Geometry, wanted: set[int]) -> Gradients:
    """Let the training kernel do it; it knows no auto_pad."""
    attributes = {
        "group": geometry.groups,
        "kernel_shape": geometry.kernel,
        "strides": geometry.strides,
        "dilations": geometry.dilations,
        "pads": [*geometry.before, *geometry.after],
    }
    if not wanted:
        return {}
    made = step.tape.ops("ConvGrad", step.g, step.x, step.input(1), domain=MICROSOFT, outputs=2, **attributes)
    for index, tensor in enumerate(made):
        if index not in wanted:
            tensor.value.name = ""
    return {index: made[index] for index in wanted}


def _turned_pads(geometry: Geometry) -> list[int]:
    pads = [*geometry.before, *geometry.after]
    return [span - 1 - pad for span, pad in zip(geometry.spans * 2, pads, strict=True)]


def _turned_data(step: Step, geometry: Geometry) -> Tensor:
    """Convolve the gradient with the kernel turned around."""
    attributes: dict[str, Any] = {
        "dilations": geometry.dilations,
        "pads": _turned_pads(geometry),
        "group": geometry.groups,
    }
    return step.tape.op("Conv", step.g, _turned(step, geometry), **attributes)


def _conv_data(step: Step, geometry: Geometry) -> Tensor:
    """Convolve back; how much of the end no window reads follows from the size, and is cut off where that is open."""
    weight, tape, rank = step.input(1), step.tape, len(geometry.kernel)
    attributes: dict[str, Any] = {
        "strides": geometry.strides,
        "dilations": geometry.dilations,
        "group": geometry.groups,
    }
    rest = geometry.unread()
    if rest is not None:
        pads = [*geometry.before, *geometry.after]
        return tape.op("ConvTranspose", step.g, weight, pads=pads, output_padding=rest, **attributes)
    padding = [stride - 1 for stride in geometry.strides]
    whole = tape.op("ConvTranspose", step.g, weight, output_padding=padding, **attributes)
    starts = tape.ints(*geometry.before)
    ends = tape.op("Shape", step.x, start=2) + starts
    return tape.op("Slice", whole, starts, ends, tape.ints(*range(2, rank + 2)))


def _turned(step: Step, geometry: Geometry) -> Tensor:
    """Exchange input and output channels of a weight within each group, and turn its kernel around."""
    weight, tape = step.input(1), step.tape
    rank, groups = len(geometry.kernel), geometry.groups
    made, read = geometry.channels
    if max(geometry.kernel) > 1:
        axes = list(range(2, rank + 2))
        far = np.iinfo(np.int64).min
        weight = tape.op(
            "Slice",
            weight,
            tape.ints(*[-1] * rank),
            tape.ints(*[far] * rank),
            tape.ints(*axes),
            tape.ints(*[-1] * rank),
        )
    if groups == 1:
        return weight.transpose(1, 0, *range(2, rank + 2))
    each = int(made) // groups  # type: ignore[arg-type]
    if each == 1 and read == 1:
        return weight
    split = weight.reshape([groups, each, int(read), *geometry.kernel])  # type: ignore[arg-type]
    exchanged = split.transpose(0, 2, 1, *range(3, rank + 3))
    return exchanged.reshape([groups * int(read), each, *geometry.kernel])  # type: ignore[arg-type]


def _conv_weight(step: Step, geometry: Geometry) -> Tensor:
    if math.prod(geometry.kernel) == 1 and geometry.groups == 1 and not any([*geometry.before, *geometry.after]):
        return _pointwise_weight(step, geometry)
    return weight_gradient(geometry, step.x, step.g, step.input(1))


def _pointwise_weight(step: Step, geometry: Geometry) -> Tensor:
    """Multiply channels with channels: a kernel of one cell reads nothing but its own."""
    data, tape = step.x, step.tape
    rank = len(geometry.kernel)
    if set(geometry.strides) != {1}:
        axes = tape.ints(*range(2, rank + 2))
        far = np.iinfo(np.int64).max
        data = tape.op(
            "Slice", data, tape.ints(*[0] * rank), tape.ints(*[far] * rank), axes, tape.ints(*geometry.strides)
        )
    rows, columns = (t.reshape([0, 0, -1]) for t in (step.g, data))
    return product(rows, columns, transpose_b=True).sum([0], keepdims=False).reshape_like(step.input(1))


def unknown_window(node: ir.Node) -> str:
    """Return why a convolution cannot be differentiated: more would have to be known of it."""
    weight, data = node.inputs[1], node.inputs[0]
    if weight is None or weight.shape is None or not all(isinstance(dim, int) for dim in weight.shape):
        return "where the shape of its weight is not known"
    sized = data is not None and data.shape is not None and all(isinstance(dim, int) for dim in data.shape[2:])
    strided = set(edit.ints_attribute(node, "strides") or (1,)) != {1}
    if asks_for_same(node) and strided and not sized:
        return "with auto_pad where the size of its input is not known before it runs"
    return unknown_rank(node)


def _unknown_rank(node: ir.Node) -> str:
    return "" if all(v is not None and v.shape is not None for v in node.inputs[:2]) else "of operands of unknown rank"


RULES: dict[str, Rule] = {
    "Conv": Rule(_conv, refuses=unknown_window),
    "Gemm": Rule(_gemm, refuses=_unknown_rank),
    "MatMul": Rule(_matmul, refuses=_unknown_rank),
}
