"""One choice for each of many, with the least loss within a budget. Numbers only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

STEPS = 20_000
"""Into how many steps a budget is cut, at least; so many for each that chooses if they are more than a hundred."""

STEPS_EACH = 200


def least_loss(costs: Sequence[Sequence[float]], losses: Sequence[Sequence[float]], budget: float) -> list[int] | None:
    """Return which of its choices each takes, so that the sum of losses is least; None if the cheapest cost too much.

    Parameters
    ----------
    costs, losses : sequence of sequences of float
        What each choice of each comes to.
    budget : float
        The most that all costs together may be.

    Notes
    -----
    The multiple-choice knapsack by dynamic programming (Sinha and Zoltners 1979). Costs above the cheapest choice's are
    rounded up to steps, so that the budget is kept; the result is exact to that.

    >>> least_loss([[1, 2], [1, 2]], [[9, 1], [5, 2]], 3)
    [1, 0]
    """
    least = [min(each) for each in costs]
    room = budget - sum(least)
    if room < 0:
        return None
    steps = max(STEPS, STEPS_EACH * len(costs))
    unit = max(room / steps, 1e-12)
    sums, chosen = np.zeros(steps + 1), []
    for cost, loss, low in zip(costs, losses, least, strict=True):
        best, by = np.full(steps + 1, np.inf), np.zeros(steps + 1, np.int16)
        for number, (own, lost) in enumerate(zip(cost, loss, strict=True)):
            taken = int(np.ceil((own - low) / unit - 1e-9))
            if taken <= steps:
                tried = sums[: steps + 1 - taken] + lost
                better = tried < best[taken:]
                best[taken:][better], by[taken:][better] = tried[better], number
        sums = best
        chosen.append((by, cost, low))
    place, found = steps, []
    for by, cost, low in reversed(chosen):
        number = int(by[place])
        found.append(number)
        place -= int(np.ceil((cost[number] - low) / unit - 1e-9))
    return found[::-1]
