"""Zeros that stay zeros."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .flat import views
from .state import State


class Masks:
    """Keeps what was zero in the model that came, in the weights that ``job["masked"]`` names.

    Without a gradient neither the moments nor the weight decay move a weight that is zero.
    """

    def __init__(self, job: dict[str, Any], folder: Path, _state: State) -> None:
        self._masked = np.load(folder / "start.npz")["flat"] == 0
        for name, part in zip(job["weights"], views(self._masked, job["shapes"]), strict=True):
            part &= name in job["masked"]

    def before(self, _state: State, gradient: Any, _step: int) -> None:
        """Take the gradient away."""
        gradient[self._masked] = 0

    def after(self, _state: State, _step: int) -> None:
        """Nothing is left to do."""

    def settled(self, _steps: int) -> bool:
        """It is from the first step on."""
        return True
