"""Softmax and normalisations."""

from __future__ import annotations

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
    rank = step.rank()
    axes = list(range(step.integer("axis", -1) % rank, rank))
    centred = step.x - step.x.mean(axes)
    inverse = 1.0 / step.tape.op("Sqrt", (centred * centred).mean(axes) + step.number("epsilon", 1e-5))
    normalised = centred * inverse
    found: Gradients = {}
    if step.wants(0):
        scaled = step.g * step.input(1)
        found[0] = inverse * (scaled - scaled.mean(axes) - normalised * (scaled * normalised).mean(axes))
    if step.wants(1):
        found[1] = step.fit(step.g * normalised, 1)
    if step.wants(2):
        found[2] = step.fit(step.g, 2)
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


def _trains(node: ir.Node) -> str:
    if node.attributes.get_int("training_mode", 0):
        return "in training mode"
    return _unknown_rank(node)


def _unknown_rank(node: ir.Node) -> str:
    data = node.inputs[0]
    return "" if data is not None and data.shape is not None else "where the rank of its input is not known"


RULES: dict[str, Rule] = {
    "BatchNormalization": Rule(_batch_norm, refuses=_trains),
    "LayerNormalization": Rule(_layer_norm, refuses=_unknown_rank),
    "LogSoftmax": first(_log_softmax, _unknown_rank),
    "Softmax": first(_softmax, _unknown_rank),
}
