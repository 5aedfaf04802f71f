"""What the passes on single weights have in common: which of them are meant, and what an engine makes of them."""

from __future__ import annotations

import dataclasses
from typing import Literal, TypeVar

import numpy as np
import onnx_ir as ir

from onnxcompress.contract import Changes, Context, Refusal
from onnxcompress.graph import edit
from onnxcompress.graph.weights import Weight
from onnxcompress.selection import OverridablePass

from ..masks.masks import Keep, Mask, MaskPlan, apply_masks
from ..masks.weights import ChosenWeights, choose_weights
from .xnnpack import QUALIFIES, why_model_not, why_weight_not

StepT = TypeVar("StepT", bound="WeightPass")


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightPass(OverridablePass):
    """A pass that masks single weights.

    Attributes
    ----------
    policy : "xnnpack", optional
        xnnpack: only the 1x1 convolutions that XNNPACK's sparse kernels run (TensorFlow's
        ``PruneForLatencyOnXNNPack``); the report says whether the model as a whole qualifies for them.
    """

    policy: Literal["xnnpack"] | None = None

    writes_zeros = True

    def chosen(self: StepT, model: ir.Model) -> ChosenWeights[StepT]:
        """Return the weights that are meant and that the policy allows."""
        found = choose_weights(self, model)
        if self.policy is None:
            return found
        reasons = {weight: why_weight_not(weight) for weight in found.weights}
        refused = [Refusal(edit.label(weight.node), reason) for weight, reason in reasons.items() if reason]
        kept = [weight for weight, reason in reasons.items() if not reason]
        return ChosenWeights(kept, found.selected, (*found.refused, *refused))

    def masked(self, model: ir.Model, keeps: dict[str, Keep], refused: list[Refusal]) -> MaskPlan:
        """Return the plan: the masks that zero anything, and what the policy says of the model then."""
        notes: tuple[str, ...] = ()
        if self.policy is not None:
            reasons = why_model_not(model, keeps)
            refused = [*refused, *reasons]
            notes = () if reasons else (QUALIFIES,)
        masks = {name: Mask.of(keep) for name, keep in keeps.items() if not keep.all()}
        return MaskPlan(masks=masks, refused=tuple(refused), notes=notes)

    def apply(self, model: ir.Model, plan: MaskPlan) -> Changes:
        """Zero what the plan does not keep."""
        return apply_masks(model, plan)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EachWeightPass(WeightPass):
    """A pass that masks each weight by itself: give `keep`, and `unfit` where some do not fit."""

    def keep(self, weight: Weight, random: np.random.Generator) -> Keep:
        """Return which elements of a weight stay; this pass has the options that hold for it."""
        raise NotImplementedError

    def unfit(self, weight: Weight) -> str:
        """Say why a weight cannot be masked; empty when it can."""
        return ""

    def plan(self, model: ir.Model, context: Context) -> MaskPlan:
        """Choose what becomes zero, weight by weight."""
        chosen = self.chosen(model)
        refused = list(chosen.refused)
        random = np.random.default_rng(context.seed)
        keeps = {}
        for weight in chosen.weights:
            step, name = chosen.selected.settings(weight), str(weight.value.name)
            if reason := step.unfit(weight):
                refused.append(Refusal(name, reason))
            else:
                keeps[name] = step.keep(weight, random)
        return self.masked(model, keeps, refused)
