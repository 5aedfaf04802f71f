# /// script
# requires-python = ">=3.10,<3.13"
# dependencies = ["onnxruntime-training-cpu==1.19.2", "onnx==1.16.2", "numpy"]
# ///
"""Train one model; runs in an interpreter of its own, which uv makes from the lines above.

``worker.py FOLDER`` reads ``job.json``, ``objective.onnx`` and the arrays beside them, and tells its story on stdout,
one JSON object a line. onnxruntime builds the graph of the gradients and runs it; the optimizer is a dozen lines of
numpy on one flat vector, so that all there is to remember between two epochs fits in one plain ``.npz`` file.
Nothing here imports onnxcompress: it is not installed in this interpreter.
"""

from __future__ import annotations

import json
import math
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

CHECKPOINT = "checkpoint.npz"
LOSS = "onnxcompress.loss"
MOMENTUM = 0.9
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8
SECONDS_BETWEEN_REPORTS = 0.2


def main(folder: Path) -> None:
    """Do the job that `folder` describes."""
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    (measure if "result" in job else train)(job, folder)
    tell(event="done")


def train(job: dict[str, Any], folder: Path) -> None:
    """Train from the last checkpoint if there is one."""
    state = State.load(job) if (Path(job["checkpoint"]) / CHECKPOINT).exists() else State.start(job, folder)
    data = {name: np.load(folder / file, mmap_mode="r") for name, file in job["data"].items()}
    session = open_gradients(folder / "objective.onnx", job["weights"], job["threads"])
    masked = find_masked(job, folder)
    tell(event="ready", epoch=state.epoch)
    while state.epoch < job["settings"]["epochs"]:
        run_epoch(job, state, session, data, masked)
        state.save(job)
        epochs, steps = job["settings"]["epochs"], step_count(job)
        report(state.epoch, epochs, state.losses[-1], state.epoch * steps, epochs * steps)


