"""Conv, Gemm and MatMul with a constant weight seen alike: as blocks of weights, and the rows that they multiply."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.graph import edit
from onnxcompress.runtime.gram import ROWS, Flags, draw, rows_at, rows_of, with_one
from onnxcompress.runtime.windows import patches

from .units import channel_axis, weight_of

Array = npt.NDArray[Any]

HELD_OUT = 4
"""One sample in so many is held out, to judge by."""


ROWS_FOR_COLUMN = 32
"""A convolution is judged by so many rows for each weight of an output, within `FEWEST_ROWS` and `ROWS`."""

FEWEST_ROWS = 8192


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
    """

    def __init__(self, node: ir.Node) -> None:
        self.node = node
        self.groups = edit.int_attribute(node, "group", 1) if node.op_type == "Conv" else 1
        self._shape = weight_of(node).shape
        self._axis = channel_axis(node, len(self._shape))
        assert self._axis is not None
        self.outputs = self._shape[self._axis]

    def blocks(self, array: Array) -> Array:
        """Return an array of the weight's shape as (groups, outputs of each, weights of an output)."""
        if self._axis == 1:
            array = array.T
        return array.reshape(self.groups, self.outputs // self.groups, -1)

    def whole(self, blocks: Array) -> Array:
        """Undo `blocks`."""
        return blocks.reshape(self._shape) if self._axis == 0 else blocks[0].T

    def rows(self, pairs: Iterable[tuple[Array, Array]], samples: int) -> Iterator[tuple[Array, Array, Flags]]:
        """Turn what it gave and what it reads, batch by batch, into rows.

        A convolution makes far more rows than are needed; of each sample some positions are drawn.

        Parameters
        ----------
        pairs : iterable of (ndarray, ndarray)
            Its output, and its input.
        samples : int
            How many samples there are altogether.

        Yields
        ------
        x : (groups, rows, weights of an output + 1) array
            The last column is one.
        y : (groups, rows, outputs of each) array
        held : (rows,) bool array
            Which rows come from samples that are held out.
        """
        first = 0
        for y, x in pairs:
            count = len(y)
            x_rows, y_rows = self._drawn(first, y, x, samples) if self.node.op_type == "Conv" else _flat(y, x)
            held = np.arange(first, first + count) % HELD_OUT == HELD_OUT - 1
            yield with_one(x_rows), y_rows, np.repeat(held, x_rows.shape[1] // count)
            first += count

    def _drawn(self, first: int, y: Array, x: Array, samples: int) -> tuple[Array, Array]:
        columns = math.prod(self._shape[1:])
        wanted = min(ROWS, max(FEWEST_ROWS, ROWS_FOR_COLUMN * columns))
        at = draw(first, len(y), math.prod(y.shape[2:]), -(-wanted // max(samples, 1)))
        rows = patches(self.node, x, self._shape[2:], at)
        targets = rows_at(y, at)
        x_rows, y_rows = (r.reshape(at.size, self.groups, -1).swapaxes(0, 1) for r in (rows, targets))
        return x_rows, y_rows


def _flat(y: Array, x: Array) -> tuple[Array, Array]:
    return rows_of(x, -1)[None], rows_of(y, -1)[None]
