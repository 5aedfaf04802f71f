"""How the learning rate changes from step to step."""

from __future__ import annotations

import math


def rate_factor(schedule: str, progress: float, warmup: float = 0.0) -> float:
    """Return what the learning rate is multiplied with at `progress`, from 0 at the first step towards 1.

    It rises in a straight line for the share `warmup` of the steps, and falls over all others.
    """
    if progress < warmup:
        return progress / warmup
    progress = (progress - warmup) / (1 - warmup)
    if schedule == "linear":
        return 1 - progress
    if schedule == "cosine":
        return (1 + math.cos(math.pi * progress)) / 2
    return 1.0
