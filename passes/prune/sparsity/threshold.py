"""The two ways to say how much of a ranking goes: what is below a threshold, or the lowest so and so many."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, TypeVar

import msgspec

from onnxcompress.selection import OverridablePass

from .amount import Sparsity

StepT = TypeVar("StepT", bound="ThresholdPass")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ThresholdPass(OverridablePass):
    """A pass with a threshold, which does not count where a sparsity is given."""

    overridable = ("threshold", "sparsity")

    threshold: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.5
    sparsity: Sparsity | None = None

    def replaced(self: StepT, options: dict[str, Any]) -> StepT:
        """Return the pass with options of `overrides`; a threshold there takes a sparsity's place."""
        alone = "threshold" in options and "sparsity" not in options
        return super().replaced({**options, "sparsity": None} if alone else options)
