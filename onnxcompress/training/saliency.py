"""What each channel of each weight contributes to the loss, by its gradients."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ..errors import TrainingError
from ..progress import Progress, silent
from ..samples.samples import load_samples
from ..scratch import temporary_folder
from .engines import Engine
from .held_out import hold_out
from .job import UNREADABLE, initial_weights, read_arrays, write_job
from .loss import Arrays, CrossEntropy
from .objective import Objective, build_objective, trainable_weights
from .process import LOG, choose_engine, run_worker
from .sort import Sorted, sort_samples
from .store import Store

WeightAxis = tuple[str, int]
"""A weight's name and one of its axes."""


@dataclass(frozen=True)
class Saliency:
    """By how much the loss changes, to first and to second order, when one position of an axis of a weight is zeroed.

    Attributes
    ----------
    first : dict
        (weight, axis) → the mean over samples of ``|sum(w·g)|``, one for each position of the axis. Molchanov et al.,
        arXiv:1611.06440.
    second : dict
        (weight, axis) → the mean over samples of ``sum((w·g)²) / 2``: the diagonal of the empirical Fisher matrix in
        place of the Hessian's. LeCun et al., "Optimal Brain Damage" (1989); Theis et al., arXiv:1801.05787.
    stopped : dict of str to str
        Weights without an answer, with the reason.
    """

    first: dict[WeightAxis, npt.NDArray[np.float64]]
    second: dict[WeightAxis, npt.NDArray[np.float64]]
    stopped: dict[str, str]


def measure_saliency(
    model: ir.Model,
    inputs: Arrays,
    labels: npt.NDArray[Any],
    weights: Collection[str],
    *,
    progress: Progress | None = None,
) -> Saliency:
    """Differentiate the cross-entropy with the labels, sample by sample, in the training interpreter.

    BatchNormalization runs with its own statistics, as it does when the model is used.

    Parameters
    ----------
    model : onnx_ir.Model
        A classifier with logits of shape [batch, classes], [batch, positions, classes] or, of images, [batch, classes,
        height, width]; not changed.
    inputs : dict of str to numpy.ndarray
        All N samples, for each input of the model.
    labels : numpy.ndarray
        N class numbers, or as many for each position.
    weights : collection of str
        The initializers that are asked about.
    progress : callable, optional
        Called as ``progress(what, done, total)``.

    Raises
    ------
    TrainingError
        The model is no classifier, no gradient reaches any of the weights, or the interpreter died.
    DataError
        The samples do not fit the model.
    """
    engine, _ = choose_engine("auto", progress or silent)
    found = trainable_weights(model, inputs, engine=engine)
    frozen = {*found.stopped, *(name for name in found.free if name not in weights)}
    loss = CrossEntropy(labels, axis=class_axis(labels.ndim + 1))
    objective = build_objective(model, loss, frozen=frozen, evaluate=True, samples=inputs, engine=engine)
    sorted_ = sort_samples(load_samples(dict(inputs), model))
    initial = initial_weights(model, objective)
    arrays = _run(objective, sorted_, loss.targets(objective.shapes), initial, progress or silent, engine)
    axes = {
        f"{number}_{axis}": (weight, axis)
        for number, weight in enumerate(objective.weights)
        for axis in range(initial[weight].ndim)
    }
    first, second = ({place: arrays[f"{order}_{k}"] for k, place in axes.items()} for order in ("first", "second"))
    broken = next((key[0] for key in first if not np.isfinite([first[key], second[key]]).all()), None)
    if broken is not None:
        raise TrainingError(f"the gradient of the loss by '{broken}' is not finite; the samples may be out of range")
    reason = "it is no float32 constant that gradients reach"
    stopped = {w: found.stopped.get(w, reason) for w in weights if w not in objective.weights}
    return Saliency(first, second, stopped)


def class_axis(rank: int) -> int:
    """Return the axis of classes in logits of so many axes."""
    return 1 if rank > 3 else rank - 1


def _run(
    objective: Objective, found: Sorted, targets: Arrays, initial: Arrays, progress: Progress, engine: Engine
) -> Arrays:
    """Let the training interpreter measure; returns what `loop.saliency` writes."""
    try:
        with temporary_folder() as folder:
            result = folder / "result.npz"
            with contextlib.closing(Store(folder, found, *hold_out(found.count, 0, 0))) as store:
                store.add(targets)
                write_job(folder, objective, store, initial, {"kind": "measure", "result": str(result)})
            failed = run_worker(folder, folder / LOG, progress, engine).failed
            if failed:
                raise TrainingError(failed)
            try:
                return read_arrays(result)
            except UNREADABLE as error:
                raise TrainingError(f"the training interpreter ended without a result: {error}") from None
    except OSError as error:
        raise TrainingError(f"cannot write the training's files: {error}") from None
