"""Start the training interpreter, listen to it, and take its weights back."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ..errors import DataError, TrainingError
from ..progress import Progress, silent
from . import worker
from .objective import LABELS, TEACHER, Objective, build_objective

LOG = "worker.log"
Arrays = Mapping[str, npt.NDArray[Any]]


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
    temperature, hard_weight : float
        ``loss = (1 - hard_weight)·T²·KL(teacher/T || student/T) + hard_weight·CE``.
    seed : int
        Decides the order of the samples.
    """

    epochs: int = 10
    batch_size: int = 32
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 1e-3
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    weight_decay: float = 0.01
    temperature: float = 4.0
    hard_weight: float = 0.5
    seed: int = 0


@dataclass(frozen=True)
class Trained:
    """What came back: weights and running statistics by initializer, and the mean loss of each epoch."""

    weights: dict[str, npt.NDArray[np.float32]]
    losses: list[float]


def train(
    model: ir.Model,
    inputs: Arrays,
    *,
    labels: npt.NDArray[Any] | None,
    teacher: npt.NDArray[np.float32] | None,
    settings: Settings,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
    frozen: Collection[str] = (),
) -> Trained:
    """Train the weights of `model` on samples, starting from those it has.

    The first output is taken for the logits, or the input of the Softmax that produces it. BatchNormalization runs
    with the statistics of the batch, and its running mean and variance follow with its own momentum, as in the
    framework that the model came from. `model` is not changed.

    Parameters
    ----------
    model : onnx_ir.Model
        A classifier with logits of shape [batch, classes].
    inputs : dict of str to numpy.ndarray
        All N samples, for each input of the model.
    labels : numpy.ndarray, optional
        N class numbers. Without them only the teacher counts, whatever `settings.hard_weight` says.
    teacher : numpy.ndarray, optional
        The teacher's logits, [N, classes]. Without them only the labels count.
    settings : Settings
        How to train.
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
    hard = 0.0 if labels is None else 1.0 if teacher is None else settings.hard_weight
    settings = dataclasses.replace(settings, hard_weight=hard)
    objective = build_objective(model, temperature=settings.temperature, hard_weight=hard, frozen=frozen)
    data = _check_data(objective, inputs, labels if hard > 0 else None, teacher if hard < 1 else None)
    initial = _initial_weights(model, objective)
    with tempfile.TemporaryDirectory(prefix="onnxcompress-") as folder, _checkpoint_folder(checkpoint) as kept:
        fingerprint = _fingerprint(objective, data, initial, settings)
        _check_checkpoint(kept, fingerprint)
        _write_job(Path(folder), objective, data, initial, settings, kept, fingerprint)
        _run_worker(Path(folder), kept, settings, progress or silent)
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


def _check_data(
    objective: Objective, inputs: Arrays, labels: npt.NDArray[Any] | None, teacher: npt.NDArray[Any] | None
) -> dict[str, npt.NDArray[Any]]:
    if labels is None and teacher is None:
        raise DataError("training needs labels or a teacher's logits, and there are neither")
    missing = [name for name in objective.inputs if name not in inputs]
    if missing:
        raise DataError(f"the samples lack input '{missing[0]}' of the model")
    data = {name: np.asarray(inputs[name]) for name in objective.inputs}
    if labels is not None:
        if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
            raise DataError(f"labels must be class numbers of shape [samples], not {labels.dtype} {list(labels.shape)}")
        data[LABELS] = labels.astype(np.int64)
    if teacher is not None:
        if teacher.ndim != 2 or not np.isfinite(teacher).all():
            raise DataError(
                f"the teacher's logits must be finite numbers [samples, classes], not {list(teacher.shape)}"
            )
        data[TEACHER] = teacher.astype(np.float32)
    counts = {name: len(array) for name, array in data.items()}
    if len(set(counts.values())) != 1 or 0 in counts.values():
        raise DataError(f"every input needs the same number of samples, and at least one; there are {counts}")
    classes = objective.classes if teacher is None else int(teacher.shape[1])
    if labels is not None and (labels.min() < 0 or (classes is not None and labels.max() >= classes)):
        raise DataError(f"labels go from {labels.min()} to {labels.max()}, but the model has {classes} classes")
    return data


def _initial_weights(model: ir.Model, objective: Objective) -> dict[str, npt.NDArray[np.float32]]:
    initializers = model.graph.initializers
    arrays = {}
    for name in (*objective.weights, *objective.states):
        tensor = initializers[name].const_value
        if tensor is None:
            raise TrainingError(f"initializer '{name}' has no values; load the model with its weights")
        arrays[name] = tensor.numpy().astype(np.float32)
    return arrays


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


def _read_header(kept: Path) -> dict[str, Any] | None:
    path = kept / worker.CHECKPOINT
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as arrays:
            header: dict[str, Any] = json.loads(arrays["header"].tobytes())
            return header
    except (ValueError, KeyError, OSError) as error:
        raise TrainingError(f"{path} is no training checkpoint ({error}); delete it or name another folder") from None


def _check_checkpoint(kept: Path, fingerprint: dict[str, Any]) -> None:
    header = _read_header(kept)
    if header is None:
        return
    other = [key for key, value in fingerprint.items() if header["fingerprint"].get(key) != value]
    if other:
        raise TrainingError(
            f"{kept / worker.CHECKPOINT} belongs to another training ({' and '.join(other)} differ); "
            "delete it or name another folder"
        )


def _write_job(
    folder: Path,
    objective: Objective,
    data: Arrays,
    initial: Arrays,
    settings: Settings,
    kept: Path,
    fingerprint: dict[str, Any],
) -> None:
    files = {name: f"data_{i}.npy" for i, name in enumerate(data)}
    for name, array in data.items():
        np.save(folder / files[name], array, allow_pickle=False)
    flat = np.concatenate([initial[name].ravel() for name in objective.weights])
    running = {f"running_{i}": initial[name] for i, name in enumerate(objective.states)}
    with (folder / "start.npz").open("wb") as file:
        np.savez(file, flat=flat, **running)  # type: ignore[arg-type]
    (folder / "objective.onnx").write_bytes(objective.proto.SerializeToString())
    job = {
        "checkpoint": str(kept.resolve()),
        "data": files,
        "fingerprint": fingerprint,
        "samples": len(next(iter(data.values()))),
        "settings": dataclasses.asdict(settings),
        "shapes": [initial[name].shape for name in objective.weights],
        "states": objective.states,
        "threads": 0,
        "weights": objective.weights,
    }
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")


def find_uv() -> str:
    """Return the path of uv, from its own wheel or from PATH."""
    try:
        import uv

        return str(uv.find_uv_bin())
    except (ImportError, FileNotFoundError):
        found = shutil.which("uv")
    if found is None:
        raise TrainingError(
            'training needs uv to set up its interpreter; get it with: pip install "onnxcompress[train]"'
        )
    return found


def _run_worker(folder: Path, kept: Path, settings: Settings, progress: Progress) -> None:
    command = [find_uv(), "run", "--no-project", "--script", str(Path(worker.__file__).resolve()), str(folder)]
    progress("setting up the training interpreter", 0, 1)
    log = kept / LOG
    with log.open("wb") as errors, _started(command, errors) as process:
        finished = False
        for line in process.stdout or ():
            message = _read_message(line)
            if message.get("event") in ("step", "epoch"):
                what = f"training: epoch {message['epoch']} of {settings.epochs}, loss {message['loss']:.4g}"
                progress(what, message["done"], message["total"])
            finished = message.get("event") == "done"
        code = process.wait()
    if not finished:
        raise TrainingError(_what_happened(code, log, kept))


def _read_message(line: bytes) -> dict[str, Any]:
    try:
        message = json.loads(line)
    except ValueError:
        return {}
    return message if isinstance(message, dict) else {}


def _what_happened(code: int, log: Path, kept: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    said = f": {lines[-1][:300]}" if lines else ""
    header = _read_header(kept)
    if header is None:
        resume = "no epoch was finished"
    else:
        resume = f"a checkpoint of epoch {header['epoch']} is in {kept}; train again with it as checkpoint to go on"
    return f"the training interpreter ended with code {code}{said} (log: {log}); {resume}"


@contextmanager
def _started(command: list[str], errors: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Start the worker in a process group of its own, and leave none of it behind, whatever happens."""
    # What points our interpreter to its packages must not reach the other one.
    hidden = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONSAFEPATH", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        env=environment | {"UV_NO_PROGRESS": "1"},
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End uv and the worker that it started; a worker that this misses ends when its stdin closes."""
    if process.poll() is not None:
        return
    if sys.platform == "win32":
        process.kill()
    else:
        os.killpg(process.pid, signal.SIGKILL)


def _read_result(kept: Path, objective: Objective, initial: Arrays) -> Trained:
    with np.load(kept / worker.CHECKPOINT, allow_pickle=False) as arrays:
        header = json.loads(arrays["header"].tobytes())
        pieces = worker.views(arrays["flat"], [list(initial[name].shape) for name in objective.weights])
        weights = dict(zip(objective.weights, pieces, strict=True))
        weights |= {name: arrays[f"running_{i}"] for i, name in enumerate(objective.states)}
    return Trained(weights, header["losses"])
