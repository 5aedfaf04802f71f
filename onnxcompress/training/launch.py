"""Train in the other interpreter: write the job, let it run, take its weights back."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ..errors import TrainingError
from ..progress import Progress, silent
from ..scratch import temporary_folder
from .job import UNREADABLE, check_data, initial_weights, read_arrays, write_job
from .loop.flat import views
from .loop.state import CHECKPOINT
from .loss import Arrays, Loss
from .masks import masked_weights
from .objective import Objective, build_objective
from .process import LOG, run_worker


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to train.

    Attributes
    ----------
    epochs, batch_size : int
        Passes over the samples, and samples per step (an epoch is split into nearly equal batches of at most that).
    optimizer : {"adamw", "sgd"}
        SGD has momentum 0.9.
    learning_rate, schedule : float, {"constant", "linear", "cosine"}
        The rate of the first step, and how it falls to zero.
    weight_decay : float
        Applied to weights of two or more dimensions: not to biases nor to normalisation.
    keep_masks : bool
        Weights that are zero stay zero (`masked_weights` tells which count).
    seed : int
        Decides the order of the samples.
    """

    epochs: int = 10
    batch_size: int = 32
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 1e-3
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    weight_decay: float = 0.01
    keep_masks: bool = True
    seed: int = 0


@dataclass(frozen=True)
class Trained:
    """What came back: weights and running statistics by initializer, and the mean loss of each epoch."""

    weights: dict[str, npt.NDArray[np.float32]]
    losses: list[float]


def train(
    model: ir.Model,
    inputs: Arrays,
    loss: Loss,
    *,
    settings: Settings,
    teacher: Arrays | None = None,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
    frozen: Collection[str] = (),
) -> Trained:
    """Train the weights of `model` on samples, starting from those it has.

    BatchNormalization runs with the statistics of the batch, and its running mean and variance follow with its own
    momentum, as in the framework that the model came from. `model` is not changed.

    Parameters
    ----------
    model : onnx_ir.Model
        With float32 weights.
    inputs : dict of str to numpy.ndarray
        All N samples, for each input of the model.
    loss : Loss
        What is minimised, with its targets for all N samples.
    settings : Settings
        How to train.
    teacher : dict of str to numpy.ndarray, optional
        What `teacher_arrays` gives for the loss, where it has a teacher.
    checkpoint : pathlib.Path, optional
        A folder that gets a checkpoint after each epoch. If it holds one of the same training, it is taken up there
        and ends in the same weights.
    progress : callable, optional
        Called as ``progress(what, done, total)``; counts steps.
    frozen : collection of str
        Initializers to leave as they are.

    Raises
    ------
    TrainingError
        A node has no gradient (it is named), the interpreter cannot start, or it died; the message says where the
        checkpoint is.
    DataError
        The samples do not fit the model.
    """
    objective = build_objective(model, loss, frozen=frozen, samples=inputs)
    data = check_data(objective, inputs, loss, teacher)
    initial = initial_weights(model, objective)
    own = [name for name in objective.weights if name not in objective.parameters]
    masked = masked_weights(model, own) if settings.keep_masks else []
    return _run(objective, data, initial, masked, settings, checkpoint, progress or silent)


def _run(
    objective: Objective,
    data: Arrays,
    initial: Arrays,
    masked: list[str],
    settings: Settings,
    checkpoint: Path | None,
    progress: Progress,
) -> Trained:
    """Let the training interpreter train, from a checkpoint of the same training if there is one."""
    with temporary_folder() as folder, _checkpoint_folder(checkpoint) as kept:
        fingerprint = _fingerprint(objective, data, initial, settings)
        _check_checkpoint(kept, fingerprint)
        job = {"checkpoint": str(kept.resolve()), "fingerprint": fingerprint, "masked": masked}
        job["settings"] = dataclasses.asdict(settings)
        write_job(folder, objective, data, initial, job)
        failed = run_worker(folder, kept / LOG, progress)
        if failed:
            raise TrainingError(f"{failed} (log: {kept / LOG}); {_how_to_resume(kept)}")
        return _read_result(kept, objective, initial)


@contextmanager
def _checkpoint_folder(given: Path | None) -> Iterator[Path]:
    """Give the folder for checkpoint and log; one of our own goes away again unless a failed worker wrote a log."""
    keep = given is not None
    try:
        folder = given or Path(tempfile.mkdtemp(prefix="onnxcompress-training-"))
        folder.mkdir(parents=True, exist_ok=True)
        try:
            yield folder
        except TrainingError:
            keep = keep or (folder / LOG).exists()
            raise
        finally:
            if not keep:
                shutil.rmtree(folder)
    except OSError as error:
        raise TrainingError(f"cannot write the training's files: {error}") from None


def _fingerprint(objective: Objective, data: Arrays, initial: Arrays, settings: Settings) -> dict[str, Any]:
    """What must be the same for a checkpoint to be taken up."""
    return {
        "graph": hashlib.blake2b(objective.proto.SerializeToString(deterministic=True), digest_size=16).hexdigest(),
        "initial weights": _hash(initial),
        "samples": _hash(data),
        "settings": dataclasses.asdict(settings),
    }


def _hash(arrays: Arrays) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name, array in arrays.items():
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data.cast("B") if array.size else b"")
    return digest.hexdigest()


def _read_checkpoint(kept: Path) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]] | None:
    """Return the header and the arrays of the checkpoint in a folder, or None where there is none."""
    path = kept / CHECKPOINT
    if not path.exists():
        return None
    try:
        arrays = read_arrays(path)
        header: dict[str, Any] = json.loads(arrays.pop("header").tobytes())
        return {key: header[key] for key in ("epoch", "fingerprint", "losses")}, arrays
    except UNREADABLE as error:
        raise TrainingError(f"{path} is no training checkpoint ({error}); delete it or name another folder") from None


def _how_to_resume(kept: Path) -> str:
    checkpoint = _read_checkpoint(kept)
    if checkpoint is None:
        return "no epoch was finished"
    return f"a checkpoint of epoch {checkpoint[0]['epoch']} is in {kept}; train again with it as checkpoint to go on"


def _check_checkpoint(kept: Path, fingerprint: dict[str, Any]) -> None:
    checkpoint = _read_checkpoint(kept)
    if checkpoint is None:
        return
    other = [key for key, value in fingerprint.items() if checkpoint[0]["fingerprint"].get(key) != value]
    if other:
        raise TrainingError(
            f"{kept / CHECKPOINT} belongs to another training ({' and '.join(other)} differ); "
            "delete it or name another folder"
        )


def _read_result(kept: Path, objective: Objective, initial: Arrays) -> Trained:
    checkpoint = _read_checkpoint(kept)
    if checkpoint is None:
        raise TrainingError(f"the training interpreter ended without a result (log: {kept / LOG})")
    header, arrays = checkpoint
    pieces = views(arrays["flat"], [list(initial[name].shape) for name in objective.weights])
    weights = dict(zip(objective.weights, pieces, strict=True))
    for name in objective.parameters:
        del weights[name]
    weights |= {name: arrays[f"running_{i}"] for i, name in enumerate(objective.states)}
    broken = next((name for name, array in weights.items() if not np.isfinite(array).all()), None)
    if broken is not None:
        raise TrainingError(f"training ended with '{broken}' not finite; try a lower learning rate")
    return Trained(weights, header["losses"])
