"""Softmax and normalisations."""

from __future__ import annotations

import math

import onnx_ir as ir

from .products import channel_sums
from .step import Gradients, Rule, Step, first, unknown_rank
from .tape import MICROSOFT, Tensor, product

WHOLE_ROWS = 13
"""From this opset on Softmax works along one axis; before, over all from there on."""
LONG_ROW = 512
"""Two rows of so many numbers are multiplied faster as matrices than one by one and then summed."""


def _softmax(step: Step) -> Tensor:
    weighted = step.g * step.y
    return weighted - step.y * weighted.sum(_softmax_axes(step))


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
    """S. Ioffe, C. Szegedy, "Batch Normalization", arXiv:1502.03167; a batch that trains has its own statistics."""
    trains = step.integer("training_mode", 0)
    scale = step.input(1)
    mean, variance = (step.tape.of(v) for v in step.node.outputs[1:3]) if trains else (step.input(3), step.input(4))
    epsilon = step.number("epsilon", 1e-5)
    inverse = 1.0 / step.tape.op("Sqrt", variance + epsilon)
    if trains and "BatchNormalizationGrad" in step.tape.kernels:
        given = (step.g, step.x, scale, mean, inverse)
        made = step.tape.ops("BatchNormalizationGrad", *given, domain=MICROSOFT, outputs=3, epsilon=epsilon)
        return dict(enumerate(made))
    factor, total = scale * inverse, channel_sums(step.g, step.rank())
    found: Gradients = {2: total}
    if step.wants(0) or step.wants(1) or step.wants(4):
        weighted = _channel_dots(step) - total * mean
        found[1] = weighted * inverse
        found[4] = weighted * factor * inverse * inverse * -0.5
    if step.wants(0):
        found[0] = step.g * factor.reshape([-1, *[1] * (step.rank() - 2)])
    if trains:
        # What moves the statistics moves all of the channel: again a normalisation of the same data, in one pass.
        share = -factor / (step.tape.op("Size", step.x).number() / step.tape.op("Size", scale).number())
        moved = (step.x, found[1] * share, total * share, mean, variance)
        found[0] = found[0] + step.tape.op("BatchNormalization", *moved, epsilon=epsilon)
    elif step.wants(3):
        found[3] = -(total * factor)
    return found


def _channel_dots(step: Step) -> Tensor:
    """Return the sums of gradient times data for each channel."""
    space = (step.dims(step.x) or ())[2:]
    if not all(isinstance(extent, int) for extent in space) or math.prod(space) < LONG_ROW:  # type: ignore[arg-type]
        return channel_sums(step.g * step.x, step.rank())
    rows = [tensor.reshape([0, 0, 1, -1]) for tensor in (step.g, step.x)]
    return product(*rows, transpose_b=True).sum([0], keepdims=False).reshape([-1])


def _returns_more(node: ir.Node) -> str:
    more = any(output.uses() for output in node.outputs[1:])
    return "where its second output is read" if more else unknown_rank(node)


def _trains(node: ir.Node) -> str:
    if node.attributes.get_int("training_mode", 0):
        return "in training mode"
    return unknown_rank(node)


_RMS = Rule(_rms_norm, frozenset({0, 1}), _returns_more)

RULES: dict[str, Rule] = {
    "BatchNormalization": Rule(_batch_norm, refuses=_trains),
    "InstanceNormalization": Rule(_instance_norm, refuses=unknown_rank),
    "LayerNormalization": Rule(_layer_norm, refuses=unknown_rank),
    "LogSoftmax": first(_log_softmax, unknown_rank),
    "RMSNormalization": _RMS,
    "SimplifiedLayerNormalization": _RMS,
    "Softmax": first(_softmax, unknown_rank),
}
