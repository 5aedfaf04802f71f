"""Turns the streams of a model as a plan says."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.channels.groups import find_groups
from onnxcompress.channels.rotation import rotate
from onnxcompress.channels.streams import find_streams
from onnxcompress.errors import PassError


def turn(model: ir.Model, rotations: Mapping[str, npt.NDArray[np.float32]]) -> list[str]:
    """Turn streams in place; returns the names of the constants that were changed."""
    if not rotations:
        return []
    streams = {stream.name: stream for stream in find_streams(find_groups(model))[0]}
    for name, matrix in rotations.items():
        if name not in streams or matrix.shape != (streams[name].width,) * 2:
            raise PassError(f"rotation of '{name}': the model has no such stream; was the plan made for it?")
    return [n for name, matrix in rotations.items() for n in rotate(streams[name], matrix.astype(np.float64))]
