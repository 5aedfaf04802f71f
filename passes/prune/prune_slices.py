"""Zero whole slices of each weight, weight by weight."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

import msgspec
import numpy as np

from onnxcompress.graph.weights import Weight

from .masks.masks import Keep
from .masks.weights import Floats, MaskEachWeight, array_of, lowest_share, reduction_axis, why_no_matrix

NORMS = {"l1": 1, "l2": 2, "inf": np.inf}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PruneSlices(MaskEachWeight):
    """Zero the output or input slices of each weight with the smallest norms, weight by weight.

    Unlike `PruneChannels` it does not care what hangs together: of two weights that are added, each may lose other
    channels, and then none can be removed. It is here for what PyTorch's structured pruning does.

    Parameters
    ----------
    sparsity : float
        In [0, 1): the share of each weight's slices to zero, rounded down.
    axis : {"out", "in"}
        Slices along output channels (filters) or input channels.
    norm : {"l1", "l2", "inf", "random"}
        What ranks the slices; random: a seeded draw.
    exclude : tuple of str
        Weights to leave alone, by patterns (``head*``) on their names.

    Notes
    -----
    PyTorch's ``ln_structured`` and ``random_structured``. Biases stay: a filter of zeros with a bias is constant, and
    `Shrink` folds it away.
    """

    sparsity: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.5
    axis: Literal["out", "in"] = "out"
    norm: Literal["l1", "l2", "inf", "random"] = "l2"

    def unfit(self, weight: Weight) -> str:
        """Say why a weight has no slices."""
        return why_no_matrix(weight)

    def keep(self, weight: Weight, random: np.random.Generator) -> Keep:
        """Rank the slices and keep all elements of those that stay."""
        array = array_of(weight)
        axis = weight.axis if self.axis == "out" else reduction_axis(weight)
        kept = lowest_share(self._scores(np.moveaxis(array, axis, 0), random), self.sparsity)
        return np.broadcast_to(kept.reshape([-1 if d == axis else 1 for d in range(array.ndim)]), array.shape)

    def _scores(self, slices: Floats, random: np.random.Generator) -> Floats:
        if self.norm == "random":
            return random.random(len(slices))
        rows = slices.reshape(len(slices), -1).astype(np.float64)
        return np.asarray(np.linalg.norm(rows, NORMS[self.norm], axis=1))
