"""Give each group a share of its own: as many multiply-accumulates gone as a largest drop of the metric allows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from onnxcompress.contract import Refusal
from onnxcompress.progress import Progress, silent

from .budget import Meter
from .masks import ChannelPlan
from .sensitivity import Judge, Point

Channels = dict[str, list[int]]


def allocate(
    curves: Mapping[str, Sequence[Point]],
    meter: Meter,
    judge: Judge,
    complete: Callable[[Channels], ChannelPlan],
    max_drop: float,
    *,
    progress: Progress = silent,
) -> tuple[ChannelPlan, list[Refusal]]:
    """Go along `cheapest_first` as far as the drop of all groups together stays within `max_drop`.

    Parameters
    ----------
    curves : mapping
        Group → its points, of `sensitivity.measure`.
    meter : Meter
        Counts what is left.
    judge : Judge
        Measures the drop of an allocation on the samples; it is not predicted from the curves.
    complete : callable
        Turns channels into the plan that is judged, with what makes up for them.
    max_drop : float
        The largest drop of the metric.
    progress : callable
        Called as ``progress(what, done, total)``.

    Returns
    -------
    plan, refused
        When even the first step loses too much, only what `complete` adds by itself, and it is said.
    """
    path = cheapest_first(curves, meter)
    plans: dict[int, ChannelPlan] = {}
    low, high = 0, len(path) + 1  # the last that fits, the first that does not
    tries = math.ceil(math.log2(high))
    while high - low > 1:
        middle = (low + high) // 2
        plan = complete(path[middle - 1])
        drop = judge.compare(plan).drop
        if drop is not None and drop <= max_drop:
            low, plans[middle] = middle, plan
        else:
            high = middle
        progress("allocation", tries - math.ceil(math.log2(high - low)), tries)
    if low:
        return plans[low], []
    return complete({}), [Refusal("model", f"even the cheapest cut that was tried loses more than {max_drop:g}")]


def cheapest_first(curves: Mapping[str, Sequence[Point]], meter: Meter) -> list[Channels]:
    """Return ever larger cuts: each takes one group one point further, where most is saved for what it costs.

    Marginal analysis (Fox, "Discrete optimization via marginal analysis", 1966); it takes the costs of groups as
    independent.
    """
    at = dict.fromkeys(curves, 0)
    saved = {
        name: [0.0, *(float(meter.total - meter.left({name: p.channels})) for p in points)]
        for name, points in curves.items()
    }
    costs = {name: _costs(points) for name, points in curves.items()}
    path: list[Channels] = []
    for _ in range(sum(len(points) for points in curves.values())):
        open_ = [name for name, points in curves.items() if at[name] < len(points)]

        def price(name: str) -> float:
            before, after = at[name], at[name] + 1
            gain = saved[name][after] - saved[name][before]
            return (costs[name][after] - costs[name][before]) / gain if gain > 0 else math.inf

        best = min(open_, key=price)
        at[best] += 1
        path.append({name: list(points[at[name] - 1].channels) for name, points in curves.items() if at[name]})
    return path


def _costs(points: Sequence[Point]) -> list[float]:
    """Return the drop at each point, from 0 and never falling; by little, how far the outputs moved adds to it."""
    costs = [0.0]
    for point in points:
        moved = 0.0 if point.cosine is None else max(1 - point.cosine, 0.0)
        costs.append(max(costs[-1], point.drop + moved))
    return costs
