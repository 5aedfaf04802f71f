"""Zero the channels whose activations are small over the samples."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.channels.groups import Group, Member
from onnxcompress.contract import Changes, Context, Needs, Refusal

from .importance.activations import TensorAxis, by_channel, read_members, tensor_axis
from .masks.groups import choose_groups
from .masks.masks import ChannelPlan, apply_channels
from .sparsity.amount import too_many
from .sparsity.lowest import lowest, most
from .sparsity.threshold import ThresholdPass


@dataclasses.dataclass(frozen=True, kw_only=True)
class ActivationPrune(ThresholdPass):
    """Zero the channels whose mean |activation| over the samples, normalised, is below a threshold.

    The classic recipe on activations: take each channel's mean |a| where a Conv, Gemm or MatMul reads it, divide by
    the largest of the tensor, zero the channels below the threshold; `Shrink` then removes them. A group that several
    operators read is judged by the average.

    Parameters
    ----------
    threshold : float
        In [0, 1]: channels with ``mean|a| / max over channels < threshold`` go. Not used when `sparsity` is given.
    sparsity : float or int, optional
        The share of each group's channels to zero instead, rounded down; or, as a whole number, how many of them.

    Notes
    -----
    Hu et al., "Network Trimming", arXiv:1607.03250; Molchanov et al., arXiv:1611.06440, on mean activation.
    """

    writes_zeros = True
    needs = Needs(samples=True)

    def plan(self, model: ir.Model, context: Context) -> ChannelPlan:
        """Measure, normalise, choose."""
        groups = context.groups
        chosen = choose_groups(self, model, groups)
        refused = list(chosen.refused)
        read = {group.name: read_members(groups, group) for group in chosen.groups}
        means = context.channel_means(sorted({tensor_axis(member) for members in read.values() for member in members}))
        channels = {}
        for group in chosen.groups:
            sparsity = chosen.selected.settings(group.name).sparsity
            if not read[group.name]:
                refused.append(Refusal(group.name, "no operator reads it as an activation"))
            elif sparsity is not None and (reason := too_many(sparsity, most(group), "channels")):
                refused.append(Refusal(group.name, reason))
            else:
                score = _score(group, read[group.name], means)
                channels[group.name] = chosen.selected.settings(group.name).lowest(group, score)
        named = {name: numbers for name, numbers in channels.items() if numbers}
        return ChannelPlan(channels=named, refused=tuple(refused))

    def lowest(self, group: Group, score: npt.NDArray[np.float64]) -> list[int]:
        """Return the channels of a group that go, by the threshold or the sparsity."""
        if self.sparsity is None:
            return _below(score, self.threshold)
        return lowest([group], {group.name: score}, {group.name: self.sparsity}).get(group.name, [])

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
