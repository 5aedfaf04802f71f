"""Scales of integers that are trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .flat import places
from .state import State

LEAST = np.float32(0.01)


class Scales:
    """Multiplies the gradients of what ``job["scales"]`` names by the number that stands there, and keeps it positive.

    Esser et al., "Learned Step Size Quantization", arXiv:1902.08153, section 2.2.
    """

    def __init__(self, job: dict[str, Any], _folder: Path, _state: State) -> None:
        wanted = zip(job["weights"], places(job["shapes"]), strict=True)
        self._scales = [(place, np.float32(job["scales"][name])) for name, place in wanted if name in job["scales"]]

    def before(self, _state: State, gradient: Any, _step: int) -> None:
        """Shorten the gradients."""
        for place, share in self._scales:
            gradient[place] *= share

    def after(self, state: State, _step: int) -> None:
        """Keep them above zero."""
        for place, _ in self._scales:
            np.maximum(state.flat[place], LEAST, out=state.flat[place])

    def settled(self, _steps: int) -> bool:
        """It is from the first step on."""
        return True
