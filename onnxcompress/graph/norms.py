"""What a BatchNormalization computes, from its parameters."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from . import constants

Vector = npt.NDArray[np.float64]


def batch_norm(node: ir.Node, read: constants.Read = constants.held) -> tuple[Vector, Vector, Vector] | None:
    """Return factor, mean and shift of ``factor · (x - mean) + shift``, one of each for every channel.

    None where `read` returns no array for a parameter; a channel of negative variance gets NaN.
    """
    found = [array for value in node.inputs[1:5] if (array := read(value)) is not None]
    if len(found) < 4:
        return None
    scale, shift, mean, variance = (array.astype(np.float64) for array in found)
    with np.errstate(invalid="ignore"):
        return scale / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5)), mean, shift
