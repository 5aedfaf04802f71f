"""The loop: epochs, batches, steps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .engine import LOSS, open_session
from .flat import views
from .hooks import Hook, make_hooks
from .optimizer import decays, update
from .schedule import rate_factor
from .state import State
from .tell import Reporter, tell


def train(job: dict[str, Any], folder: Path) -> None:
    """Train from the last checkpoint if there is one."""
    state = State.begin(job, folder)
    data = {name: np.load(folder / file, mmap_mode="r") for name, file in job["data"].items()}
    session = open_session(folder / "objective.onnx", job["threads"])
    hooks = make_hooks(job, folder, state)
    tell(event="ready", epoch=state.epoch)
    while state.epoch < job["settings"]["epochs"]:
        run_epoch(job, state, session, data, hooks)
        state.save(job)
        epochs, steps = job["settings"]["epochs"], step_count(job)
        report(state.epoch, epochs, state.losses[-1], state.epoch * steps, epochs * steps)


def run_epoch(job: dict[str, Any], state: State, session: Any, data: dict[str, Any], hooks: list[Hook]) -> None:
    """Go through all samples once, in an order that seed and epoch alone decide."""
    settings, samples = job["settings"], job["samples"]
    decay = decays(job["shapes"], settings["weight_decay"])
    steps = step_count(job)
    names = [LOSS, *job["states"].values(), *(f"{name}_grad" for name in job["weights"])]
    total, reporter = 0.0, Reporter()
    for step, picked in enumerate(batches(samples, steps, settings["seed"], state.epoch)):
        feeds = {name: np.ascontiguousarray(array[picked]) for name, array in data.items()}
        results = session.run(names, feeds | state.weights | state.running)
        loss = float(results[0])
        done, of = state.epoch * steps + step, settings["epochs"] * steps
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss} at step {done + 1} of {of}; try a lower learning rate")
        total += loss * len(picked)
        state.running = dict(zip(job["states"], results[1 : len(job["states"]) + 1], strict=True))
        gradient = np.concatenate([array.ravel() for array in results[len(job["states"]) + 1 :]])
        for hook in hooks:
            hook.before(state, gradient, done)
        if not np.isfinite(gradient).all():
            broken = zip(job["weights"], views(gradient, job["shapes"]), strict=True)
            name = next(name for name, part in broken if not np.isfinite(part).all())
            raise FloatingPointError(f"the gradient of '{name}' is not finite at step {done + 1} of {of}")
        rate = settings["learning_rate"] * rate_factor(settings["schedule"], done / of)
        update(settings["optimizer"], state, gradient, rate, decay, done + 1)
        for hook in hooks:
            hook.after(state, done)
        if reporter.due():
            report(state.epoch + 1, settings["epochs"], loss, done + 1, of)
    if not all(np.isfinite(array).all() for array in (state.flat, *state.running.values())):
        raise FloatingPointError(f"weights are not finite after epoch {state.epoch + 1}; try a lower learning rate")
    state.epoch += 1
    state.losses.append(total / samples)


def step_count(job: dict[str, Any]) -> int:
    """Return the steps of one epoch."""
    return math.ceil(int(job["samples"]) / int(job["settings"]["batch_size"]))


def batches(samples: int, steps: int, seed: int, epoch: int) -> Iterator[np.ndarray[Any, Any]]:
    """Split a shuffled epoch into nearly equal batches: every sample once, and no tiny batch at the end."""
    order = np.random.default_rng([seed, epoch]).permutation(samples)
    yield from (np.sort(part) for part in np.array_split(order, steps))


def report(epoch: int, epochs: int, loss: float, done: int, total: int) -> None:
    """Say how far the training is."""
    tell(event="step", what=f"training: epoch {epoch} of {epochs}, loss {loss:.4g}", done=done, total=total)
