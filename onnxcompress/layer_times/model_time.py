"""How long a model takes when so many channels of each group stay, from the times of its layers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import onnx_ir as ir

from ..channels.groups import Groups
from ..channels.widths import Width, Widths
from ..errors import ModelError
from ..graph import edit, shapes
from ..progress import Progress, silent
from ..runtime.session import open_session
from ..samples.random_values import example_feed
from .layer_times import SECONDS, LayerTimes
from .micro import Case
from .signature import Site, find_sites

NODE = 8192
"""A node that is no layer takes as long as it takes to give so many elements, and then its elements."""

REST = 0.15
"""Nanoseconds of such an element, where nothing better is known."""

TIMED_SECONDS, LEAST_RUNS = 0.3, 8


def candidate_widths(size: int) -> list[int]:
    """Return the widths of a group that are worth a look: multiples of a power of two, closer where it is small.

    >>> candidate_widths(24)
    [2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24]
    """
    step = 1
    while step < 16 and size >= 16 * step:
        step *= 2
    step = max(step, 1 << max((size // 32).bit_length() - 1, 0))
    return sorted({*range(step, size + 1, step), size})


@dataclass(frozen=True)
class Item:
    """A part of a cost that depends on some widths."""

    widths: tuple[Width, ...]
    cost: Callable[..., float]
    known: dict[tuple[int, ...], float] = field(default_factory=dict, compare=False, repr=False)

    def at(self, kept: Sequence[int]) -> float:
        """Return the cost when so many channels of each group stay."""
        key = tuple([width.at(kept) for width in self.widths])
        if key not in self.known:
            self.known[key] = self.cost(*key)
        return self.known[key]


class Costs:
    """A cost that is a sum of items: a time, or something counted.

    Parameters
    ----------
    items : sequence of Item
    fixed : float
        What no group changes.
    """

    def __init__(self, items: Sequence[Item], fixed: float = 0.0) -> None:
        self.items, self.fixed = items, fixed
        self._touched: dict[int, list[Item]] = {}
        for item in items:
            for number in {number for width in item.widths for number in width.numbers}:
                self._touched.setdefault(number, []).append(item)

    def total(self, kept: Sequence[int]) -> float:
        """Return the whole cost."""
        return self.fixed + sum(item.at(kept) for item in self.items)

    def touched(self, number: int, kept: Sequence[int]) -> float:
        """Return that part of it that a group has to do with."""
        return sum(item.at(kept) for item in self._touched.get(number, ()))


@dataclass(frozen=True)
class ModelTime:
    """The parts of a model's time.

    Attributes
    ----------
    widths : Widths
    sites : list of Site
    costs : Costs
        In microseconds.
    """

    widths: Widths
    sites: list[Site]
    costs: Costs
    times: LayerTimes

    def prepare(
        self, candidates: Sequence[Sequence[int]], *, seconds: float = SECONDS, progress: Progress = silent
    ) -> None:
        """Measure the layers at candidate widths of each group, all other groups as they are."""
        wanted: list[Case] = []
        for site in self.sites:
            numbers = {*site.inputs.numbers, *site.outputs.numbers}
            wanted.append(Case(site.signature, site.inputs.full, site.outputs.full)) if numbers else None
            for number in sorted(numbers):
                wanted += [self._case(site, number, count) for count in candidates[number]]
        self.times.prepare(wanted, seconds=seconds, progress=progress)
        self.forget()

    def prepare_around(
        self, candidates: Mapping[int, Sequence[int]], kept: Sequence[int], *, seconds: float = SECONDS
    ) -> None:
        """Measure the layers at candidate widths of some groups, the other groups at `kept`."""
        cases = [
            self._case(site, number, count, kept)
            for number, counts in candidates.items()
            for site in self.sites
            if number in (*site.inputs.numbers, *site.outputs.numbers)
            for count in counts
        ]
        self.times.prepare(cases, seconds=seconds)
        self.forget()

    def _case(self, site: Site, number: int, count: int, kept: Sequence[int] | None = None) -> Case:
        kept = list(self.widths.full if kept is None else kept)
        kept[number] = count
        return Case(site.signature, site.inputs.at(kept), site.outputs.at(kept))

    def prepare_at(self, kept: Sequence[int], *, seconds: float = SECONDS) -> int:
        """Measure the layers at these widths; returns how many times were new."""
        before = self.times.measured
        self.times.prepare(
            [Case(s.signature, s.inputs.at(kept), s.outputs.at(kept)) for s in self.sites], seconds=seconds
        )
        self.forget()
        return self.times.measured - before

    def is_measured(self, number: int) -> bool:
        """Tell whether any layer that a group has to do with was measured."""
        touched = (s for s in self.sites if number in (*s.inputs.numbers, *s.outputs.numbers))
        return any(self.times.knows(site.signature) for site in touched)

    def forget(self) -> None:
        """Forget what was estimated."""
        for item in self.costs.items:
            item.known.clear()


def model_time(
    groups: Groups, times: LayerTimes, feed: dict[str, Any] | None = None, rest: float | None = None
) -> ModelTime:
    """Take a model's time apart: its layers by their widths, all other nodes by how many elements they give.

    Parameters
    ----------
    groups : Groups
    times : LayerTimes
    feed : dict, optional
        What the model is fed with: its shapes.
    rest : float, optional
        Nanoseconds of an element of what is no layer; see `learn_rest`.
    """
    model, widths = groups.engine.model, Widths(groups)
    sizes = None if feed is None else {name: (1, *a.shape[1:]) for name, a in feed.items() if getattr(a, "ndim", 0)}
    known = shapes.concrete(model, sizes).shapes
    sites = find_sites(groups, widths, known)
    layers = {site.node for site in sites}
    items = [Item((s.inputs, s.outputs), lambda i, o, s=s: times.of(s.signature, i, o)) for s in sites]
    others: list[tuple[Width, ...]] = []
    for node in model.graph:
        out = node.outputs[0] if node.outputs else None
        shape = known.get(out) if out is not None else None
        if node not in layers and out is not None and edit.constant(out) is None and shape is not None:
            others.append(tuple(widths.of(out, axis, extent) for axis, extent in enumerate(shape)))
    unit = next(known for known in (rest, times.table.rest, REST) if known is not None)
    made = Costs([*items, *(_other(axes, unit) for axes in others)])
    return ModelTime(widths, sites, made, times)


def _other(axes: tuple[Width, ...], unit: float) -> Item:
    varied = tuple(width for width in axes if width.numbers)
    rest = prod(width.full for width in axes if not width.numbers)
    return Item(varied, lambda *sizes: unit * (NODE + rest * prod(sizes)) / 1000)


def learn_rest(model: ir.Model, groups: Groups, times: LayerTimes, feed: dict[str, Any] | None) -> float | None:
    """Return nanoseconds of an element of what is no layer, from the time of the model as a whole."""
    whole = time_whole(model, feed, times.table.threads)
    if whole is None:
        return None
    parts = model_time(groups, times, feed, 1.0)
    full = parts.widths.full
    parts.prepare_at(full)
    layers = sum(item.at(full) for item in parts.costs.items[: len(parts.sites)])
    others = sum(item.at(full) for item in parts.costs.items[len(parts.sites) :])
    return max(whole - layers, LEAST_REST * whole) / others if others else None


LEAST_REST = 0.05
"""What is no layer takes at least so much of a model's time, whatever its layers add up to."""


def time_whole(model: ir.Model, feed: dict[str, Any] | None, threads: int) -> float | None:
    """Return the microseconds of a run, the mean of the quickest quarter; None where it cannot run."""
    try:
        session = open_session(model, threads=threads, prepack=True)
        given = example_feed(model) if feed is None else feed
        session.run(given)
        spent: list[float] = []
        clock = time.thread_time if threads == 1 else time.perf_counter
        end = time.perf_counter() + TIMED_SECONDS
        while len(spent) < LEAST_RUNS or time.perf_counter() < end:
            start = clock()
            session.run(given)
            spent.append(clock() - start)
    except ModelError:
        return None
    quickest = sorted(spent)[: -(-len(spent) // 4)]
    return sum(quickest) / len(quickest) * 1e6
