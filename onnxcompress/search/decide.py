"""Which of the recipes that were tried is the best within a budget, and which no other is better than."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .budget import Budget
from .job import Outcome

GAIN = 0.02
"""What is not smaller, or faster, than the original by this part is not called so."""

NOISE = 0.05
"""The noise of the outputs, as a part of them, up to which a model counts as the same where no sample tells more."""

TIMING = 0.02
"""A time that is longer by up to this part is not called slower: clocks are no better."""

LOST_ALL = 1.0


@dataclass(frozen=True)
class Base:
    """What the original costs."""

    bytes: int
    zipped: int | None
    macs: int
    memory: int


def cost_of(outcome: Outcome, base: Base, budget: Budget) -> float:
    """Return what a trial costs by the objective, as a part of what the original does."""
    if budget.objective == "latency":
        return math.inf if outcome.ratio is None else outcome.ratio
    field = {"size": "bytes"}.get(budget.objective, budget.objective)
    before, after = getattr(base, field), getattr(outcome, field)
    return math.inf if after is None else after / max(before, 1)


def loss_of(outcome: Outcome) -> tuple[float, float]:
    """Return the drop to be expected on other samples, and its standard error.

    On few samples the drop that was counted is mostly luck; the margins of all decisions tell more, but what was
    counted must not be far beyond. Where there are no samples, noise stands for the drop.
    """
    drop, error = outcome.drop, outcome.error or 0.0
    if drop is None or math.isnan(drop):
        return LOST_ALL, 0.0
    if outcome.likely is None:
        return drop, error
    return max(outcome.likely, drop - error), outcome.likely_error or 0.0


def excess(outcome: Outcome, base: Base, budget: Budget) -> float:
    """Return by which part a trial exceeds the limits of a budget beside the drop; 0 where it keeps to all."""
    limits = [
        (outcome.bytes, budget.target_size),
        (outcome.memory, budget.max_memory),
        (outcome.milliseconds, budget.max_ms),
    ]
    over = [value / limit - 1 for value, limit in limits if value is not None and limit is not None]
    if outcome.ratio is not None and budget.speedup is not None:
        over.append(outcome.ratio * budget.speedup - 1)
    return max(0.0, *over) if over else 0.0


def price(outcome: Outcome, base: Base, budget: Budget) -> float:
    """Return what a trial costs; where nothing was said about time, one that is slower costs more by that."""
    cost = cost_of(outcome, base, budget)
    if budget.objective == "latency" or budget.speedup is not None or (outcome.ratio_low or 0.0) <= 1 + TIMING:
        return cost
    return cost * (outcome.ratio or 1.0)


def rank(outcome: Outcome, base: Base, budget: Budget) -> tuple[float, ...]:
    """Return what the best trial has least of.

    First comes whether the drop is within what is allowed with its standard error, only by itself, or not at all; then
    the other limits, and what it costs.
    """
    drop, error = loss_of(outcome)
    over = excess(outcome, base, budget)
    if drop > budget.max_drop:
        return (2, over, drop, price(outcome, base, budget))
    tier = 0 if drop + error <= budget.max_drop else 1
    return (tier, over, price(outcome, base, budget), drop)


def gains(outcome: Outcome, base: Base, budget: Budget) -> bool:
    """Tell whether a trial is worth its name: it is smaller or faster by more than a clock's error."""
    cost = cost_of(outcome, base, budget)
    if budget.objective == "latency":
        return cost <= 1 - GAIN and (outcome.ratio_high or cost) < 1
    return cost <= 1 - GAIN


def usable(outcome: Outcome) -> bool:
    """Tell whether a trial came to its end."""
    return not (outcome.failed or outcome.stopped)


def best(outcomes: Sequence[Outcome], base: Base, budget: Budget) -> Outcome | None:
    """Return the best trial; None where nothing that gains keeps to the limits."""
    able = [each for each in outcomes if usable(each) and gains(each, base, budget)]
    within = [each for each in able if rank(each, base, budget)[0] < 2 and not excess(each, base, budget)]
    return min(within or _nearest(able, base, budget), key=lambda each: rank(each, base, budget), default=None)


def _nearest(able: Sequence[Outcome], base: Base, budget: Budget) -> list[Outcome]:
    """Return what comes nearest where a limit cannot be kept: the drop is kept before the limits are."""
    if budget == Budget(budget.objective, budget.max_drop, seconds=budget.seconds, train=budget.train):
        return []  # only the drop was asked for: then the original is better than what loses more
    never_slower = budget.speedup is not None and budget.speedup >= 1
    quick = [each for each in able if not (never_slower and (each.ratio_low or 0.0) > 1)]
    return [each for each in quick if rank(each, base, budget)[0] < 2]


def front(outcomes: Sequence[Outcome], base: Base, budget: Budget) -> list[Outcome]:
    """Return the trials than which none is better in both, cost and drop, by growing cost."""
    found: list[Outcome] = []
    least = math.inf
    for each in sorted(filter(usable, outcomes), key=lambda each: (cost_of(each, base, budget), loss_of(each)[0])):
        drop = loss_of(each)[0]
        if drop < least and math.isfinite(cost_of(each, base, budget)):
            least = drop
            found.append(each)
    return found


def neighbours(winner: Outcome, found: Sequence[Outcome], count: int) -> list[Outcome]:
    """Return up to `count` trials of the front that are nearest to the winner, by turns cheaper and better ones."""
    places = [each.number for each in found]
    if winner.number not in places:
        return [each for each in found if each is not winner][:count]
    at = places.index(winner.number)
    cheaper, better = list(found[:at])[::-1], list(found[at + 1 :])
    mixed = [each for pair in zip(cheaper, better, strict=False) for each in pair]
    rest = cheaper[len(better) :] + better[len(cheaper) :]
    return [*mixed, *rest][:count]
