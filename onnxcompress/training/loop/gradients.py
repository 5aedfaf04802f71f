"""The graph of the gradients, run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from .engine import LOSS, open_session
from .flat import views


class Gradients:
    """Runs a graph of gradients, which are written straight into one vector.

    Attributes
    ----------
    flat : numpy.ndarray
        The gradients of the last run, in the order of the job's weights.
    """

    def __init__(self, job: dict[str, Any], folder: Path) -> None:
        self._session = open_session(folder / "objective.onnx", job)
        self._states = job["states"]
        self.flat = np.zeros(sum(math.prod(shape) for shape in job["shapes"]), np.float32)
        parts = views(self.flat, job["shapes"])
        self._places = {f"{name}_grad": part for name, part in zip(job["weights"], parts, strict=True) if part.size}

    def run(self, feeds: dict[str, Any]) -> tuple[float, dict[str, Any]]:
        """Return the loss and the next running statistics."""
        binding = self._session.io_binding()
        for name, array in feeds.items():
            binding.bind_cpu_input(name, array)
        results = [LOSS, *self._states.values()]
        for name in results:
            binding.bind_output(name, "cpu")
        for name, part in self._places.items():
            binding.bind_output(name, "cpu", 0, np.float32, part.shape, part.ctypes.data)
        self._session.run_with_iobinding(binding)
        loss, *running = (value.numpy() for value in binding.get_outputs()[: len(results)])
        return float(loss), dict(zip(self._states, running, strict=True))
