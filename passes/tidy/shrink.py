"""Remove every channel that contributes nothing."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.channels.dead import find_dead
from onnxcompress.channels.groups import Groups, find_groups
from onnxcompress.channels.masked import masked_but_alive
from onnxcompress.channels.remove import remove
from onnxcompress.contract import Change, Changes, Context, Pass, Plan, Refusal
from onnxcompress.graph import edit


@dataclasses.dataclass(frozen=True)
class Round:
    """What goes in one round: channels by group, and constants to add to outputs by the output's name."""

    channels: dict[str, list[int]]
    folds: dict[str, npt.NDArray[np.float64]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShrinkPlan(Plan):
    """The rounds: what goes first makes more contribute nothing."""

    rounds: tuple[Round, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shrink(Pass):
    """Remove every channel that provably contributes nothing; the outputs stay the same.

    A channel goes when all weights that read it are zero, or when it has the same value for every input (an all-zero
    filter) and that value can be folded into the biases of what reads it. With it goes the same position of every
    tensor of its group: weights, biases, BatchNormalization parameters, the other side of a residual addition, a
    whole group of a depthwise convolution. One channel of each axis is always kept.
    """

    tolerance = 1e-5

    def plan(self, model: ir.Model, context: Context) -> ShrinkPlan:
        """Find what is dead, round after round, on a copy."""
        copy = model.clone()
        groups = find_groups(copy)
        rounds: list[Round] = []
        dead = find_dead(groups)
        refused = [Refusal(group, reason) for group, reason in dead.kept.items()]
        refused += _frozen_but_dead(groups)
        while dead.channels:
            context.progress("shrink", len(rounds), len(rounds) + 1)
            rounds.append(Round(dead.channels, dead.folds))
            _play(copy, groups, rounds[-1])
            groups = find_groups(copy)
            dead = find_dead(groups)
        refused += [Refusal(group, reason) for group, reason in masked_but_alive(groups, dead).items()]
        return ShrinkPlan(rounds=tuple(rounds), refused=tuple(refused))

    def apply(self, model: ir.Model, plan: ShrinkPlan) -> Changes:
        """Replay the rounds."""
        done = []
        for step in plan.rounds:
            groups = find_groups(model)
            sizes = {group.name: group.size for group in groups.prunable}
            _play(model, groups, step)
            for name, channels in step.channels.items():
                done.append(Change(name, f"{len(channels)} of {sizes[name]} channels removed"))
        return Changes(tuple(done), plan.refused)


def _play(model: ir.Model, groups: Groups, step: Round) -> None:
    for name, addition in step.folds.items():
        edit.add_to_output(model.graph, name, addition)
    remove(model, find_groups(model) if step.folds else groups, step.channels)


def _frozen_but_dead(groups: Groups) -> list[Refusal]:
    """Output channels with all-zero filters that nothing may remove: say so."""
    refused = []
    for group in groups.frozen:
        outs = [m for m in group.members if m.role == "out"]
        zero = [m for m in outs if _zero_filters(m.value, m.axis)[m.index >= 0].any()]
        if zero:
            count = int(sum(_zero_filters(m.value, m.axis)[m.index >= 0].sum() for m in zero))
            refused.append(Refusal(group.name, f"{count} zero channels stay: {group.frozen}"))
    return refused


def _zero_filters(value: ir.Value, axis: int) -> npt.NDArray[np.bool_]:
    tensor = edit.constant(value)
    assert tensor is not None
    array = tensor.numpy()
    zero: npt.NDArray[np.bool_] = ~(array != 0).any(axis=tuple(d for d in range(array.ndim) if d != axis))
    return zero
