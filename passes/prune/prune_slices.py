"""Zero whole slices of each weight, weight by weight."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import numpy as np

from onnxcompress.errors import OptionError
from onnxcompress.graph.weights import Weight

from .importance.norms import ORDERS, norms
from .masks.masks import Keep
from .masks.weights import Floats, array_of, keep_highest, why_no_matrix
from .policies.weight_pass import EachWeightPass
from .sparsity.amount import Sparsity, how_many, too_many


@dataclasses.dataclass(frozen=True, kw_only=True)
class PruneSlices(EachWeightPass):
    """Zero the slices of each weight with the smallest norms, weight by weight.

    Unlike `PruneChannels` it does not care what hangs together: of two weights that are added, each may lose other
    channels, and then none can be removed. It is here for what PyTorch's structured pruning does.

    Parameters
    ----------
    sparsity : float or int
        The share of each weight's slices to zero, rounded down; or, as a whole number, how many of them.
    axis : {"out", "in"} or int
        Slices along output channels (filters), input channels, or an axis of the tensor as it is stored; negative
        numbers count from its last axis.
    norm : {"l1", "l2", "inf", "random"} or float
        What ranks the slices: a norm, by name or by its order (3, 0.5, inf, -inf), or random: a seeded draw. Order 0
        counts what is not zero, as PyTorch has it.

    Notes
    -----
    PyTorch's ``ln_structured`` and ``random_structured``. Biases stay: a filter of zeros with a bias is constant, and
    `Shrink` folds it away.
    """

    overridable = ("sparsity", "axis", "norm")

    sparsity: Sparsity = 0.5
    axis: Literal["out", "in"] | int = "out"
    norm: Literal["l1", "l2", "inf", "random"] | float = "l2"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.norm, str) and math.isnan(self.norm):
            raise OptionError(f"{self.name}: norm = nan: expected the order of a norm")

    def unfit(self, weight: Weight) -> str:
        """Say why a weight has no slices, or too few."""
        shape = array_of(weight).shape
        if isinstance(self.axis, str):
            reason = why_no_matrix(weight)
        else:
            reason = "" if -len(shape) <= self.axis < len(shape) else f"it has {len(shape)} axes, and no {self.axis}"
        return reason or too_many(self.sparsity, shape[self._axis_of(weight)], "slices")

    def keep(self, weight: Weight, random: np.random.Generator) -> Keep:
        """Rank the slices and keep all elements of those that stay."""
        array, axis = array_of(weight), self._axis_of(weight)
        slices = np.moveaxis(array, axis, 0)
        kept = keep_highest(self._scores(slices, random), how_many(self.sparsity, len(slices)))
        return np.broadcast_to(kept.reshape([-1 if d == axis else 1 for d in range(array.ndim)]), array.shape)

    def _axis_of(self, weight: Weight) -> int:
        if isinstance(self.axis, int):
            return self.axis % array_of(weight).ndim
        return weight.axis if self.axis == "out" else weight.summed

    def _scores(self, slices: Floats, random: np.random.Generator) -> Floats:
        if self.norm == "random":
            return random.random(len(slices))
        order = self.norm if isinstance(self.norm, float) else ORDERS[self.norm]
        return norms(slices.reshape(len(slices), -1).astype(np.float64), order)
