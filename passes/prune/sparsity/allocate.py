"""Give each group a share of its own: as many multiply-accumulates gone as a largest drop of the metric allows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from onnxcompress.contract import Refusal
from onnxcompress.evaluation.sensitivity import Point
from onnxcompress.progress import Progress, silent

from ..masks.masks import ChannelPlan
from .budget import Meter

Channels = dict[str, list[int]]


def allocate(
    path: Sequence[Channels],
    complete: Callable[[Channels], ChannelPlan],
    holds: Callable[[ChannelPlan], bool],
    *,
    progress: Progress = silent,
) -> tuple[ChannelPlan, list[Refusal]]:
    """Go along ever larger cuts as far as what all groups lose together is little enough.

    Parameters
    ----------
    path : sequence of dict
        Cuts, such as those of `cheapest_first`.
    complete : callable
        Turns a cut into the plan that is judged, with what makes up for it.
    holds : callable
        Measures what a plan costs; it is not predicted from the groups' own costs.
    progress : callable
        Called as ``progress(what, done, total)``.

    Returns
    -------
    plan, refused
        When even the first cut loses too much, only what `complete` adds by itself, and it is said.
    """
    plans: dict[int, ChannelPlan] = {}
    low, high = 0, len(path) + 1  # the last that fits, the first that does not
    tries = math.ceil(math.log2(high))
    while high - low > 1:
        middle = (low + high) // 2
        plan = complete(path[middle - 1])
        if holds(plan):
            low, plans[middle] = middle, plan
        else:
            high = middle
        progress("allocation", tries - math.ceil(math.log2(high - low)), tries)
    if low:
        return plans[low], []
    return complete({}), [Refusal("model", "even the cheapest cut that was tried loses more than max_drop")]


def cheapest_first(
    curves: Mapping[str, Sequence[Point]], cuts: Mapping[float, Mapping[str, list[int]]], meter: Meter
) -> list[Channels]:
    """Return ever larger cuts: each takes one group one point further, where most is saved for what it costs.

    Marginal analysis (Fox, "Discrete optimization via marginal analysis", 1966); it takes the costs of groups as
    independent.

    Parameters
    ----------
    curves : mapping
        Group → its points.
    cuts : mapping
        Share → group → the channels that go at that point.
    meter : Meter
        Counts what is left.
    """
    channels = {name: [[], *(cuts[p.share][name] for p in points)] for name, points in curves.items()}
    saved = {name: [meter.total - meter.left({name: c}) for c in steps] for name, steps in channels.items()}
    costs = {name: _costs(points) for name, points in curves.items()}
    at = dict.fromkeys(curves, 0)

    def price(name: str) -> float:
        now, then = at[name], at[name] + 1
        gain = saved[name][then] - saved[name][now]
        return (costs[name][then] - costs[name][now]) / gain if gain > 0 else math.inf

    path: list[Channels] = []
    for _ in range(sum(map(len, curves.values()))):
        best = min((name for name in curves if at[name] < len(curves[name])), key=price)
        at[best] += 1
        path.append({name: channels[name][k] for name, k in at.items() if k})
    return path


def _costs(points: Sequence[Point]) -> list[float]:
    """Return the drop at each point, from 0 and never falling; by little, how far the outputs moved adds to it."""
    costs = [0.0]
    for point in points:
        moved = 0.0 if point.cosine is None else max(1 - point.cosine, 0.0)
        costs.append(max(costs[-1], point.drop + moved))
    return costs
