"""Scale what weights read so that rounding them changes what they give the least: AWQ on Gram matrices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.contract import Context, Refusal
from onnxcompress.graph.layer import Layer

from ..weight_only.errors import output_error
from ..weight_only.grams import SAMPLES, layer_grams
from .axes import Row, Scalable
from .equalisation import Equalisation, factors_of
from .scalable import find_scalable
from .smooth_quant import LIMIT, components

Vector = npt.NDArray[np.float64]
Rounded = Callable[[ir.Value, npt.NDArray[np.generic]], Vector | None]
"""Returns what a weight is once it is stored; None where it stays as it is."""

POWERS = ((0.0, 0.0), *((a, b) for a in (0.125, 0.25, 0.375, 0.5, 0.75) for b in (0.0, a)))
"""Of the activations' and of the weights' size: ``s = x^a / w^b``; the first pair leaves everything as it is."""

WORTH = 0.99
"""Channels are scaled where that leaves less than this part of the error."""


@dataclass(frozen=True)
class _Read:
    """A weight that reads channels which can be scaled: its layer, their factors' numbers, their mean squares."""

    layer: Layer
    rows: Row
    square: Vector


def least_error(model: ir.Model, context: Context, rounded: Rounded) -> Equalisation:
    """Choose factors for the channels that weights read, by the error at the outputs of these weights.

    Parameters
    ----------
    model : onnx_ir.Model
        Prepared, shapes inferred. Not changed.
    context : Context
        For the same model, with samples.
    rounded : callable
        The weight, and its numbers once they are scaled → what these become, as they will be stored.

    Notes
    -----
    Lin et al. 2023, arXiv:2306.00978 (AWQ): channels with large activations get larger weights, which rounding to steps
    of one size then changes less, and what makes the channels is divided by the same factors. Their grid of powers is
    searched, that of the weights beside it; but the error is ``tr((W − Q) G (W − Q)ᵀ)``, with the Gram matrix of what
    is read, which knows how errors of channels that go together add up, and no run of the model is needed for a try.
    Each set of channels that are scaled together is judged by itself, and stays as it is where no try is better.
    """
    scalable = find_scalable(model)
    refused = tuple(Refusal(subject, f"not equalised: {reason}") for subject, reason in scalable.refused.items())
    reads = _reads(model, scalable, context, rounded)
    if not reads:
        return Equalisation(refused=refused)
    tries = [_factors(scalable.size, list(reads.values()), *powers) for powers in POWERS]
    part = np.zeros(scalable.size, np.int64)
    for number, labels in enumerate(components(scalable)):
        part[labels] = number + 1
    errors = np.zeros((part.max() + 1, len(tries)))
    for name, gram in layer_grams(model, list(reads), context):
        read = reads[name]
        errors[part[read.rows.max()]] += [_error(read, factors[read.rows], gram, rounded) for factors in tries]
    best = np.where(errors.min(1) < WORTH * errors[:, 0], errors.argmin(1), 0)
    chosen = np.stack(tries)[best[part], np.arange(scalable.size)]
    frozen = {0, *np.flatnonzero(np.isin(part, _clipped(scalable, part))).tolist()}
    chosen[list(frozen)] = 1
    return Equalisation((), tuple(factors_of(scalable, 1 / chosen)), refused)


def _clipped(scalable: Scalable, part: npt.NDArray[np.int64]) -> list[int]:
    """Return the parts that a Clip cuts off, which the factors would move."""
    return [int(part[label]) for place, _, _ in scalable.clips for label in np.unique(place.rows)]


def _reads(model: ir.Model, scalable: Scalable, context: Context, rounded: Rounded) -> dict[str, _Read]:
    """Return the weights that will be stored and read channels which can be scaled, by name."""
    given = context.on(model).given(context.samples.head(SAMPLES))
    squares = given.channel_means(list(scalable.tensors), "square") if scalable.tensors else {}
    axes = dict(scalable.tensors)
    found = {}
    for place in scalable.consumers:
        layer = Layer(place.node, place.input)
        key = next(key for key in axes if key[0] == layer.data.name)
        if rounded(layer.value, layer.stored) is not None:
            found[str(layer.value.name)] = _Read(layer, place.rows, squares[key])
    return found


def _factors(size: int, reads: list[_Read], power: float, inverse: float) -> Vector:
    """Return what each channel's weights are multiplied by, around 1 in each set of channels."""
    activation, weight = np.zeros(size), np.zeros(size)
    for read in reads:
        np.maximum.at(activation, read.rows, read.square)
        np.maximum.at(weight, read.rows, _by_input(read.layer))
    known = (activation > 0) & (weight > 0)
    logs = np.where(known, power * np.log(np.where(known, activation, 1)), 0)
    logs = (logs - np.where(known, inverse * np.log(np.where(known, weight, 1)), 0)) / 2
    for read in reads:  # a common factor means nothing
        labels = np.unique(read.rows[known[read.rows]])
        logs[labels] -= logs[labels].mean() if len(labels) else 0
    found = np.clip(np.exp(logs), 1 / LIMIT, LIMIT)
    found[0] = 1
    return np.asarray(found)


def _by_input(layer: Layer) -> Vector:
    """Return the mean square of the weights of each input channel."""
    blocks = np.square(layer.blocks(layer.weight))
    kernel = blocks.shape[2] * layer.groups // layer.inputs
    return np.asarray(blocks.reshape(*blocks.shape[:2], -1, kernel).mean((1, 3)).ravel())


def _error(read: _Read, factors: Vector, gram: npt.NDArray[np.float32], rounded: Rounded) -> float:
    layer = read.layer
    scaled = layer.scaled_inputs(factors).astype(layer.stored.dtype)
    stored = rounded(layer.value, scaled)
    if stored is None:
        return 0.0
    blocks = layer.blocks(scaled).astype(np.float64)
    each = np.repeat(factors.reshape(layer.groups, 1, -1), blocks.shape[2] * layer.groups // layer.inputs, axis=2)
    return output_error(blocks / each, layer.blocks(stored) / each, gram)
