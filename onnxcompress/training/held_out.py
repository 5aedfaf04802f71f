"""Which samples judge what the others train."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

ENOUGH = 50
"""So many judge at least, where they are at most a third of all."""

Mask = npt.NDArray[np.bool_]


def hold_out(count: int, share: float, seed: int) -> tuple[Mask, Mask]:
    """Return which samples train, and which judge.

    A share of them is drawn, `ENOUGH` at least, but at most a third of all. Where that is none (there are one or two
    samples) all of them do both.
    """
    train, judge = np.ones(count, bool), np.zeros(count, bool)
    if share <= 0:
        return train, judge
    held = max(round(share * count), min(ENOUGH, count // 3))
    if not held:
        return train, ~judge
    judge[np.random.default_rng([seed, 2]).permutation(count)[:held]] = True
    return ~judge, judge
