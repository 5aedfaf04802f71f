"""What `quantize` must do so that a target takes its model as a whole."""

from __future__ import annotations

from typing import Literal, TypedDict

from .target import Target

FULL_RANGE = 127
"""The greatest of int8; weights that may not reach it have a bit less."""


class QuantizeOptions(TypedDict):
    """Options of `quantize`, by the names of its fields."""

    activations: str
    weights: str
    symmetric: bool
    granularity: Literal["tensor", "channel"]
    bias: Literal["int32", "float"]
    power_of_two: bool
    reduce_range: bool
    operators: frozenset[str]
    coverage: Literal["layers", "all"]


def quantize_options(target: Target) -> QuantizeOptions:
    """Return how a model is quantized for a target.

    Parameters
    ----------
    target : Target

    Returns
    -------
    dict
        activations, weights : str
            Types, as in ONNX, in lower case: the first that the target names, and of weights the first that goes with
            the activations.
        symmetric : bool
            Zero points of activations are the middle of their type's range.
        granularity : {"tensor", "channel"}
            Whether a weight has one scale, or one for each output channel.
        bias : {"int32", "float"}
            int32 with the scale of the input times that of the weight, or left as it is.
        power_of_two : bool
            All scales are powers of two; those of biases then are, too.
        reduce_range : bool
            Weights use 7 bits, [-64, 64].
        operators : frozenset of str
            What may compute on integers or pass them through; Relu and Clip only as part of the operator before them,
            unless they are named.
        coverage : {"layers", "all"}
            Whether all of them do, wherever they stand, or only where that is faster.
    """
    activations = target.activations.dtypes[0]
    allowed = [weight for activation, weight in target.pairs if activation == activations]
    weights = next(name for name in target.weights.dtypes if not target.pairs or name in allowed)
    limited = target.weights.range is not None and activations in target.weights.range_with
    return {
        "activations": activations,
        "weights": weights,
        "symmetric": activations in target.activations.symmetric,
        "granularity": "channel" if target.weights.per_channel else "tensor",
        "bias": target.bias.format,
        "power_of_two": target.scales.power_of_two,
        "reduce_range": limited and target.weights.range is not None and target.weights.range[1] < FULL_RANGE,
        "operators": frozenset((*target.operators.integer, *target.operators.moves)),
        "coverage": target.operators.coverage,
    }


def takes(target: Target, activations: str, weights: str) -> bool:
    """Tell whether the target computes on activations and weights of such types in one operator."""
    return activations in target.activations.dtypes and (not target.pairs or (activations, weights) in target.pairs)
