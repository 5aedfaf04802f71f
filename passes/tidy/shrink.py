"""Remove every channel that contributes nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.channels.dead import find_dead, uses_of
from onnxcompress.channels.duplicates import find_duplicates, merge
from onnxcompress.channels.groups import Group, Groups, find_groups
from onnxcompress.channels.masked import masked_but_alive
from onnxcompress.channels.removal import labels_of
from onnxcompress.channels.remove import remove
from onnxcompress.contract import Change, Changes, Context, Plan, Promise, Refusal
from onnxcompress.graph import edit
from onnxcompress.graph.bias import add_to_outputs
from onnxcompress.graph.interface import Interface, said
from onnxcompress.graph.layer import Layer
from onnxcompress.selection import SelectivePass, group_subjects

from .padding.padding import padded

STAY = "that stay, as the model is slower here without them (exact=true removes them)"


@dataclasses.dataclass(frozen=True)
class Round:
    """What goes at once.

    Attributes
    ----------
    channels : dict
        Group name → channels that contribute nothing.
    folds : dict
        Name of a node's output → what to add to its channels.
    merges : dict
        Group name → (channel that goes, equal channel that does its work).
    """

    channels: dict[str, list[int]]
    folds: dict[str, npt.NDArray[np.float64]]
    merges: dict[str, list[tuple[int, int]]]

    def gone(self) -> dict[str, list[int]]:
        """Return all channels that go, by group."""
        names = dict.fromkeys([*self.channels, *self.merges])
        return {n: [*self.channels.get(n, ()), *(gone for gone, _ in self.merges.get(n, ()))] for n in names}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShrinkPlan(Plan):
    """What goes, one round after the other: merged channels may make others equal."""

    rounds: tuple[Round, ...] = ()
    interface: Interface = "stays"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shrink(SelectivePass):
    """Remove every channel that provably contributes nothing; the outputs stay the same.

    Parameters
    ----------
    merge_equal : bool
        Also merge channels that are equal for every input (the same weights on the same inputs): the weights that
        read them are added up. Says so where nothing was found.
    exact : bool
        Remove all of them. Else some dead channels stay where the model would run slower without: kernels compute
        several channels at once, and a convolution of 57 can take longer than one of 64.
    interface : str
        "stays", or "may change": heads may go together with their keys and values in a cache, inputs past_… and outputs
        present_… of the model. The report says which inputs and outputs changed.

    Notes
    -----
    A channel goes when all weights that read it are zero, or when it has the same value for every input (an all-zero
    filter, a ReLU that can never fire) and that value can be folded into the biases of what reads it. With it goes the
    same position of every tensor of its group: weights, biases, BatchNormalization parameters, the other side of a
    residual addition, a whole group of a depthwise convolution. One channel of each axis is always kept.
    """

    merge_equal: bool = False
    exact: bool = False
    interface: Interface = "stays"

    @property
    def promise(self) -> Promise:
        """The outputs stay the same, but for what a cache no longer holds."""
        return Promise(tolerance=1e-5, narrows=self.interface == "may change")

    def plan(self, model: ir.Model, context: Context) -> ShrinkPlan:
        """Find what is dead, and what is equal."""
        context = context.allowing(self.interface)
        selected = self.select(model, group_subjects(context.groups))
        groups = _without(context.groups, selected.why_not)
        first, reasons = _find(groups, merging=self.merge_equal)
        spared: dict[str, list[int]] = {}
        if first is not None and not self.exact:
            channels, folds, spared = padded(groups, first.channels, first.folds, context)
            first = Round(channels, folds, first.merges) if channels or first.merges else None
        notes = tuple(f"{name}: dead channels {STAY}: {len(stay)}" for name, stay in spared.items())
        refused = [*selected.idle, *(Refusal(group, reason) for group, reason in reasons.items())]
        refused += [*_frozen_but_dead(context.groups), *self._left(context.groups, selected.why_not)]
        if first is None:
            if self.merge_equal:
                refused.append(Refusal("model", "every channel counts, and no two are equal"))
            return ShrinkPlan(refused=tuple(refused), notes=notes, interface=self.interface)
        rounds, copy = [first], model.clone()
        while self.merge_equal:
            context.progress(self.name, len(rounds), len(rounds) + 1)
            _play(copy, find_groups(copy, self.interface), rounds[-1])
            again = _without(find_groups(copy, self.interface), selected.why_not)
            more, _ = _find(again, merging=True)
            if more is None or not (more.merges or self.exact or not spared):
                break
            if spared:
                more = Round({}, {}, more.merges)
            rounds.append(more)
        return ShrinkPlan(rounds=tuple(rounds), refused=tuple(refused), notes=notes, interface=self.interface)

    def _left(self, groups: Groups, why_not: Mapping[str, str]) -> list[Refusal]:
        """Say what would go, and is not selected."""
        found = _find(groups, merging=self.merge_equal)[0] if why_not else None
        gone = {} if found is None else found.gone()
        left = {name: reason for name, reason in why_not.items() if name in gone}
        return [Refusal(name, f"{len(gone[name])} channels that could go stay: {why}") for name, why in left.items()]

    def apply(self, model: ir.Model, plan: ShrinkPlan) -> Changes:
        """Remove it."""
        done, earlier = [], model.clone()
        for step in plan.rounds:
            groups = find_groups(model, plan.interface)
            _play(model, groups, step)
            gone = step.gone()
            done += [_said(group, step) for group in groups.prunable if group.name in gone]
        done += [Change(name, what) for name, what in said(model, earlier)]
        return Changes(tuple(done), plan.refused, plan.notes)


def _without(groups: Groups, why_not: Mapping[str, str]) -> Groups:
    """Freeze groups, with the reasons."""
    if not why_not:
        return groups
    frozen = [dataclasses.replace(g, frozen=why_not[g.name]) for g in groups.prunable if g.name in why_not]
    prunable = [group for group in groups.prunable if group.name not in why_not]
    return dataclasses.replace(groups, prunable=prunable, frozen=[*groups.frozen, *frozen])


def _find(groups: Groups, *, merging: bool) -> tuple[Round | None, dict[str, str]]:
    """Return what can go, if anything, and why channels stay that look dead."""
    uses = uses_of(groups)
    dead = find_dead(groups, uses)
    merges = find_duplicates(groups, dead.channels) if merging else {}
    reasons = dead.kept | masked_but_alive(groups, uses, dead)
    return (Round(dead.channels, dead.folds, merges) if dead.channels or merges else None), reasons


def _said(group: Group, step: Round) -> Change:
    dead, equal = len(step.channels.get(group.name, ())), len(step.merges.get(group.name, ()))
    parts = [f"{dead} of {group.size} channels removed"] if dead else []
    parts += [f"{equal} of {group.size} channels merged with equal ones"] if equal else []
    return Change(group.name, ", ".join(parts))


def _play(model: ir.Model, groups: Groups, step: Round) -> None:
    merge(groups, step.merges)
    remove(model, groups, step.gone())
    add_to_outputs(model.graph, _kept(groups, step))


def _kept(groups: Groups, step: Round) -> dict[str, npt.NDArray[np.float64]]:
    """Cut what is to be added to outputs down to the channels that stay."""
    gone = groups.table(labels_of(groups, step.gone()))
    outputs = {edit.output_name(sink.node): sink.node for sink in groups.sinks}
    found = {}
    for name, addition in step.folds.items():
        node = outputs[name]
        axes = groups.axes[node.outputs[0]]
        rows = axes[Layer(node).channel_axis(len(axes))]
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
    array = edit.array(value)
    zero: npt.NDArray[np.bool_] = ~(array != 0).any(axis=tuple(d for d in range(array.ndim) if d != axis))
    return zero
