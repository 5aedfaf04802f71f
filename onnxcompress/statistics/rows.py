"""Rows of what a layer reads and gives, drawn at the same places of both, for Gram matrices."""

from __future__ import annotations

import math

import numpy as np

from ..graph.layer import Layer
from ..graph.windows import patches, positions
from ..runtime.session import Array
from .gram import Flags, Indices, draw, rows_at
from .segments import Code

HELD_OUT = 4
"""One sample in so many is held out, to judge by."""


def held_out(first: int, count: int) -> Flags:
    """Tell which of `count` samples from number `first` on are held out."""
    return np.asarray(np.arange(first, first + count) % HELD_OUT == HELD_OUT - 1)


class Rows:
    """Draws rows of a layer: for a sample always the same ones, whatever batch it comes in.

    A layer that is no convolution has a row for each vector along its channels; a convolution one for each position of
    its output.

    Parameters
    ----------
    layer : Layer
        Its weight is a matrix, or a convolution's.
    each : int, optional
        How many rows of each sample, at most; all by default.
    """

    def __init__(self, layer: Layer, each: int | None = None) -> None:
        self._layer, self._each = layer, each

    def outputs(self, array: Array, first: int, *, groups: int | None = None) -> Array:
        """Draw rows of channels: (groups, rows, channels of each).

        Parameters
        ----------
        array : ndarray
            What the layer gave for samples (along axis 0) from number `first` on, or anything of the same extents.
        first : int
        groups : int, optional
            Into how many parts the channels are cut; those of the layer by default.
        """
        if not self._layer.is_convolution:
            return self._vectors(array, -1, first)
        return self._grouped(rows_at(array, self._draw(first, len(array), array.shape[2:])), groups)

    def inputs(self, array: Array, first: int, code: Code | None = None, *, groups: int | None = None) -> Array:
        """Draw the same rows of what it reads: (groups, rows, weights of an output), floats.

        Parameters
        ----------
        array, first, groups
            As for `outputs`; some of the channels may be left out.
        code : Code, optional
            How to read `array`, if it is of integers.
        """
        layer = self._layer
        if not layer.is_convolution:
            rows = self._vectors(array, layer.data_axis(array.ndim), first)
        else:
            at = self._draw(first, len(array), positions(layer.node, array.shape[2:], layer.kernel))
            outside = 0.0 if code is None else float(code.zero_point)
            rows = self._grouped(patches(layer.node, array, layer.kernel, at, outside=outside), groups)
        return rows if code is None else code.decode(rows)

    def _vectors(self, array: Array, axis: int, first: int) -> Array:
        """Draw vectors along an axis: of each index along the first of the others, some."""
        array = np.moveaxis(np.atleast_2d(array), axis, -1)
        size = array.shape[-1]
        flat = array.reshape(len(array), math.prod(array.shape[1:-1]), size)
        if self._each is not None and flat.shape[1] > self._each:
            flat = np.take_along_axis(flat, self._draw(first, len(array), array.shape[1:-1])[..., None], 1)
        return np.asarray(flat.reshape(1, flat.shape[0] * flat.shape[1], size))

    def _draw(self, first: int, count: int, extents: tuple[int, ...]) -> Indices:
        number = math.prod(extents)
        return draw(first, count, number, number if self._each is None else self._each)

    def _grouped(self, rows: Array, groups: int | None) -> Array:
        return np.asarray(rows.reshape(len(rows), groups or self._layer.groups, -1).swapaxes(0, 1))
