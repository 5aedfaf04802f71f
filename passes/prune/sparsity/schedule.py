"""How sparsity grows from round to round when pruning and training alternate."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from onnxcompress.errors import OptionError


def polynomial(initial: float, final: float, steps: int, power: float = 3.0) -> list[float]:
    """Return a sparsity for each of `steps` rounds, from `initial` to `final`, growing fast at first.

    Zhu and Gupta, "To prune, or not to prune", arXiv:1710.01878: ``final + (initial - final) · (1 - t)^power`` with
    t from 0 to 1. ``power=1`` is a straight line; the same sparsity in each round is ``polynomial(s, s, steps)``.

    >>> [round(s, 3) for s in polynomial(0.0, 0.8, 5)]
    [0.0, 0.462, 0.7, 0.787, 0.8]
    """
    for name, value in (("initial", initial), ("final", final)):
        if not 0 <= value < 1:
            raise OptionError(f"polynomial: {name} = {value!r}: expected a sparsity in [0, 1)")
    if steps < 1:
        raise OptionError(f"polynomial: steps = {steps!r}: expected at least 1")
    if not power > 0:
        raise OptionError(f"polynomial: power = {power!r}: expected more than 0")
    if steps == 1:
        return [final]
    return [final + (initial - final) * (1 - step / (steps - 1)) ** power for step in range(steps)]


def of_what_is_left(sparsities: Sequence[float]) -> list[float]:
    """Turn shares of the original into shares of what the round before left, as they must be once `Shrink` ran.

    >>> of_what_is_left([0.5, 0.75])
    [0.5, 0.5]
    """
    return [max(0.0, 1 - (1 - now) / (1 - before)) for before, now in pairwise([0.0, *sparsities])]
