"""A layer seen as one matrix: what each channel that it reads adds to each that it gives."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ..graph.layer import Layer
from .engine import Engine

Kind = TypeVar("Kind", bound=np.generic)

Part: TypeAlias = Callable[[npt.NDArray[np.floating]], npt.NDArray[np.floating]]


@dataclass(frozen=True)
class WeightMatrix:
    """The weights of each pair of channels.

    Attributes
    ----------
    data : onnx_ir.Value
        What the layer reads.
    axis, out_axis : int
        Where the channels are in it, and in what the layer gives.
    sum : (outputs, inputs) float array
        The weights of each pair added up over the kernel.
    any : (outputs, inputs) bool array
        Whether any weight of the pair is not zero (NaN counts as not zero).
    bias : (outputs,) float array, optional
        What is added to each output; NaN where that is no constant, or not the same in each row.
    """

    data: ir.Value
    axis: int
    out_axis: int
    sum: npt.NDArray[np.float64]
    any: npt.NDArray[np.bool_]
    bias: npt.NDArray[np.float64] | None


def weight_matrix(engine: Engine, node: ir.Node, part: Part = np.asarray) -> WeightMatrix | None:
    """Return the matrix of a node with a constant weight, of which a `part` (such as the positive ones) is taken."""
    layer = Layer.of(node, engine.array)
    array = None if layer is None else engine.array(layer.value)
    if layer is None or array is None or array.dtype.kind not in "fV":
        return None
    rank = len(engine.shape(layer.data))
    if rank < 2 or layer.is_stack or layer.transposes_input:
        return None
    blocks = layer.blocks(part(layer.single_weight))
    blocks = blocks.reshape(*blocks.shape[:2], -1, math.prod(layer.kernel))
    total, nonzero = _spread(blocks.sum(-1, dtype=np.float64)), _spread((blocks != 0).any(-1))
    known = None if layer.bias_value is None else layer.known_bias()
    if layer.bias_value is not None and known is None:
        known = np.full(len(total), np.nan)
    return WeightMatrix(layer.data, layer.data_axis(rank), layer.channel_axis(rank), total, nonzero, known)


def _spread(blocks: npt.NDArray[Kind]) -> npt.NDArray[Kind]:
    """Put the blocks of groups (groups, outputs, inputs) along the diagonal of one matrix."""
    groups, outputs, inputs = blocks.shape
    if groups == 1:
        return np.asarray(blocks[0])
    whole: npt.NDArray[Kind] = np.zeros((groups, outputs, groups, inputs), blocks.dtype)
    whole[np.arange(groups), :, np.arange(groups)] = blocks
    return whole.reshape(groups * outputs, groups * inputs)
