"""Conv, Gemm and MatMul with a constant weight seen alike: as blocks of weights, and the rows that they multiply."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.graph import edit
from onnxcompress.graph.windows import patches, positions
from onnxcompress.statistics.gram import ROWS, Flags, Indices, draw, rows_at
from onnxcompress.statistics.segments import Code

from .units import channel_axis, weight_of

Array = npt.NDArray[Any]

HELD_OUT = 4
"""One sample in so many is held out, to judge by."""

JUDGED_ROWS = 1024
"""So many rows that are held out are enough to judge by, and one for each weight of an output."""

FEWEST_ROWS = 8192
"""So many rows are drawn of a layer that has as many, and more where outputs have many weights."""

ROWS_FOR_COLUMN = 32
"""So many for each weight of an output, up to `ROWS`."""

ROWS_FOR_MANY = 4
"""And so many beyond."""

ROWS_OF_GROUPS = 4096
"""Of a convolution with groups, which has a matrix of few columns for each."""


def held_out(first: int, count: int) -> Flags:
    """Tell which of `count` samples from number `first` on are held out."""
    return np.asarray(np.arange(first, first + count) % HELD_OUT == HELD_OUT - 1)


def judging(rows: int, columns: int, samples: int) -> Indices:
    """Choose among the rows of each sample that is held out, of `samples` altogether, those that judge."""
    most = max(JUDGED_ROWS, columns) * HELD_OUT // max(samples, 1) + 1
    return np.linspace(0, rows, min(most, rows), endpoint=False).astype(np.int64)


class Layer:
    """An operator with its weight.

    Attributes
    ----------
    node : onnx_ir.Node
        Of the model in float.
    groups : int
        Of a convolution.
    outputs : int
        How many output channels.
    columns : int
        How many weights an output has.
    """

    def __init__(self, node: ir.Node) -> None:
        self.node = node
        self.groups = edit.int_attribute(node, "group", 1) if node.op_type == "Conv" else 1
        self._shape = weight_of(node).shape
        self._axis = channel_axis(node, len(self._shape))
        assert self._axis is not None
        self.outputs = self._shape[self._axis]
        self.columns = math.prod(self._shape) // self.outputs

    def blocks(self, array: Array) -> Array:
        """Return an array of the weight's shape as (groups, outputs of each, weights of an output)."""
        if self._axis == 1:
            array = array.T
        return array.reshape(self.groups, self.outputs // self.groups, -1)

    def whole(self, blocks: Array) -> Array:
        """Undo `blocks`."""
        return blocks.reshape(self._shape) if self._axis == 0 else blocks[0].T

    def outputs_of(self, array: Array, first: int, samples: int) -> Array:
        """Draw rows of what it gave: (groups, rows, outputs of each).

        Parameters
        ----------
        array : ndarray
            Of samples (along axis 0) from number `first` on.
        first : int
        samples : int
            How many samples there are altogether.
        """
        if self.node.op_type == "Conv":
            return self._grouped(rows_at(array, self._draw(first, len(array), array.shape[2:], samples)))
        return self._vectors(array, -1, first, samples)

    def inputs_of(self, array: Array, first: int, samples: int, code: Code | None = None) -> Array:
        """Draw the same rows of what it reads: (groups, rows, weights of an output), floats.

        Parameters
        ----------
        array, first, samples
            As for `outputs_of`.
        code : Code, optional
            How to read `array`, if it is of integers.
        """
        if self.node.op_type != "Conv":
            axis = 0 if edit.int_attribute(self.node, "transA", 0) else -1
            rows = self._vectors(array, axis, first, samples)
        else:
            kernel = self._shape[2:]
            at = self._draw(first, len(array), positions(self.node, array.shape[2:], kernel), samples)
            outside = 0.0 if code is None else float(code.zero_point)
            rows = self._grouped(patches(self.node, array, kernel, at, outside=outside))
        return rows if code is None else code.decode(rows)

    def _vectors(self, array: Array, axis: int, first: int, samples: int) -> Array:
        """Draw vectors along an axis: of each index along the first of the others, some."""
        array = np.moveaxis(np.atleast_2d(array), axis, -1)
        at = self._draw(first, len(array), array.shape[1:-1], samples)
        flat = array.reshape(len(array), math.prod(array.shape[1:-1]), array.shape[-1])
        taken = np.take_along_axis(flat, at[..., None], 1)
        return np.asarray(taken.reshape(1, math.prod(taken.shape[:-1]), array.shape[-1]))

    def _draw(self, first: int, count: int, extents: tuple[int, ...], samples: int) -> Indices:
        many, enough = ROWS_FOR_MANY * self.columns, ROWS_FOR_COLUMN * self.columns
        fewest = FEWEST_ROWS if self.groups == 1 else ROWS_OF_GROUPS
        wanted = max(fewest, min(ROWS, enough), many)
        return draw(first, count, math.prod(extents), -(-wanted // max(samples, 1)))

    def _grouped(self, rows: Array) -> Array:
        return np.asarray(rows.reshape(len(rows), self.groups, -1).swapaxes(0, 1))
