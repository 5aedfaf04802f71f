"""Zero a random share of each weight."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import msgspec
import numpy as np

from onnxcompress.graph.weights import Weight

from .masks.masks import Keep
from .masks.weights import MaskEachWeight, array_of, lowest_share


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomPrune(MaskEachWeight):
    """Zero a random share of each weight, by the seed: the baseline that any criterion must beat.

    Parameters
    ----------
    sparsity : float
        In [0, 1): the share of each weight tensor's elements to zero, rounded down.
    exclude : tuple of str
        Weights to leave alone, by patterns (``head*``) on their names.

    Notes
    -----
    PyTorch's ``random_unstructured``. Random channels of whole groups: `PruneChannels` with ``importance="random"``.
    """

    sparsity: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.5

    def keep(self, weight: Weight, random: np.random.Generator) -> Keep:
        """Draw the elements that stay."""
        return lowest_share(random.random(array_of(weight).shape), self.sparsity)
