"""What else happens at each step: a class in a file of its own for each, listed in `HOOKS`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from .clusters import Clusters
from .masks import Masks
from .pruning import Pruning
from .scales import Scales
from .state import State


class Hook(Protocol):
    """Made once, before the first step, by ``Hook(job, folder, state)``; each has a field in the job."""

    def before(self, state: State, gradient: Any, step: int) -> None:
        """Change the flat `gradient` in place, before the optimizer's step number `step` (from 0)."""

    def after(self, state: State, step: int) -> None:
        """Change the weights in place, behind that step."""

    def settled(self, steps: int) -> bool:
        """Tell whether, with so many steps behind, the student is what it shall be."""


HOOKS: dict[str, Callable[[dict[str, Any], Path, State], Hook]] = {
    "masked": Masks,
    "prune": Pruning,
    "clusters": Clusters,
    "scales": Scales,
}
"""The field of the job that asks for it (missing or empty: not asked for), and the class."""


def make_hooks(job: dict[str, Any], folder: Path, state: State) -> list[Hook]:
    """Return what the job asks for."""
    return [kind(job, folder, state) for field, kind in HOOKS.items() if job.get(field)]
