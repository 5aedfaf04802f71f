"""Meet a budget with the widths that lose least for what they cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from onnxcompress.contract import Context, Refusal
from onnxcompress.layer_times.good_widths import well_run
from onnxcompress.layer_times.model_time import Costs, ModelTime, candidate_widths, learn_rest, model_time

from .amount import how_many
from .budget import NEAR, Budget, Meter, missed
from .costs import counted
from .knapsack import Choice, Knapsack, Side
from .latency import Clock
from .losses import losses, possible
from .lowest import ANY, lowest, most
from .ranking import Ranker

WEIGHTS = (1.0, 3.0, 10.0, 30.0)
"""How much a share of the time counts beside the same share of what is counted; more where it buys time cheaply."""

WORTH = 7.0
"""A model that takes one hundredth less of the time is worth a loss that is larger by so many hundredths of itself."""

FINE = 4
"""What is left of a budget is dealt out in so many channels."""

TRIES, CLOSE = 6, 0.008
"""How often a whole model is timed to correct the sum of its layers, and how near is near enough."""


@dataclass
class Chosen:
    """What goes of each group, what falls short, and what there is to say."""

    channels: dict[str, list[int]] = field(default_factory=dict)
    refused: list[Refusal] = field(default_factory=list)
    notes: tuple[str, ...] = ()


def timed_parts(context: Context) -> ModelTime:
    """Return the parts of a model's time; what is no layer is learnt from a run of the whole."""

    def learnt() -> float | None:
        times = context.layer_times
        here = learn_rest(context.model, context.groups, times, context.feed) if times.is_here else None
        return times.rest if here is None else here

    rest = context.keep("time of what is no layer", learnt)
    return model_time(context.groups, context.layer_times, context.feed, rest)


class ByCost:
    """Chooses widths for one model.

    Parameters
    ----------
    ranker : Ranker
        Which channels of a group go first.
    context : Context
    """

    def __init__(self, ranker: Ranker, context: Context) -> None:
        self._ranker, self._context = ranker, context
        self._groups = ranker.groups
        self._parts = timed_parts(context)
        self._full = self._parts.widths.full
        self._choices = self._of(candidate_widths)
        counts = {choice.number: choice.counts for choice in self._choices}
        self._parts.prepare([counts.get(n, ()) for n in range(len(self._full))], progress=context.progress)

    def _of(self, candidates: Callable[[int], list[int]]) -> list[Choice]:
        found = []
        for number, group in enumerate(self._groups.prunable):
            name = group.name
            if name not in self._ranker.scores:
                continue
            limits = self._ranker.limits.get(name, ANY)
            if name in self._ranker.fixed:
                gone = min(how_many(self._ranker.fixed[name], group.size), most(group))
                counts: tuple[int, ...] = (limits.at_least(group.size - gone, group.size),)
            else:
                wanted = candidates(group.size) if limits.round_to == "auto" else limits.multiples(group.size)
                counts = possible(group, wanted, limits.keep_at_least)
            score = self._ranker.scores[name]
            found.append(Choice(number, counts, losses(group, score, self._ranker.importance.get(name, "l2"), counts)))
        return found

    def channels(self, kept: Sequence[int]) -> dict[str, list[int]]:
        """Return which channels go so that so many stay."""
        pairs = [(g, count) for g, count in zip(self._groups.prunable, kept, strict=True) if count < g.size]
        return lowest([g for g, _ in pairs], self._ranker.scores, {g.name: g.size - count for g, count in pairs})

    def loss(self, kept: Sequence[int]) -> float:
        """Return what is lost of the groups then."""
        found = (dict(zip(c.counts, c.losses, strict=True)).get(kept[c.number], 0.0) for c in self._choices)
        return sum(found)

    def by_count(self, budget: Budget, sparsity: int | float) -> Chosen:
        """Let so much of what is counted go."""
        costs, meter = counted(self._groups, self._parts.widths, budget), Meter(self._groups, budget)
        wanted = meter.total - how_many(sparsity, meter.total) if isinstance(sparsity, int) else None
        target = meter.total * (1 - sparsity) if wanted is None else float(wanted)
        kept = self._cheapest(costs, target)
        channels = self.channels(kept)
        left = meter.left(channels)
        refused = missed(budget, left / (meter.total or 1), target / (meter.total or 1))
        return Chosen(channels, refused, (self._said(kept), *self._parts.times.notes()))

    def _cheapest(self, costs: Costs, target: float) -> list[int]:
        """Solve with ever more weight on time, and take what is the best bargain."""
        found = []
        for weight in WEIGHTS:
            kept = self._solved(costs, target, weight)
            found.append((math.log(max(self.loss(kept), 1e-9)) + WORTH * self._share(kept), kept))
        return min(found, key=lambda pair: pair[0])[1]

    def _share(self, kept: Sequence[int]) -> float:
        return self._parts.costs.total(kept) / (self._parts.costs.total(self._full) or 1)

    def _solved(self, costs: Costs, target: float, weight: float) -> list[int]:
        side = Side(self._parts.costs, weight)
        knapsack = Knapsack(self._choices, costs, self._full, side)
        kept = knapsack.solve(target)
        # In steps that run well first; a budget that time speaks against is met all the same, if not by slow widths.
        for step, price in ((FINE, knapsack.price), (FINE, 0.0), (1, knapsack.price)):
            if costs.total(kept) < target - NEAR / 2 * costs.total(self._full):
                widths = self._of(lambda size, step=step: list(range(step, size, step)))  # type: ignore[misc]
                kept = Knapsack(widths, costs, self._full, side).refill(kept, target, price)
        return kept

    def by_time(self, sparsity: float) -> Chosen:
        """Let so much of the time go; the whole model is timed to correct what the layers add up to."""
        costs, times = self._parts.costs, self._parts.times
        wanted, whole = 1 - sparsity, costs.total(self._full)
        knapsack = Knapsack(self._choices, costs, self._full)
        clock = (
            Clock(
                self._context.model, self._context.feed, threads=times.table.threads, interface=self._context.interface
            )
            if times.is_here
            else None
        )
        aim, tried = wanted, list[tuple[float, list[int]]]()
        for _ in range(TRIES if clock else 1):
            kept = knapsack.solve(aim * whole)
            if times.is_here:
                self._parts.prepare_at(kept)
            again = any(kept == before for _, before in tried)
            left = clock.left(self.channels(kept)) if clock else costs.total(kept) / whole
            tried.append((left, kept))
            if abs(left - wanted) <= CLOSE or left <= 0:
                break
            step = (wanted / left) ** 0.8
            aim = min(max(aim * (step * step * step if again else step), 0.01), 1.0)
        left, kept = min(tried, key=lambda pair: abs(pair[0] - wanted))
        channels = self.channels(kept)
        notes = (*(clock.notes(channels) if clock else (self._said(kept),)), *times.notes())
        return Chosen(channels, missed("latency", left, wanted), notes)

    def _said(self, kept: Sequence[int]) -> str:
        return f"its layers add up to {self._share(kept):.2f} of the time without these channels"


