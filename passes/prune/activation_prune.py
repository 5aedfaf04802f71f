"""Zero the channels whose activations are small over the samples."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated

import msgspec
import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.channels.groups import Group, Groups
from onnxcompress.contract import Changes, Context, Needs, Pass, Refusal
from onnxcompress.graph import edit

from .masks import ChannelPlan, apply_channels, independent, lowest, refusals

Slot = tuple[str, int]


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
        slots = {group.name: _read_slots(groups, group) for group in chosen}
        means = context.channel_means(sorted({slot for read in slots.values() for slot in read}))
        scores = {}
        for group in chosen:
            if slots[group.name]:
                scores[group.name] = _score(group, slots[group.name], means)
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


def _read_slots(groups: Groups, group: Group) -> list[Slot]:
    """Return the activations that operators sum over along the group's channels."""
    read = {(sink.data, sink.axis) for sink in groups.sinks if edit.constant(sink.data) is None}
    return [(str(m.value.name), m.axis) for m in group.members if (m.value, m.axis) in read]


def _score(group: Group, slots: list[Slot], means: Mapping[Slot, npt.NDArray[np.float64]]) -> npt.NDArray[np.float64]:
    total = np.zeros(group.size)
    index = {(str(m.value.name), m.axis): m.index for m in group.members}
    for slot in slots:
        inside = index[slot] >= 0
        where, mean = index[slot][inside], means[slot][inside]
        score = np.bincount(where, mean, group.size) / np.maximum(np.bincount(where, minlength=group.size), 1)
        total += score / (score.max() or 1.0)
    return total / len(slots)
