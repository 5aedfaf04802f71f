"""Keep n of every m weights in a row."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import msgspec
import numpy as np

from onnxcompress.errors import OptionError
from onnxcompress.graph.weights import Weight

from .masks.masks import Keep
from .masks.weights import array_of, why_no_matrix
from .policies.weight_pass import EachWeightPass


@dataclasses.dataclass(frozen=True, kw_only=True)
class PruneNOfM(EachWeightPass):
    """Keep the n largest of every m weights in a row along the input channels, as sparse tensor cores need it.

    Parameters
    ----------
    n : int
        How many of them stay.
    m : int
        How many weights are looked at together; at an end that is shorter, the n largest of what is there stay.

    Notes
    -----
    Mishra et al., "Accelerating Sparse Deep Neural Networks", arXiv:2104.08378 (2:4, as NVIDIA's hardware has it);
    TensorFlow's toolkit calls it ``sparsity_m_by_n`` and counts what goes: its (m, n) is ours (n - m, n).
    """

    overridable = ("n", "m")

    n: Annotated[int, msgspec.Meta(ge=1, le=255)] = 2
    m: Annotated[int, msgspec.Meta(ge=2, le=256)] = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n >= self.m:
            raise OptionError(f"{self.name}: n = {self.n}: expected less than m = {self.m}")

    def unfit(self, weight: Weight) -> str:
        """Say why a weight has no rows of m."""
        reason = why_no_matrix(weight)
        if reason:
            return reason
        inputs = array_of(weight).shape[weight.summed]
        return f"an output sums over {inputs} input channels, fewer than {self.m}" if inputs < self.m else ""

    def keep(self, weight: Weight, random: np.random.Generator) -> Keep:
        """Keep the n largest of each m; of equal ones the first."""
        axis = weight.summed
        rows = np.moveaxis(np.abs(array_of(weight)).astype(np.float64), axis, -1)
        padded = np.pad(rows, [(0, 0)] * (rows.ndim - 1) + [(0, -rows.shape[-1] % self.m)], constant_values=-1)
        parts = padded.reshape(*padded.shape[:-1], -1, self.m)
        best = np.argsort(-parts, axis=-1, kind="stable")[..., : self.n]
        keep = np.zeros(parts.shape, bool)
        np.put_along_axis(keep, best, True, axis=-1)
        return np.moveaxis(keep.reshape(padded.shape)[..., : rows.shape[-1]], -1, axis)