def choose_by_cost(ranker: Ranker, budget: Budget, sparsity: int | float, context: Context) -> Chosen:
    """Meet a budget with the widths that lose least for what they cost."""
    if not ranker.scores:
        return Chosen()
    chooser = ByCost(ranker, context)
    chosen = chooser.by_time(sparsity) if budget == "latency" else chooser.by_count(budget, sparsity)
    return Chosen(chosen.channels, [*ranker.too_many(0.0), *chosen.refused], chosen.notes)


def with_good_widths(ranker: Ranker, sparsity: int | float | str, context: Context) -> Ranker:
    """Say which widths each group may have whose `round_to` is auto: those at which no wider one is faster."""
    free = {g.name for g in ranker.groups.prunable if ranker.limits.get(g.name, ANY).round_to == "auto"}
    if not (free & ranker.scores.keys()):
        return ranker
    parts = model_time(context.groups, context.layer_times, context.feed)
    counts: dict[int, list[int]] = {}
    for number, group in enumerate(ranker.groups.prunable):
        if group.name in free and group.name in ranker.scores:
            asked = ranker.fixed.get(group.name, sparsity)
            gone = 0 if isinstance(asked, str) else min(how_many(asked, group.size), most(group))
            kept = group.size - gone
            near = {kept // FINE * FINE, kept, min(-(-kept // FINE) * FINE, group.size)}
            counts[number] = sorted({*candidate_widths(group.size), *near} - {0})
    parts.prepare([counts.get(n, ()) for n in range(len(parts.widths.full))], progress=context.progress)
    limits = dict(ranker.limits)
    for number, wanted in counts.items():
        name = ranker.groups.prunable[number].name
        if parts.is_measured(number):
            limits[name] = replace(limits[name], widths=tuple(well_run(parts, number, wanted)))
    return replace(ranker, limits=limits)


def said_of_widths(ranker: Ranker, sparsity: int | float) -> tuple[str, ...]:
    """Say how many groups keep another width than was asked for, since that would be slower than a wider one."""
    moved = [
        group.name
        for group in ranker.groups.prunable
        if group.name in ranker.scores
        and (widths := ranker.limits.get(group.name, ANY).widths)
        and group.size - min(how_many(ranker.fixed.get(group.name, sparsity), group.size), most(group)) not in widths
    ]
    if not moved:
        return ()
    said = f"{len(moved)} groups ({', '.join(moved[:3])}{', …' if len(moved) > 3 else ''})"
    return (f"{said} keep other numbers of channels than were asked for, which run slower; round_to=1 is exact",)
