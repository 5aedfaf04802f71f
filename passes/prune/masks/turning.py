"""Turns the streams of a model as a plan says."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.channels.groups import find_groups
from onnxcompress.channels.rotation import find_streams, rotate
from onnxcompress.errors import PassError


def turn(model: ir.Model, rotations: Mapping[str, npt.NDArray[np.float32]]) -> list[str]:
    """Turn streams in place; returns the names of the constants that were changed."""
    if not rotations:
        return []
    streams = find_streams(find_groups(model))
    for name, matrix in rotations.items():
        if name not in streams or matrix.shape != (streams[name].group.size,) * 2:
            raise PassError(f"rotation of '{name}': the model has no such stream; was the plan made for it?")
    return [n for name, matrix in rotations.items() for n in rotate(streams[name], matrix.astype(np.float64))]
