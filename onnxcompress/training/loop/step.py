"""One step: a batch through the graph of the gradients, and the weights moved."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from .engine import LOSS, open_session
from .flat import views
from .hooks import Hook
from .optimizer import decays, update
from .state import State


class Stepper:
    """Takes steps; holds the session and what does not change between them."""

    def __init__(self, job: dict[str, Any], folder: Path) -> None:
        self._job = job
        self._session = open_session(folder / "objective.onnx", job["threads"])
        self._names = [LOSS, *job["states"].values(), *(f"{name}_grad" for name in job["weights"])]
        self._states = len(job["states"])
        self._decay = decays(job["shapes"], job["settings"]["weight_decay"])

    def take(self, state: State, parts: list[dict[str, Any]], rate: float, step: int, hooks: list[Hook]) -> float:
        """Take step number `step` (from 0), in place; returns the loss before it.

        Gradients of the `parts` of a batch are averaged; statistics are those that follow from the last.

        Raises
        ------
        FloatingPointError
            The loss or a gradient is no finite number; the weights are as they were.
        """
        loss, running, gradient = 0.0, state.running, None
        for feeds in parts:
            results = self._session.run(self._names, feeds | state.weights | running)
            flat = np.concatenate([array.ravel() for array in results[self._states + 1 :]])
            gradient = flat if gradient is None else gradient + flat
            loss += float(results[0]) / len(parts)
            running = dict(zip(self._job["states"], results[1 : self._states + 1], strict=True))
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss}")
        if gradient is not None and len(parts) > 1:
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
        if not np.isfinite(gradient).all():
            broken = zip(self._job["weights"], views(gradient, self._job["shapes"]), strict=True)
            name = next(name for name, part in broken if not np.isfinite(part).all())
            raise FloatingPointError(f"the gradient of '{name}' is not finite")
