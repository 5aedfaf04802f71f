"""What a BatchNormalization computes, from its parameters."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from . import edit

Vector = npt.NDArray[np.float64]


def batch_norm(node: ir.Node) -> tuple[Vector, Vector, Vector] | None:
    """Return factor, mean and shift of ``factor · (x - mean) + shift``, one of each for every channel.

    None where a parameter is no constant; a channel of negative variance gets NaN.
    """
    tensors = [edit.constant(value) for value in node.inputs[1:5]]
    if any(tensor is None for tensor in tensors):
        return None
    scale, shift, mean, variance = (tensor.numpy().astype(np.float64) for tensor in tensors if tensor is not None)
    with np.errstate(invalid="ignore"):
        return scale / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5)), mean, shift
