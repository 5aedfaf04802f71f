"""Telling weights that have been clustered from others."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.graph.weights import find_weights

FEW_VALUES = 256
SHARED_BY = 4


def is_clustered(array: npt.NDArray[Any]) -> bool:
    """Tell whether a weight has few different values, each many times, beside its zeros.

    >>> is_clustered(np.tile([0.5, 0.25, 0.0], 16))
    True
    """
    values = array[array != 0]
    sample = values.ravel()[:: max(1, values.size // 65536)]
    return bool(np.unique(sample).size <= min(FEW_VALUES, sample.size // SHARED_BY))


def clustered_weights(model: ir.Model) -> list[str]:
    """Name the weights of a model that have been clustered."""
    found = []
    for weight in find_weights(model.graph):
        tensor = weight.value.const_value
        if tensor is not None and tensor.dtype.is_floating_point() and is_clustered(tensor.numpy()):
            found.append(str(weight.value.name))
    return found
