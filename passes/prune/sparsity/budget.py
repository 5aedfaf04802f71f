"""What is left of a model when channels go, counted without touching it, and the share that meets a budget."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.channels.groups import Groups
from onnxcompress.channels.removal import labels_of
from onnxcompress.contract import Refusal
from onnxcompress.graph import edit
from onnxcompress.graph.cost import parameters
from onnxcompress.graph.macs import count

from .latency import Clock
from .ranking import Ranker

Budget: TypeAlias = Literal["channels", "parameters", "macs", "bytes", "latency"]
Gone: TypeAlias = npt.NDArray[np.bool_]


class Meter:
    """Counts one budget of a model, with or without some channels.

    Parameters
    ----------
    groups : Groups
    budget : {"parameters", "macs", "bytes"}
        Parameters are those that `inspect` counts; bytes are those of all constants, as they are stored.

    Attributes
    ----------
    total : int
        What the whole model has.
    steps : int
        Halvings of the share: enough to tell any two of sixteen million channels apart.
    margin : float
        How far off a count may be: not at all.
    """

    steps = 24
    margin = 0.0

    def __init__(self, groups: Groups, budget: Budget) -> None:
        self._groups = groups
        self._macs = budget == "macs"
        self._constants: list[tuple[ir.Value, int]] = []
        if not self._macs:
            counted = parameters(groups.engine.model)
            for value in edit.values(groups.engine.model.graph):
                tensor = edit.constant(value)
                if tensor is not None and (budget == "bytes" or value.name in counted):
                    self._constants.append((value, tensor.nbytes if budget == "bytes" else tensor.size))
        self.total = self.left({})

    def left(self, channels: Mapping[str, list[int]]) -> int:
        """Return what is left without these channels of these groups."""
        gone = self._groups.table(labels_of(self._groups, channels))
        if self._macs:
            return sum(self._macs_of(node, gone) for node in self._groups.engine.model.graph.all_nodes())
        return sum(self._kept(value, size, gone) for value, size in self._constants)

    def notes(self, channels: Mapping[str, list[int]]) -> tuple[str, ...]:
        """Return what there is to say about how it was counted: nothing."""
        return ()

    def _kept(self, value: ir.Value, size: int, gone: Gone) -> int:
        tensor = edit.constant(value)
        before = () if tensor is None else tuple(tensor.shape.numpy())
        after = self._shape(value, before, gone)
        return size if after == before else size * prod(after) // max(prod(before), 1)

    def _shape(self, value: ir.Value, shape: tuple[int, ...], gone: Gone) -> tuple[int, ...]:
        axes = self._groups.axes.get(value) or [None] * len(shape)
        kept = [None if rows is None else int((~gone[rows].any(0)).sum()) for rows in axes]
        return tuple(n if k is None else k for n, k in zip(shape, kept, strict=True))

    def _macs_of(self, node: ir.Node, gone: Gone) -> int:
        known = self._groups.engine.known.shapes

        def left(value: ir.Value) -> tuple[int, ...] | None:
            return self._shape(value, known[value], gone) if value in known else None

        return count(node, left) or 0


def reach(
    ranker: Ranker, meter: Meter | Clock, budget: Budget, sparsity: int | float
) -> tuple[dict[str, list[int]], list[Refusal]]:
    """Find the smallest share of channels that takes so much of the budget away; says so where none does.

    What is measured counts as reached when it is as near as measurements can tell. Where groups move by several
    channels at once, one share may take too little and the next far too much; then some groups stay at the first.
    """
    wanted = meter.total - sparsity if isinstance(sparsity, int) else meter.total * (1 - sparsity)
    low, high, under = 0.0, 1.0, dict[str, list[int]]()
    best = ranker.choose(high)
    left = meter.left(best)
    if left > wanted:
        most = 1 - left / max(meter.total, 1)
        reason = f"at most {most:.1%} of its {budget} can go, and {1 - wanted / max(meter.total, 1):.1%} were asked for"
        return best, [Refusal("model", reason)]
    for _ in range(meter.steps):
        middle = (low + high) / 2
        channels = ranker.choose(middle)
        left = meter.left(channels)
        if abs(left - wanted) < meter.margin:
            return channels, []
        if left <= wanted:
            high, best = middle, channels
        else:
            low, under = middle, channels
    if not isinstance(meter, Meter):
        return best, []
    best = _between(under, best, meter, wanted)
    return best, missed(budget, meter.left(best) / max(meter.total, 1), wanted / max(meter.total, 1))


def _between(
    under: Mapping[str, list[int]], over: Mapping[str, list[int]], meter: Meter, wanted: float
) -> dict[str, list[int]]:
    """Take back what more of it goes than at the share below, group by group, as far as the budget allows."""
    best = dict(over)
    more = [name for name in over if len(over[name]) > len(under.get(name, ()))]
    for name in sorted(more, key=lambda name: meter.left({name: over[name]})):  # what saves most is taken back first
        less = best | {name: under[name]} if under.get(name) else {n: gone for n, gone in best.items() if n != name}
        if meter.left(less) <= wanted:
            best = less
    return best


NEAR = 0.02
"""A budget is met where no more than this share of the whole is missing or too much."""


def missed(budget: Budget, left: float, wanted: float) -> list[Refusal]:
    """Say by how much a budget was missed, in shares of the whole."""
    gone, asked = 1 - left, 1 - wanted
    if gone < asked - (NEAR if budget == "latency" else 1e-9):
        can = f"{gone:.1%} of its {budget} go" if budget == "latency" else f"at most {gone:.1%} of its {budget} can go"
        nearest = "; no widths that were tried come nearer" if budget == "latency" else ""
        return [Refusal("model", f"{can}, and {asked:.1%} were asked for{nearest}")]
    if gone > asked + NEAR:
        why = "the widths that may stay are too far apart"
        return [Refusal("model", f"{gone:.1%} of its {budget} go, and {asked:.1%} were asked for: {why}")]
    return []
