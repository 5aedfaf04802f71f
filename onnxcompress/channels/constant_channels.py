"""Which channels have the same value for every input: one number per position of an axis."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ..graph import edit
from .engine import Engine

Channel: TypeAlias = npt.NDArray[np.float64]
"""One number per position of an axis: what the whole slice at that position is, NaN where it depends on the input."""


class ConstantChannels:
    """The constant slices of every tensor, as far as `propagate` has come."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._found: dict[tuple[ir.Value, int], Channel] = {}

    def along(self, value: ir.Value | None, axis: int) -> Channel:
        """Return the constant slices of a tensor along an axis."""
        if value is None:
            return np.zeros(0)
        shape = self.engine.shape(value)
        key = (value, axis % max(len(shape), 1))
        if key not in self._found:
            array = self._array(value)
            if array is not None and shape:
                others = tuple(d for d in range(len(shape)) if d != key[1])
                low, high = array.min(axis=others), array.max(axis=others)
                self._found[key] = np.where(low == high, low, np.nan)
            else:
                return np.full(shape[axis] if shape else 0, np.nan)
        return self._found[key]

    def _array(self, value: ir.Value) -> npt.NDArray[np.float64] | None:
        """Return a constant, or a small value computed from constants alone (a class token, expanded)."""
        tensor = edit.constant(value)
        array = self.engine.known.values.get(value) if tensor is None else tensor.numpy()
        floating = array is not None and (array.dtype.kind == "f" or array.dtype.name == "bfloat16")
        return array.astype(np.float64, copy=False) if array is not None and floating else None

    def set(self, value: ir.Value, axis: int, channel: Channel) -> None:
        """Note the constant slices of a node's output, where there are any."""
        if not np.isnan(channel).all():
            self._found[value, axis] = channel

    def axes(self, value: ir.Value | None) -> list[int]:
        """Return the axes of a tensor along which some slice is known."""
        if value is None:
            return []
        if self._array(value) is not None:
            return list(range(len(self.engine.shape(value))))
        return [axis for axis in range(len(self.engine.shape(value))) if (value, axis) in self._found]
