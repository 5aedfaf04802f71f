"""Softmax and normalisations."""

from __future__ import annotations

import math

import onnx_ir as ir

from .step import Gradients, Rule, Step, first
from .tape import Tensor

WHOLE_ROWS = 13
"""From this opset on Softmax works along one axis; before, over all from there on."""


def _softmax(step: Step) -> Tensor:
    product = step.g * step.y
    return product - step.y * product.sum(_softmax_axes(step))


def _log_softmax(step: Step) -> Tensor:
    return step.g - step.tape.op("Exp", step.y) * step.g.sum(_softmax_axes(step))


def _softmax_axes(step: Step) -> list[int]:
    axis = step.integer("axis", -1 if step.tape.opset >= WHOLE_ROWS else 1) % step.rank()
    return [axis] if step.tape.opset >= WHOLE_ROWS else list(range(axis, step.rank()))


def _layer_norm(step: Step) -> Gradients:
    """J. L. Ba, J. R. Kiros, G. E. Hinton, "Layer Normalization", arXiv:1607.06450."""
    axes = _last_axes(step)
    mean, inverse = _saved(step, 1), _saved(step, 2)
    normalised = (step.x - mean) * inverse
    found = Gradients()
    if step.wants(0):
        found[0] = _before_norm(step, normalised, inverse, axes)
    if step.wants(1) and step.gradients[0] is not None:
        found[1] = step.fit(step.g * normalised, 1)
    if step.wants(2) and step.gradients[0] is not None:
        found[2] = step.fit(step.g, 2)
    return found


def _last_axes(step: Step) -> list[int]:
    rank = step.rank()
    return list(range(step.integer("axis", -1) % rank, rank))


def _saved(step: Step, number: int) -> Tensor:
    """Return an output of the node that it may leave out: it knows what the rule would compute again."""
    node = step.node
    if len(node.outputs) <= number:
        node.resize_outputs(number + 1)
    output = node.outputs[number]
    output.name = output.name or f"{node.outputs[0].name}/{number}"
    return step.tape.of(output)


def _before_norm(step: Step, normalised: Tensor, inverse: Tensor, axes: list[int]) -> Tensor:
    """Return the gradient of what was normalised, through the result and the statistics, which a node may return."""
    total: Tensor | None = None
    if step.gradients[0] is not None:
        scaled = step.g * step.input(1)
        share = scaled.mean(axes) + normalised * (scaled * normalised).mean(axes)
        total = inverse * (scaled - share)
    for number, slope in ((1, None), (2, normalised * inverse * inverse * -1.0)):
        gradient = step.gradients[number] if number < len(step.gradients) else None
        if gradient is not None:
            each = gradient / counted(step, axes)
            part = each.expand_like(step.x) if slope is None else each * slope
            total = part if total is None else total + part
    assert total is not None, "a node is differentiated because the loss varies with an output"
    return total


def counted(step: Step, axes: list[int]) -> Tensor | float:
    """Return how many elements share a statistic."""
    extents = [(step.dims(step.x) or ())[axis] for axis in axes]
    if all(isinstance(extent, int) for extent in extents):
        return float(math.prod(extents))  # type: ignore[arg-type]
    lengths = step.tape.op("Gather", step.x.shape(), step.tape.ints(*axes), axis=0)
    return lengths.reduce("ReduceProd", None, keepdims=False).number()


def _rms_norm(step: Step) -> Gradients:
    """B. Zhang, R. Sennrich, "Root Mean Square Layer Normalization", arXiv:1910.07467."""
    axes, found = _last_axes(step), Gradients()
    square = (step.x * step.x).mean(axes) + step.number("epsilon", 1e-5)
    inverse = 1.0 / step.tape.op("Sqrt", square)
    normalised = step.x * inverse
    if step.wants(0):
        scaled = step.g * step.input(1)
        found[0] = inverse * (scaled - normalised * (scaled * normalised).mean(axes))
    if step.wants(1):
        found[1] = step.fit(step.g * normalised, 1)
    return found


def _instance_norm(step: Step) -> Gradients:
    """D. Ulyanov, A. Vedaldi, V. Lempitsky, "Instance Normalization", arXiv:1607.08022."""
    rank, found = step.rank(), Gradients()
    axes, column = list(range(2, rank)), [-1, *[1] * (rank - 2)]
    centred = step.x - step.x.mean(axes)
    inverse = 1.0 / step.tape.op("Sqrt", (centred * centred).mean(axes) + step.number("epsilon", 1e-5))
    normalised = centred * inverse
    total, along = step.g.sum(axes), (step.g * normalised).sum(axes)
    if step.wants(0):
        cells = counted(step, axes)
        share = total / cells + normalised * (along / cells)
        found[0] = (step.g - share) * (inverse * step.input(1).reshape(column))
    for index, sums in ((1, along), (2, total)):
        if step.wants(index):
            found[index] = sums.sum([0], keepdims=False).reshape([-1])
    return found


def _batch_norm(step: Step) -> Gradients:
    """Differentiate by the statistics too: where a batch has its own, they are computed of the data before."""
    rank, others = step.rank(), [axis for axis in range(step.rank()) if axis != 1]
    column = [-1, *[1] * (rank - 2)]
    scale, mean, variance = (step.input(index) for index in (1, 3, 4))
    inverse = 1.0 / step.tape.op("Sqrt", variance + step.number("epsilon", 1e-5))
    found: Gradients = {}
    factor = scale * inverse
    if step.wants(0):
        found[0] = step.g * factor.reshape(column)
    total = step.g.sum(others, keepdims=False)
    if step.wants(2):
        found[2] = total
    if step.wants(3):
        found[3] = -(total * factor)
    if step.wants(1) or step.wants(4):
        weighted = (step.g * step.x).sum(others, keepdims=False) - total * mean
        found[1] = weighted * inverse
        found[4] = weighted * factor * inverse * inverse * -0.5
    return found


def _returns_more(node: ir.Node) -> str:
    more = any(output.uses() for output in node.outputs[1:])
    return "where its second output is read" if more else _unknown_rank(node)


def _trains(node: ir.Node) -> str:
    if node.attributes.get_int("training_mode", 0):
        return "in training mode"
    return _unknown_rank(node)


def _unknown_rank(node: ir.Node) -> str:
    data = node.inputs[0]
    return "" if data is not None and data.shape is not None else "where the rank of its input is not known"


_RMS = Rule(_rms_norm, frozenset({0, 1}), _returns_more)

RULES: dict[str, Rule] = {
    "BatchNormalization": Rule(_batch_norm, refuses=_trains),
    "InstanceNormalization": Rule(_instance_norm, refuses=_unknown_rank),
    "LayerNormalization": Rule(_layer_norm, refuses=_unknown_rank),
    "LogSoftmax": first(_log_softmax, _unknown_rank),
    "RMSNormalization": _RMS,
    "SimplifiedLayerNormalization": _RMS,
    "Softmax": first(_softmax, _unknown_rank),
}
