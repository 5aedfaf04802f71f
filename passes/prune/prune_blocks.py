"""Zero the blocks of each weight's matrix with the smallest magnitudes."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from onnxcompress.graph.weights import Weight

from .masks.masks import Keep
from .masks.weights import array_of, from_matrix, keep_highest, matrix_of, why_no_matrix
from .policies.weight_pass import EachWeightPass
from .sparsity.amount import Sparsity, how_many, too_many

Size = Annotated[int, msgspec.Meta(ge=1)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PruneBlocks(EachWeightPass):
    """Zero the blocks of each weight's matrix with the smallest magnitudes, for kernels that skip blocks of zeros.

    The matrix is (outputs, everything that one output sums over); blocks at its ends may be smaller.

    Parameters
    ----------
    block : tuple of int
        Rows (outputs) and columns of a block.
    sparsity : float or int
        The share of each weight's blocks to zero, rounded down; or, as a whole number, how many of them.
    pooling : {"avg", "max"}
        A block is judged by the average or by the largest of its magnitudes.

    Notes
    -----
    The block sparsity of TensorFlow's model optimization toolkit (``block_size``, ``block_pooling_type``).
    """

    overridable = ("block", "sparsity", "pooling")

    block: tuple[Size, Size] = (4, 1)
    sparsity: Sparsity = 0.5
    pooling: Literal["avg", "max"] = "avg"

    def unfit(self, weight: Weight) -> str:
        """Say why a weight has no matrix, or too few blocks."""
        reason = why_no_matrix(weight)
        if reason:
            return reason
        rows, columns = matrix_of(weight, array_of(weight)).shape
        blocks = -(-rows // self.block[0]) * -(-columns // self.block[1])
        return too_many(self.sparsity, blocks, "blocks")

    def keep(self, weight: Weight, random: np.random.Generator) -> Keep:
        """Pool the magnitudes, rank the blocks."""
        matrix = matrix_of(weight, np.abs(array_of(weight)).astype(np.float64))
        pooled = self._pooled(matrix)
        kept = keep_highest(pooled, how_many(self.sparsity, pooled.size))
        rows, columns = self.block
        every = np.repeat(np.repeat(kept, rows, axis=0), columns, axis=1)
        return from_matrix(weight, every[: matrix.shape[0], : matrix.shape[1]])

    def _pooled(self, matrix: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        starts = [np.arange(0, extent, size) for extent, size in zip(matrix.shape, self.block, strict=True)]
        reduce = np.maximum if self.pooling == "max" else np.add
        pooled = reduce.reduceat(reduce.reduceat(matrix, starts[0], axis=0), starts[1], axis=1)
        if self.pooling == "max":
            return np.asarray(pooled)
        sizes = [np.diff(s, append=extent) for s, extent in zip(starts, matrix.shape, strict=True)]
        return np.asarray(pooled / np.multiply.outer(*sizes))