class State:
    """All that changes during training; the weights are views of one flat vector."""

    def __init__(self, job: dict[str, Any], arrays: dict[str, Any], epoch: int, losses: list[float]) -> None:
        self.flat, self.first, self.second = arrays["flat"], arrays["first"], arrays["second"]
        self.epoch, self.losses = epoch, losses
        self.weights = dict(zip(job["weights"], views(self.flat, job["shapes"]), strict=True))
        self.running = {name: arrays[f"running_{i}"] for i, name in enumerate(job["states"])}

    @classmethod
    def start(cls, job: dict[str, Any], folder: Path) -> State:
        """Take the weights that the model came with."""
        arrays: dict[str, Any] = dict(np.load(folder / "start.npz"))
        return cls(job, arrays | {name: np.zeros_like(arrays["flat"]) for name in ("first", "second")}, 0, [])

    @classmethod
    def load(cls, job: dict[str, Any]) -> State:
        """Take up the last checkpoint."""
        arrays: dict[str, Any] = dict(np.load(Path(job["checkpoint"]) / CHECKPOINT))
        header = json.loads(arrays["header"].tobytes())
        return cls(job, arrays, header["epoch"], header["losses"])

    def save(self, job: dict[str, Any]) -> None:
        """Write a checkpoint beside the last one and put it in its place, so that there is always a whole one."""
        header = {"fingerprint": job["fingerprint"], "epoch": self.epoch, "losses": self.losses}
        arrays = {f"running_{i}": value for i, value in enumerate(self.running.values())}
        arrays["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
        part = Path(job["checkpoint"]) / (CHECKPOINT + ".part")
        with part.open("wb") as file:
            np.savez(file, flat=self.flat, first=self.first, second=self.second, **arrays)
            file.flush()
            os.fsync(file.fileno())
        part.replace(part.with_name(CHECKPOINT))


def run_epoch(job: dict[str, Any], state: State, session: Any, data: dict[str, Any], masked: Any) -> None:
    """Go through all samples once, in an order that seed and epoch alone decide; what is `masked` stays as it is."""
    settings, samples = job["settings"], job["samples"]
    decay = np.concatenate([np.full(math.prod(s), float(len(s) > 1), np.float32) for s in job["shapes"]])
    decay *= np.float32(settings["weight_decay"])
    steps = step_count(job)
    names = [LOSS, *job["states"].values(), *(f"{name}_grad" for name in job["weights"])]
    total, reported = 0.0, time.monotonic()
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
        # Without a gradient neither the moments nor the weight decay move a weight that is zero.
        gradient[masked] = 0
        if not np.isfinite(gradient).all():
            broken = zip(job["weights"], views(gradient, job["shapes"]), strict=True)
            name = next(name for name, part in broken if not np.isfinite(part).all())
            raise FloatingPointError(f"the gradient of '{name}' is not finite at step {done + 1} of {of}")
        rate = settings["learning_rate"] * rate_factor(settings["schedule"], done / of)
        update(settings["optimizer"], state, gradient, rate, decay, done + 1)
        if time.monotonic() - reported > SECONDS_BETWEEN_REPORTS:
            reported = time.monotonic()
            report(state.epoch + 1, settings["epochs"], loss, done + 1, of)
    if not all(np.isfinite(array).all() for array in (state.flat, *state.running.values())):
        raise FloatingPointError(f"weights are not finite after epoch {state.epoch + 1}; try a lower learning rate")
    state.epoch += 1
    state.losses.append(total / samples)


def find_masked(job: dict[str, Any], folder: Path) -> Any:
    """Return, for each element of all weights, whether it is zero in the model that came, in a weight with a mask."""
    masked = np.load(folder / "start.npz")["flat"] == 0
    for name, part in zip(job["weights"], views(masked, job["shapes"]), strict=True):
        part &= name in job["masked"]
    return masked


def measure(job: dict[str, Any], folder: Path) -> None:
    """Sum up, sample by sample, what each position of each axis of each weight contributes to the loss.

    Writes ``first_K_A``, the mean over samples of ``|sum(w·g)|``, and ``second_K_A``, the mean of ``sum((w·g)²) / 2``,
    for axis A of weight K; sums go over the other axes.
    """
    start = np.load(folder / "start.npz")
    weights = dict(zip(job["weights"], views(start["flat"], job["shapes"]), strict=True))
    data = {name: np.load(folder / file, mmap_mode="r") for name, file in job["data"].items()}
    session = open_gradients(folder / "objective.onnx", job["weights"], job["threads"])
    sums: dict[str, Any] = {}
    reported = time.monotonic()
    for sample in range(job["samples"]):
        feeds = {name: np.ascontiguousarray(array[sample : sample + 1]) for name, array in data.items()}
        gradients = session.run([f"{name}_grad" for name in weights], feeds | weights)
        for number, (weight, gradient) in enumerate(zip(weights.values(), gradients, strict=True)):
            product = (weight * gradient).astype(np.float64)
            for axis in range(product.ndim):
                others = tuple(a for a in range(product.ndim) if a != axis)
                for key, part in (("first", np.abs(product.sum(others))), ("second", (product**2).sum(others) / 2)):
                    name = f"{key}_{number}_{axis}"
                    sums[name] = part if sample == 0 else sums[name] + part
        if time.monotonic() - reported > SECONDS_BETWEEN_REPORTS:
            reported = time.monotonic()
            tell(event="step", what="gradients", done=sample + 1, total=job["samples"])
    with Path(job["result"]).open("wb") as file:
        np.savez(file, **{name: array / job["samples"] for name, array in sums.items()})


def step_count(job: dict[str, Any]) -> int:
    """Return the steps of one epoch."""
    return math.ceil(int(job["samples"]) / int(job["settings"]["batch_size"]))


def batches(samples: int, steps: int, seed: int, epoch: int) -> Iterator[np.ndarray[Any, Any]]:
    """Split a shuffled epoch into nearly equal batches: every sample once, and no tiny batch at the end."""
    order = np.random.default_rng([seed, epoch]).permutation(samples)
    yield from (np.sort(part) for part in np.array_split(order, steps))


def rate_factor(schedule: str, progress: float) -> float:
    """Return what the learning rate is multiplied with at `progress`, from 0 at the first step towards 1."""
    if schedule == "linear":
        return 1 - progress
    if schedule == "cosine":
        return (1 + math.cos(math.pi * progress)) / 2
    return 1.0


def update(optimizer: str, state: State, gradient: Any, rate: float, decay: Any, step: int) -> None:
    """Take one step, in place. AdamW: Loshchilov and Hutter 2019; SGD: momentum 0.9, decay added to the gradient."""
    if optimizer == "sgd":
        gradient += decay * state.flat
        state.first *= np.float32(MOMENTUM)
        state.first += gradient
        state.flat -= np.float32(rate) * state.first
        return
    state.first *= np.float32(BETA_1)
    state.first += np.float32(1 - BETA_1) * gradient
    state.second *= np.float32(BETA_2)
    state.second += np.float32(1 - BETA_2) * np.square(gradient)
    scale = np.sqrt(state.second / np.float32(1 - BETA_2**step)) + np.float32(EPSILON)
    state.flat *= 1 - np.float32(rate) * decay
    state.flat -= np.float32(rate / (1 - BETA_1**step)) * state.first / scale


def views(flat: Any, shapes: list[list[int]]) -> list[Any]:
    """Return arrays of `shapes` that share the memory of `flat`."""
    ends = np.cumsum([math.prod(shape) for shape in shapes])[:-1]
    return [part.reshape(shape) for part, shape in zip(np.split(flat, ends), shapes, strict=True)]


def open_gradients(path: Path, weights: list[str], threads: int) -> Any:
    """Return a session that gives the loss and its gradient with respect to each weight."""
    import onnxruntime
    from onnxruntime.capi._pybind_state import GradientGraphBuilder, get_optimized_model

    onnxruntime.set_default_logger_severity(3)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.use_deterministic_compute = True
    wanted = set(weights)
    optimized = get_optimized_model(path.read_bytes(), wanted, options)
    builder = GradientGraphBuilder(optimized, {LOSS}, wanted, LOSS, options)
    builder.build()
    return onnxruntime.InferenceSession(builder.get_model(), options, providers=["CPUExecutionProvider"])


def report(epoch: int, epochs: int, loss: float, done: int, total: int) -> None:
    """Say how far the training is."""
    tell(event="step", what=f"training: epoch {epoch} of {epochs}, loss {loss:.4g}", done=done, total=total)


def tell(**message: Any) -> None:
    """Write one line of JSON to the parent."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def _leave_with_parent() -> None:
    """End when the parent closes our stdin or is gone: nobody is left to read the result."""
    # Not sys.stdin.read(): it would hold a lock that the interpreter wants when it shuts down.
    while os.read(0, 1):
        pass
    os._exit(3)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
