"""The groups that passes take channels from: which there are, and which are meant."""

from __future__ import annotations

import dataclasses
from collections.abc import Container
from typing import Generic

import numpy as np
import onnx_ir as ir

from onnxcompress.channels.groups import Group, Groups
from onnxcompress.contract import Refusal
from onnxcompress.graph import edit, operators
from onnxcompress.selection import PassT, Selected, group_subjects


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
    selected = step.select(model, group_subjects(groups))
    left = [Refusal(g.name, selected.why_not[g.name]) for g in groups.prunable if g.name in selected.why_not]
    kept, factors = _independent(groups, skip=selected.why_not)
    return ChosenGroups(kept, selected, (*_frozen(groups), *_inside(model), *factors, *left, *selected.idle))


def _inside(model: ir.Model) -> list[Refusal]:
    """Say which nodes hold layers in inner graphs: their channels are not followed."""
    refused = []
    for node in model.graph:
        inner = [each for graph in edit.inner_graphs(node) for each in (*graph, *graph.all_nodes())]
        count = len({each for each in inner if edit.op_of(each) in operators.LAYERS})
        if count:
            refused.append(Refusal(edit.label(node), f"its inner graphs hold {count} layers, whose channels all stay"))
    return refused


def _frozen(groups: Groups) -> list[Refusal]:
    """Say which groups cannot be pruned, and why."""
    refused = [Refusal(group.name, group.frozen) for group in groups.frozen]
    if not groups.prunable:
        reason = "no channels here are both made and summed over by operators that can be pruned"
        refused.append(Refusal("model", reason))
    return refused


def _in_order(groups: Groups) -> list[tuple[int, Group]]:
    """Return the groups, numbered; where heads may go with their cache, heads come before what each of them has."""
    numbered = list(enumerate(groups.prunable))
    if groups.engine.interface == "stays":
        return numbered
    return sorted(numbered, key=lambda pair: -_weights(pair[1]))


def _weights(group: Group) -> float:
    """Return how many weights a channel has, on average."""
    sizes = ((edit.tensor(m.value).size, m.places[0].size, m.line.rows.shape[1]) for m in group.constants())
    return float(sum(size * places / extent for size, places, extent in sizes) / group.size)


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
    for number, group in _in_order(groups):
        if group.name in skip:
            continue
        clash = sorted(partners.get(number, set()) & taken)
        if clash:
            other = groups.prunable[clash[0]].name
            refused.append(Refusal(group.name, f"its channels are products with those of '{other}', pruned instead"))
        else:
            taken.add(number)
    return [groups.prunable[number] for number in sorted(taken)], refused
