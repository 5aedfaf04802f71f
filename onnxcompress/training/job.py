"""What the training interpreter gets to do: a graph with a loss, samples, weights, in a folder."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ..errors import DataError, TrainingError
from ..graph import edit
from .loss import Arrays, Loss
from .objective import Objective

UNREADABLE = (AttributeError, EOFError, KeyError, OSError, TypeError, ValueError, zipfile.BadZipFile, zlib.error)
"""What reading a file that is missing, damaged or of another kind ends with."""


def read_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Read a whole ``.npz`` file; raises one of `UNREADABLE`."""
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)


def check_data(
    objective: Objective, inputs: Arrays, loss: Loss, teacher: Arrays | None = None
) -> dict[str, npt.NDArray[Any]]:
    """Return what the objective is fed with, or raise `DataError` where the samples do not fit it."""
    missing = [name for name in objective.inputs if name not in inputs]
    if missing:
        raise DataError(f"the samples lack input '{missing[0]}' of the model")
    taught = teacher or {}
    data = {name: np.asarray(inputs[name]) for name in objective.inputs} | loss.targets(objective.shapes)
    data |= {name: np.asarray(taught[name]) for name in loss.teacher}
    broken = next((name for name in loss.teacher if not np.isfinite(data[name]).all()), None)
    if broken is not None:
        tensor = loss.teacher[broken] or "logits"
        raise DataError(f"the teacher's '{tensor}' is not finite for these samples")
    counts = {name: len(array) for name, array in data.items()}
    if len(set(counts.values())) != 1 or 0 in counts.values():
        raise DataError(f"every input needs the same number of samples, and at least one; there are {counts}")
    return data


def initial_weights(model: ir.Model, objective: Objective) -> dict[str, npt.NDArray[np.float32]]:
    """Return the values of the objective's weights and running statistics."""
    holders = edit.stored(model.graph)
    arrays = dict(objective.parameters)
    for name in (*objective.weights, *objective.states):
        if name in arrays:
            continue
        tensor = edit.stored_in(holders.get(name))
        if tensor is None:
            raise TrainingError(f"weight '{name}' has no values; load the model with its weights")
        arrays[name] = tensor.numpy().astype(np.float32)
    return arrays


def write_job(folder: Path, objective: Objective, data: Arrays, initial: Arrays, job: Mapping[str, Any]) -> None:
    """Write what `worker` reads; `job` holds what only one kind of job needs."""
    files = {name: f"data_{i}.npy" for i, name in enumerate(data)}
    for name, array in data.items():
        np.save(folder / files[name], array, allow_pickle=False)
    flat = np.concatenate([initial[name].ravel() for name in objective.weights])
    running = {f"running_{i}": initial[name] for i, name in enumerate(objective.states)}
    with (folder / "start.npz").open("wb") as file:
        np.savez(file, flat=flat, **running)  # type: ignore[arg-type]
    (folder / "objective.onnx").write_bytes(objective.proto.SerializeToString())
    common = {
        "data": files,
        "samples": len(next(iter(data.values()))),
        "shapes": [initial[name].shape for name in objective.weights],
        "states": objective.states,
        "threads": 0,
        "weights": objective.weights,
    }
    (folder / "job.json").write_text(json.dumps(common | dict(job)), encoding="utf-8")
