"""The two ways to say how much of a ranking goes: what is below a threshold, or the lowest so and so many."""

from __future__ import annotations

import dataclasses
from typing import Annotated, TypeVar

import msgspec

from onnxcompress.selection import OverridablePass, Terms

from .amount import Sparsity

StepT = TypeVar("StepT", bound="ThresholdPass")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ThresholdPass(OverridablePass):
    """A pass with a threshold, which does not count where a sparsity is given."""

    overridable = ("threshold", "sparsity")

    threshold: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.5
    sparsity: Sparsity | None = None

    def overridden(self: StepT, terms: Terms) -> StepT:
        """Return the pass with the options that `overrides` gives; a threshold there takes a sparsity's place."""
        own = super().overridden(terms)
        given = {option for term in terms for option in self.overrides[term]}
        return dataclasses.replace(own, sparsity=None) if "sparsity" not in given and "threshold" in given else own
