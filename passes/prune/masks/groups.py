"""The groups that passes take channels from: which there are, and which are meant."""

from __future__ import annotations

import dataclasses
from collections.abc import Container
from typing import Generic

import numpy as np
import onnx_ir as ir

from onnxcompress.channels.groups import Group, Groups
from onnxcompress.contract import Refusal
from onnxcompress.selection import PassT, Selected, Subject, value_subjects


@dataclasses.dataclass(frozen=True)
class ChosenGroups(Generic[PassT]):
    """The groups that a pass works on.

    Attributes
    ----------
    groups : list of Group
    selected : Selected
        What the options say of each group, by its name.
    refused : tuple of Refusal
        The others, and why.
    """

    groups: list[Group]
    selected: Selected[str, PassT]
    refused: tuple[Refusal, ...]


def choose_groups(step: PassT, model: ir.Model, groups: Groups) -> ChosenGroups[PassT]:
    """Return what can be pruned and is meant, no two of which share channels."""
    every = [*groups.prunable, *groups.frozen]
    selected = step.select(model, {group.name: _subject(groups, group) for group in every})
    left = [Refusal(g.name, selected.why_not[g.name]) for g in groups.prunable if g.name in selected.why_not]
    kept, factors = _independent(groups, skip=selected.why_not)
    return ChosenGroups(kept, selected, (*_frozen(groups), *factors, *left, *selected.idle))


def _subject(groups: Groups, group: Group) -> Subject:
    """A group goes by its own name and by the layers that make its channels; those that read them change with it."""
    reading = [member.value for member in group.constants() if member.role == "in"]
    making = [member.value for member in group.constants() if member.role != "in"]
    found = _named(groups, making or reading)
    found.names.add(group.name)
    found.beside = _named(groups, reading)
    return found


def _named(groups: Groups, constants: list[ir.Value]) -> Subject:
    """Return constants by their names and by the nodes that use them."""
    found = Subject()
    for value, subject in value_subjects(dict.fromkeys(constants)).items():
        found.names |= subject.names
        found.operators |= subject.operators
        for sink in groups.readers.get(value, ()):  # a weight that is moved first is read by another node
            found.add_node(sink.node)
    return found


def _frozen(groups: Groups) -> list[Refusal]:
    """Say which groups cannot be pruned, and why."""
    refused = [Refusal(group.name, group.frozen) for group in groups.frozen]
    if not groups.prunable:
        reason = "no channels here are both made and summed over by operators that can be pruned"
        refused.append(Refusal("model", reason))
    return refused


def _independent(groups: Groups, skip: Container[str] = ()) -> tuple[list[Group], list[Refusal]]:
    """Leave out groups that are factors of channels another group already thins out (a head against its dimensions).

    Pruning half of both would take three quarters of their common channels. Groups in `skip` are not pruned at all.
    """
    owner = np.full(groups.engine.labels.count, -1, np.int64)
    for number, group in enumerate(groups.prunable):
        owner[group.labels] = number
    partners: dict[int, set[int]] = {}
    for axes in groups.axes.values():
        for rows in axes:
            if rows is not None and len(rows) > 1:
                for pair in np.unique(owner[rows], axis=1).T.tolist():
                    for number in pair:
                        partners.setdefault(number, set()).update(p for p in pair if p not in (number, -1))
    taken: set[int] = set()
    refused = []
    for number, group in enumerate(groups.prunable):
        if group.name in skip:
            continue
        clash = sorted(partners.get(number, set()) & taken)
        if clash:
            other = groups.prunable[clash[0]].name
            refused.append(Refusal(group.name, f"its channels are products with those of '{other}', pruned instead"))
        else:
            taken.add(number)
    return [groups.prunable[number] for number in sorted(taken)], refused
