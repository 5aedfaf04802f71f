"""Normalisations that are made of simpler ones, and pooling by powers."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from ...graph import edit
from ..rules.step import Step
from ..rules.tape import Tensor
from .composite import Composite, Results, extents, reads_more

PER_CHANNEL = 21
"""From this opset on GroupNormalization has a scale for each channel; before, for each group."""

DILATED_AVERAGES = 19
"""From this opset on AveragePool has dilations."""


def _group_norm(step: Step) -> Results:
    """Y. Wu, K. He, "Group Normalization", arXiv:1803.08494."""
    groups, tape = step.integer("num_groups", 1), step.tape
    rank, epsilon = step.rank(), step.number("epsilon", 1e-5)
    rows = step.x.reshape([0, groups, -1])
    if tape.opset < PER_CHANNEL:
        made = tape.op("InstanceNormalization", rows, step.input(1), step.input(2), epsilon=epsilon)
        return [made.reshape_like(step.x)]
    ones, zeros = np.ones(groups, np.float32), np.zeros(groups, np.float32)
    made = tape.op("InstanceNormalization", rows, ones, zeros, epsilon=epsilon).reshape_like(step.x)
    scale, shift = (step.input(index).reshape([-1, *[1] * (rank - 2)]) for index in (1, 2))
    return [made * scale + shift]


def _batch_norm(step: Step) -> Results:
    """Write one that always takes the statistics of its batch, as normalised weights have it."""
    axes = [axis for axis in range(step.rank()) if axis != 1]
    centred = step.x - step.x.mean(axes)
    deviation = step.tape.op("Sqrt", (centred * centred).mean(axes) + step.number("epsilon", 1e-5))
    scale, shift = (step.input(index).reshape([-1, *[1] * (step.rank() - 2)]) for index in (1, 2))
    return [centred / deviation * scale + shift]


def _unfit_batch_norm(node: ir.Node) -> str:
    if not edit.int_attribute(node, "training_mode", 0):
        return "outside of training mode"
    return "in training mode where running statistics are read" if reads_more(node, 1) else _unknown_rank(node)


def _mean_variance(step: Step) -> Results:
    axes = [axis % step.rank() for axis in edit.ints_attribute(step.node, "axes") or (0, 2, 3)]
    centred = step.x - step.x.mean(axes)
    # The operator adds 1e-9 to the deviation, which has no slope where it is zero.
    deviation = step.tape.op("Sqrt", (centred * centred).mean(axes) + 1e-18)
    return [centred / (deviation + 1e-9)]


def _lp_normalization(step: Step) -> Results:
    axes = [step.integer("axis", -1) % step.rank()]
    norm = step.x.reduce("ReduceL1" if step.integer("p", 2) == 1 else "ReduceL2", axes)
    return [step.x / step.tape.op("Where", norm > 0.0, norm, step.tape.of(1.0))]


def _local_response(step: Step) -> Results:
    """A. Krizhevsky, I. Sutskever, G. E. Hinton, "ImageNet Classification with Deep CNNs", 2012: section 3.3."""
    size, channels = step.integer("size", 1), int((step.dims(step.x) or ())[1])  # type: ignore[arg-type]
    before = (size - 1) // 2
    places = np.arange(channels)
    distance = places[None, :] - places[:, None]
    near = ((distance >= -before) & (distance <= size - 1 - before)).astype(np.float32)
    band = near.reshape(channels, channels, *[1] * (step.rank() - 2))
    total = step.tape.op("Conv", step.x * step.x, band)
    base = total * (step.number("alpha", 1e-4) / size) + step.number("bias", 1.0)
    return [step.x / step.tape.op("Pow", base, step.tape.of(step.number("beta", 0.75)))]


def _powered(step: Step, p: int) -> Tensor:
    if p == 2:
        return step.x * step.x
    size = step.tape.op("Abs", step.x)
    return size if p == 1 else step.tape.op("Pow", size, step.tape.of(float(p)))


def _rooted(step: Step, total: Tensor, p: int) -> Tensor:
    """Return the root, and zero, which has no slope, of zero."""
    some, tape = total > 0.0, step.tape
    safe = tape.op("Where", some, total, tape.of(1.0))
    root = safe if p == 1 else tape.op("Pow", safe, tape.of(1 / p))
    return tape.op("Where", some, root, tape.of(0.0))


def _lp_pool(step: Step) -> Results:
    p, kernel = step.integer("p", 2), edit.ints_attribute(step.node, "kernel_shape") or ()
    kept = {n: a.value for n, a in step.node.attributes.items() if n != "p"}
    mean = step.tape.op("AveragePool", _powered(step, p), count_include_pad=1, **kept)
    return [_rooted(step, mean * float(math.prod(kernel)), p)]


def _global_lp_pool(step: Step) -> Results:
    p = step.integer("p", 2)
    return [_rooted(step, _powered(step, p).sum(range(2, step.rank())), p)]


def _unfit_pool(node: ir.Node) -> str:
    if edit.int_attribute(node, "ceil_mode", 0):
        return "with ceil_mode"
    dilated = set(edit.ints_attribute(node, "dilations") or (1,)) != {1}
    old = node.graph is not None and int(node.graph.opset_imports.get("", 0)) < DILATED_AVERAGES
    return "with dilations before opset 19" if dilated and old else _unknown_rank(node)


def _unknown_rank(node: ir.Node) -> str:
    return "" if extents(node.inputs[0]) else "where the rank of its input is not known"


def _unknown_channels(node: ir.Node) -> str:
    known = extents(node.inputs[0])
    return "" if len(known) > 1 and known[1] is not None else "where the number of channels is not known"


COMPOSITES: dict[str, Composite] = {
    "BatchNormalization": Composite(_batch_norm, _unfit_batch_norm),
    "GlobalLpPool": Composite(_global_lp_pool, _unknown_rank),
    "GroupNormalization": Composite(_group_norm, _unknown_rank),
    "LRN": Composite(_local_response, _unknown_channels),
    "LpNormalization": Composite(_lp_normalization, _unknown_rank),
    "LpPool": Composite(_lp_pool, _unfit_pool),
    "MeanVarianceNormalization": Composite(_mean_variance, _unknown_rank),
}
