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

from ..errors import TrainingError
from ..graph import edit
from ..runtime import provider
from .loss import Arrays
from .objective import Objective
from .store import Store

UNREADABLE = (AttributeError, EOFError, KeyError, OSError, TypeError, ValueError, zipfile.BadZipFile, zlib.error)
"""What reading a file that is missing, damaged or of another kind ends with."""


def read_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Read a whole ``.npz`` file; raises one of `UNREADABLE`."""
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)


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


def write_job(folder: Path, objective: Objective, store: Store, initial: Arrays, job: Mapping[str, Any]) -> None:
    """Write what the worker reads; `job` holds what only one kind of job needs."""
    flat = np.concatenate([initial[name].ravel() for name in objective.weights])
    running = {f"running_{i}": initial[name] for i, name in enumerate(objective.states)}
    with (folder / "start.npz").open("wb") as file:
        np.savez(file, flat=flat, **running)  # type: ignore[arg-type]
    (folder / "objective.onnx").write_bytes(objective.proto.SerializeToString())
    common = {
        "buckets": store.write(),
        "custom_ops": [str(Path(library).resolve()) for library in provider.running().custom_ops],
        "inputs": objective.inputs,
        "shapes": [initial[name].shape for name in objective.weights],
        "states": objective.states,
        "threads": 0,
        "weights": objective.weights,
    }
    (folder / "job.json").write_text(json.dumps(common | dict(job)), encoding="utf-8")
