"""Zero a random share of each weight."""

from __future__ import annotations

import dataclasses

import numpy as np

from onnxcompress.graph.weights import Weight

from .masks.masks import Keep
from .masks.weights import array_of, keep_highest
from .policies.weight_pass import EachWeightPass
from .sparsity.amount import Sparsity, how_many, too_many


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomPrune(EachWeightPass):
    """Zero a random share of each weight, by the seed: the baseline that any criterion must beat.

    Parameters
    ----------
    sparsity : float or int
        The share of each weight tensor's elements to zero, rounded down; or, as a whole number, how many of them.

    Notes
    -----
    PyTorch's ``random_unstructured``. Random channels of whole groups: `PruneChannels` with ``importance="random"``.
    """

    overridable = ("sparsity",)

    sparsity: Sparsity = 0.5

    def unfit(self, weight: Weight) -> str:
        """Say where there are too few weights."""
        return too_many(self.sparsity, array_of(weight).size, "weights")

    def keep(self, weight: Weight, random: np.random.Generator) -> Keep:
        """Draw the elements that stay."""
        score = random.random(array_of(weight).shape)
        return keep_highest(score, how_many(self.sparsity, score.size))
