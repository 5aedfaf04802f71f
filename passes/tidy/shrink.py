"""Remove every channel that contributes nothing."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.channels.dead import find_dead
from onnxcompress.channels.groups import Groups, find_groups
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
        copy, groups = model.clone(), context.groups
        rounds: list[Round] = []
        dead = find_dead(groups)
        refused = [Refusal(group, reason) for group, reason in dead.kept.items()]
        refused += _frozen_but_dead(groups)
        while dead.channels:
            context.progress("shrink", len(rounds), len(rounds) + 1)
            rounds.append(Round(dead.channels, dead.folds))
            _play(copy, rounds[-1])
            dead = find_dead(find_groups(copy))
        return ShrinkPlan(rounds=tuple(rounds), refused=tuple(refused))

    def apply(self, model: ir.Model, plan: ShrinkPlan) -> Changes:
        """Replay the rounds."""
        done = []
        for step in plan.rounds:
            sizes = {g.name: g.size for g in find_groups(model).prunable}
            _play(model, step)
            for name, channels in step.channels.items():
                done.append(Change(name, f"{len(channels)} of {sizes[name]} channels removed"))
        return Changes(tuple(done), plan.refused)


def _play(model: ir.Model, step: Round) -> None:
    for name, addition in step.folds.items():
        _add_to_output(model.graph, name, addition)
    remove(model, find_groups(model), step.channels)


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


def _add_to_output(graph: ir.Graph, name: str, addition: npt.NDArray[Any]) -> None:
    """Add a constant to each output channel of a node: in its bias where it has one, else behind it."""
    node = next(n for n in graph if edit.output_name(n) == name)
    weight = edit.constant(node.inputs[1])
    assert weight is not None
    dtype = weight.numpy().dtype
    if node.op_type == "MatMul":
        out = node.outputs[0]
        constant = edit.add_constant(graph, f"{name}_constant", addition.astype(dtype))
        total = edit.add_node(graph, "Add", [out, constant], after=node, dtype=out.dtype, shape=out.shape)
        added = total.producer()
        assert added is not None
        edit.replace_uses(out, total, except_for=[added])
        return
    bias = edit.constant(node.inputs[2]) if len(node.inputs) > 2 else None
    old = 0.0 if bias is None else bias.numpy().astype(np.float64)
    if node.op_type == "Gemm" and "beta" in node.attributes:
        old = old * node.attributes["beta"].as_float()
        node.attributes["beta"] = ir.AttrFloat32("beta", 1.0)
    if len(node.inputs) < 3:
        node.resize_inputs(3)
    node.replace_input_with(2, edit.add_constant(graph, f"{name}_bias", (old + addition).astype(dtype)))
