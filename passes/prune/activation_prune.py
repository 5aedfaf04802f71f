"""Zero the channels whose activations are small over the samples."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated

import msgspec
import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.channels.groups import Group, Member
from onnxcompress.contract import Changes, Context, Needs, Pass, Refusal

from .importance.activations import TensorAxis, by_channel, read_members, tensor_axis
from .masks.masks import ChannelPlan, apply_channels, independent, lowest, refusals


@dataclasses.dataclass(frozen=True, kw_only=True)
class ActivationPrune(Pass):
    """Zero the channels whose mean |activation| over the samples, normalised, is below a threshold.

    The classic recipe on activations: take each channel's mean |a| where a Conv, Gemm or MatMul reads it, divide by
    the largest of the tensor, zero the channels below the threshold; `Shrink` then removes them. A group that several
    operators read is judged by the average.

    Parameters
    ----------
    threshold : float
        In [0, 1]: channels with ``mean|a| / max over channels < threshold`` go. Not used when `sparsity` is given.
    sparsity : float, optional
        In [0, 1): the share of each group's channels to zero instead.

    Notes
    -----
    Hu et al., "Network Trimming", arXiv:1607.03250; Molchanov et al., arXiv:1611.06440, on mean activation.
    """

    threshold: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.5
    sparsity: Annotated[float, msgspec.Meta(ge=0, lt=1)] | None = None

    needs = Needs(samples=True)

    def plan(self, model: ir.Model, context: Context) -> ChannelPlan:
        """Measure, normalise, choose."""
        groups = context.groups
        chosen, refused = independent(groups)
        read = {group.name: read_members(groups, group) for group in chosen}
        means = context.channel_means(sorted({tensor_axis(member) for members in read.values() for member in members}))
        scores = {}
        for group in chosen:
            if read[group.name]:
                scores[group.name] = _score(group, read[group.name], means)
            else:
                refused.append(Refusal(group.name, "no operator reads it as an activation"))
        if self.sparsity is not None:
            channels = lowest(groups, scores, self.sparsity)
        else:
            channels = {name: _below(score, self.threshold) for name, score in scores.items()}
        named = {name: numbers for name, numbers in channels.items() if numbers}
        return ChannelPlan(channels=named, refused=(*refusals(groups), *refused))

    def apply(self, model: ir.Model, plan: ChannelPlan) -> Changes:
        """Zero the chosen channels."""
        return apply_channels(model, plan)


def _below(score: npt.NDArray[np.float64], threshold: float) -> list[int]:
    """The channels below the threshold; when all are, the strongest stays."""
    below = score < threshold
    below[int(np.argmax(score))] = False
    numbers: list[int] = np.flatnonzero(below).tolist()
    return numbers


def _score(
    group: Group, read: list[Member], means: Mapping[TensorAxis, npt.NDArray[np.float64]]
) -> npt.NDArray[np.float64]:
    """Average over the activations, each divided by its largest channel."""
    total = np.zeros(group.size)
    for member in read:
        score = by_channel(member, means[tensor_axis(member)], group.size)
        total += score / (score.max() or 1.0)
    return total / len(read)
