"""One step: a batch through the graph of the gradients, and the weights moved."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from .flat import views
from .gradients import Gradients
from .hooks import Hook
from .optimizer import decays, update
from .state import State


class Stepper:
    """Takes steps; holds the session and what does not change between them."""

    def __init__(self, job: dict[str, Any], folder: Path) -> None:
        self._job = job
        self._gradients = Gradients(job, folder)
        self._decay = decays(job["shapes"], job["settings"]["weight_decay"])

    def take(self, state: State, parts: list[dict[str, Any]], rate: float, step: int, hooks: list[Hook]) -> float:
        """Take step number `step` (from 0), in place; returns the loss before it.

        Gradients of the `parts` of a batch are averaged; statistics are those that follow from the last.

        Raises
        ------
        FloatingPointError
            The loss or a gradient is no finite number; the weights are as they were.
        """
        loss, running, gradient = 0.0, state.running, self._gradients.flat
        for number, feeds in enumerate(parts):
            so_far = gradient.copy() if number else None
            each, running = self._gradients.run(feeds | state.weights | running)
            loss += each / len(parts)
            if so_far is not None:
                gradient += so_far
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss}")
        if len(parts) > 1:
            gradient /= np.float32(len(parts))
        for hook in hooks:
            hook.before(state, gradient, step)
        self._check(gradient)
        state.running = running
        update(self._job["settings"]["optimizer"], state, gradient, rate, self._decay, step + 1)
        for hook in hooks:
            hook.after(state, step)
        return loss

    def _check(self, gradient: Any) -> None:
        """Raise `FloatingPointError` naming the weight whose gradient is no finite number."""
        # One number tells it sooner; its square may be too large where nothing else is.
        if not (math.isfinite(np.dot(gradient, gradient)) or np.isfinite(gradient).all()):
            broken = zip(self._job["weights"], views(gradient, self._job["shapes"]), strict=True)
            name = next(name for name, part in broken if not np.isfinite(part).all())
            raise FloatingPointError(f"the gradient of '{name}' is not finite")
