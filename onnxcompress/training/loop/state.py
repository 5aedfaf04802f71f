"""All that changes during training, and the file that it is kept in."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from .flat import views

CHECKPOINT = "checkpoint.npz"


class State:
    """All that changes during training; the weights are views of one flat vector."""

    def __init__(self, job: dict[str, Any], arrays: dict[str, Any], epoch: int, losses: list[float]) -> None:
        self.flat, self.first, self.second = arrays["flat"], arrays["first"], arrays["second"]
        self.epoch, self.losses = epoch, losses
        self.weights = dict(zip(job["weights"], views(self.flat, job["shapes"]), strict=True))
        self.running = {name: arrays[f"running_{i}"] for i, name in enumerate(job["states"])}

    @classmethod
    def begin(cls, job: dict[str, Any], folder: Path) -> State:
        """Take up the last checkpoint, or the weights that the model came with where there is none."""
        return cls.load(job) if (Path(job["checkpoint"]) / CHECKPOINT).exists() else cls.start(job, folder)

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
