"""Remove every channel that contributes nothing."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.channels.dead import find_dead
from onnxcompress.channels.groups import Groups, find_groups
from onnxcompress.channels.masked import masked_but_alive
from onnxcompress.channels.remove import labels_of, remove
from onnxcompress.contract import Change, Changes, Context, Pass, Plan, Refusal
from onnxcompress.graph import edit


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShrinkPlan(Plan):
    """What goes: channels by group, and constants to add to outputs by the output's name."""

    channels: dict[str, list[int]] = dataclasses.field(default_factory=dict)
    folds: dict[str, npt.NDArray[np.float64]] = dataclasses.field(default_factory=dict)


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
        """Find what is dead."""
        dead = find_dead(context.groups)
        refused = [Refusal(group, reason) for group, reason in dead.kept.items()]
        refused += _frozen_but_dead(context.groups)
        refused += [Refusal(group, reason) for group, reason in masked_but_alive(context.groups, dead).items()]
        return ShrinkPlan(channels=dead.channels, folds=dead.folds, refused=tuple(refused))

    def apply(self, model: ir.Model, plan: ShrinkPlan) -> Changes:
        """Remove it."""
        if not plan.channels:
            return Changes(refused=plan.refused)
        groups = find_groups(model)
        remove(model, groups, plan.channels)
        edit.add_to_outputs(model.graph, _kept(groups, plan))
        sizes = {group.name: group.size for group in groups.prunable}
        done = [Change(name, f"{len(gone)} of {sizes[name]} channels removed") for name, gone in plan.channels.items()]
        return Changes(tuple(done), plan.refused)


def _kept(groups: Groups, plan: ShrinkPlan) -> dict[str, npt.NDArray[np.float64]]:
    """Cut what is to be added to outputs down to the channels that stay."""
    gone = groups.table(labels_of(groups, plan.channels))
    outputs = {edit.output_name(sink.node): sink.node for sink in groups.sinks}
    found = {}
    for name, addition in plan.folds.items():
        node = outputs[name]
        rows = groups.axes[node.outputs[0]][-1 if node.op_type == "MatMul" else 1]
        found[name] = addition if rows is None else addition[~gone[rows].any(0)]
    return found


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
