"""Caches of integers, as the model itself says how to read them: whoever compares models gives and gets floats."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

Array = npt.NDArray[Any]

SCALE = "onnxcompress.scale"
"""The key in the metadata of an input or output that holds integers: the initializer with their scales."""

LIMIT = 127


def scales_of(model: ir.Model) -> dict[str, Array]:
    """Return the scales of inputs and outputs that say which ones they have, so that they broadcast to the tensors."""
    found = {}
    for value in (*model.graph.inputs, *model.graph.outputs):
        scale = model.graph.initializers.get(value.metadata_props.get(SCALE, ""))
        if scale is not None and scale.const_value is not None and value.shape is not None:
            found[str(value.name)] = spread(scale.const_value.numpy(), value.shape)
    return found


def spread(scale: Array, shape: ir.Shape) -> Array:
    """Return scales so that they broadcast: those in a row are for each head and each position in it."""
    heads = shape[1] if len(shape) > 1 else 1
    return scale.reshape(heads, 1, -1) if scale.ndim == 1 and isinstance(heads, int) else scale


def encode(array: Array, scale: Array) -> npt.NDArray[np.int8]:
    """Return the nearest integers."""
    return np.clip(np.rint(array.astype(np.float32) / scale), -LIMIT - 1, LIMIT).astype(np.int8)


def decode(array: Array, scale: Array) -> npt.NDArray[np.float32]:
    """Return what integers stand for."""
    return np.asarray(array * scale, np.float32)
