"""Folding that never makes a file larger than it was, but for a few names."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeAlias

import onnx_ir as ir

from onnxcompress.graph import edit
from onnxcompress.graph.cost import model_bytes

LARGER = "the file would be larger than it is"

NAMES = 24
"""Bytes by which the names of what was folded may be longer."""

Fold: TypeAlias = Callable[[ir.Model, Collection[str]], Mapping[str, Sequence[ir.Value]]]
"""Folds a model, but for the nodes of these names, and returns what was folded, with the constants that took its place.

Nodes go by `edit.output_name`; what replaces a constant of the same size need not be told.
"""


def never_larger(model: ir.Model, fold: Fold) -> tuple[tuple[str, ...], dict[str, str]]:
    """Fold copies of a model until the file is no larger: what costs most is left alone.

    Returns
    -------
    folded : tuple of str
        In the order in which it was folded.
    left : dict of str to str
        What was left alone, by its name, with its label.
    """
    left: dict[str, str] = {}
    limit = model_bytes(model)
    while True:
        copy = model.clone()
        labels = {edit.output_name(node): edit.label(node) for node in copy.graph.all_nodes()}
        made = fold(copy, left)
        if not made:
            return (), left
        edit.remove_dead(copy)
        surplus = model_bytes(copy) - limit
        if surplus <= NAMES * len(made):
            return tuple(made), left
        left |= {name: labels.get(name, name) for name in _costliest(made, surplus)}


def _costliest(made: Mapping[str, Sequence[ir.Value]], surplus: int) -> list[str]:
    """Return what to leave alone so that so many bytes are not written: at least one, those that cost most."""
    costs = {name: sum(map(_bytes, values)) for name, values in made.items()}
    chosen: list[str] = []
    for name in sorted(costs, key=lambda name: costs[name], reverse=True):
        if chosen and (surplus <= 0 or not costs[name]):
            break
        chosen.append(name)
        surplus -= costs[name]
    return chosen


def _bytes(value: ir.Value) -> int:
    """Return the bytes of a constant that something reads."""
    tensor = edit.constant(value)
    return tensor.nbytes if tensor is not None and (value.uses() or value.is_graph_output()) else 0
