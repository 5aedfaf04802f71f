"""More and more zeros while it trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .state import State
from .units import make_units

KEPT = "hook_pruned"
"""Where the state keeps which weights are pruned."""


class Pruning:
    """Zeroes a growing share of the weights that ``job["prune"]`` names, which then stay zero.

    From step `begin` on, every `frequency` steps, and at step `end`, those of the smallest magnitude become zero, up to
    the share ``final + (initial - final) · (1 - t)^power``, where t goes from 0 to 1 (Zhu and Gupta, "To prune, or not
    to prune", arXiv:1710.01878; TensorFlow's PolynomialDecay, and its ConstantSparsity where both shares are equal).
    """

    def __init__(self, job: dict[str, Any], _folder: Path, state: State) -> None:
        self._told, total = job["prune"], int(job.get("total", 1))
        self._begin, end = (_step(self._told[name], total) for name in ("begin", "end"))
        self._end = max(self._begin, end)
        self._pruned = state.hooks.setdefault(KEPT, np.zeros(len(state.flat), bool))
        self._units = make_units(job)

    def settled(self, steps: int) -> bool:
        """Tell whether, with so many steps behind, nothing more will be pruned."""
        return steps > self._end

    def before(self, _state: State, gradient: Any, _step: int) -> None:
        """Take the gradient of what is pruned away."""
        gradient[self._pruned] = 0

    def after(self, state: State, step: int) -> None:
        """Prune if it is time to, and leave at zero what is pruned, whatever moment it had."""
        since = step - self._begin
        if step == self._end or (0 <= since < self._end - self._begin and since % self._told["frequency"] == 0):
            self._pruned |= self._units.lowest(state.flat, self._share(step))
        state.flat[self._pruned] = 0

    def _share(self, step: int) -> float:
        initial, final = self._told["initial"], self._told["final"]
        if step >= self._end:
            return float(final)
        left = 1 - (step - self._begin) / (self._end - self._begin)
        return float(final + (initial - final) * left ** self._told["power"])


def _step(given: float, total: int) -> int:
    """Return the step that is meant, by a share of the training or by its number; the last one at most."""
    return max(min(int(given if given > 1 else given * total), total - 1), 0)
