"""Weights that share their values, and go on sharing them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .flat import places
from .state import State


class Clusters:
    """Trains the values that weights share, in the weights that ``job["clusters"]`` names; zero stays zero.

    The gradient of a shared value is the sum of those of all that have it, as in Han et al., "Deep Compression",
    arXiv:1510.00149, section 3.3. All that have it move together, since they began at the same place.
    """

    def __init__(self, job: dict[str, Any], folder: Path, _state: State) -> None:
        start = np.load(folder / "start.npz")["flat"]
        wanted = zip(job["weights"], places(job["shapes"]), strict=True)
        self._clustered = [_Shared(start, place) for name, place in wanted if name in job["clusters"]]

    def before(self, _state: State, gradient: Any, _step: int) -> None:
        """Sum the gradients of each value."""
        for shared in self._clustered:
            shared.sum(gradient)

    def after(self, state: State, _step: int) -> None:
        """Leave no two of them apart, whatever the optimizer rounds."""
        for shared in self._clustered:
            shared.join(state.flat)

    def settled(self, _steps: int) -> bool:
        """It is from the first step on."""
        return True


class _Shared:
    """One weight: where it is in the flat vector, and which of its elements share a value."""

    def __init__(self, start: Any, place: slice) -> None:
        self._place = place
        values, self._first, labels = np.unique(start[place], return_index=True, return_inverse=True)
        self._labels, self._zero = labels.reshape(-1), values == 0

    def sum(self, gradient: Any) -> None:
        part = gradient[self._place]
        sums = np.bincount(self._labels, part, len(self._first))
        sums[self._zero] = 0
        part[:] = sums[self._labels]

    def join(self, flat: Any) -> None:
        part = flat[self._place]
        part[:] = part[self._first][self._labels]
