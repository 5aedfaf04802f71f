"""Zero the blocks of each weight's matrix with the smallest magnitudes."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from onnxcompress.graph.weights import Weight

from .masks.masks import Keep
from .masks.weights import MaskEachWeight, array_of, like, lowest_share, matrix_of, why_no_matrix

Size = Annotated[int, msgspec.Meta(ge=1)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PruneBlocks(MaskEachWeight):
    """Zero the blocks of each weight's matrix with the smallest magnitudes, for kernels that skip blocks of zeros.

    The matrix is (outputs, everything that one output sums over); blocks at its ends may be smaller.

    Parameters
    ----------
    block : tuple of int
        Rows (outputs) and columns of a block.
    sparsity : float
        In [0, 1): the share of each weight's blocks to zero, rounded down.
    pooling : {"avg", "max"}
        A block is judged by the average or by the largest of its magnitudes.
    exclude : tuple of str
        Weights to leave alone, by patterns (``head*``) on their names.

    Notes
    -----
    The block sparsity of TensorFlow's model optimization toolkit (``block_size``, ``block_pooling_type``).
    """

    block: tuple[Size, Size] = (4, 1)
    sparsity: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.5
    pooling: Literal["avg", "max"] = "avg"

    def unfit(self, weight: Weight) -> str:
        """Say why a weight has no matrix."""
        return why_no_matrix(weight)

    def keep(self, weight: Weight, random: np.random.Generator) -> Keep:
        """Pool the magnitudes, rank the blocks."""
        matrix = matrix_of(weight, np.abs(array_of(weight)).astype(np.float64))
        kept = lowest_share(self._pooled(matrix), self.sparsity)
        rows, columns = self.block
        every = np.repeat(np.repeat(kept, rows, axis=0), columns, axis=1)
        return like(weight, every[: matrix.shape[0], : matrix.shape[1]])

    def _pooled(self, matrix: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        starts = [np.arange(0, extent, size) for extent, size in zip(matrix.shape, self.block, strict=True)]
        reduce = np.maximum if self.pooling == "max" else np.add
        pooled = reduce.reduceat(reduce.reduceat(matrix, starts[0], axis=0), starts[1], axis=1)
        if self.pooling == "max":
            return np.asarray(pooled)
        sizes = [np.diff(s, append=extent) for s, extent in zip(starts, matrix.shape, strict=True)]
        return np.asarray(pooled / np.multiply.outer(*sizes))
