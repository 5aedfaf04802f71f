"""All that changes during training, and the file that it is kept in."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .flat import views

CHECKPOINT = "checkpoint.npz"
KEPT = ("epoch", "losses", "curve", "best", "rate", "tried", "stopped", "settled")
"""What of the state stands in the header of a checkpoint."""


class State:
    """All that changes during training; the weights are views of one flat vector.

    Attributes
    ----------
    epoch : int
        How many are behind.
    losses : list of float
        The mean loss of each on the samples that train.
    curve : list of (float, float)
        Loss and score on those that are held out: before the first epoch, and after each.
    best : int
        The epoch whose weights are the best so far; 0 before the first.
    rate, tried : float or None, list of (float, float)
        The learning rate once it is known; what was tried to find it, with the loss that each ended with.
    stopped : str
        Why training ended before its time.
    settled : int
        The last epoch in which it was still being pruned.
    """

    def __init__(self, job: dict[str, Any], arrays: dict[str, Any], header: Mapping[str, Any]) -> None:
        self._job = job
        self.flat, self.first, self.second = arrays["flat"], arrays["first"], arrays["second"]
        self.weights = dict(zip(job["weights"], views(self.flat, job["shapes"]), strict=True))
        self.running = {name: arrays[f"running_{i}"] for i, name in enumerate(job["states"])}
        self.kept = {key: value for key, value in arrays.items() if key.startswith("best_")}
        self.hooks = {key: value for key, value in arrays.items() if key.startswith("hook_")}
        self.epoch: int = header.get("epoch", 0)
        self.losses: list[float] = header.get("losses", [])
        self.curve: list[list[float]] = header.get("curve", [])
        self.best: int = header.get("best", 0)
        self.rate: float | None = header.get("rate")
        self.tried: list[list[float]] = header.get("tried", [])
        self.stopped: str = header.get("stopped", "")
        self.settled: int = header.get("settled", 0)

    @classmethod
    def begin(cls, job: dict[str, Any], folder: Path) -> State:
        """Take up the last checkpoint, or the weights that the model came with where there is none."""
        return cls.load(job) if (Path(job["checkpoint"]) / CHECKPOINT).exists() else cls.start(job, folder)

    @classmethod
    def start(cls, job: dict[str, Any], folder: Path) -> State:
        """Take the weights that the model came with."""
        arrays: dict[str, Any] = dict(np.load(folder / "start.npz"))
        return cls(job, arrays | {name: np.zeros_like(arrays["flat"]) for name in ("first", "second")}, {})

    @classmethod
    def load(cls, job: dict[str, Any]) -> State:
        """Take up the last checkpoint."""
        arrays: dict[str, Any] = dict(np.load(Path(job["checkpoint"]) / CHECKPOINT))
        return cls(job, arrays, json.loads(arrays.pop("header").tobytes()))

    def keep(self) -> None:
        """Remember the weights as they are as the best so far."""
        self.best = self.epoch
        self.kept = {"best_flat": self.flat.copy()}
        self.kept |= {f"best_running_{i}": value for i, value in enumerate(self.running.values())}

    def save(self) -> None:
        """Write a checkpoint beside the last one and put it in its place, so that there is always a whole one."""
        header = {"fingerprint": self._job["fingerprint"]} | {name: getattr(self, name) for name in KEPT}
        arrays = {f"running_{i}": value for i, value in enumerate(self.running.values())} | self.kept | self.hooks
        arrays["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
        part = Path(self._job["checkpoint"]) / (CHECKPOINT + ".part")
        with part.open("wb") as file:
            np.savez(file, flat=self.flat, first=self.first, second=self.second, **arrays)
            file.flush()
            os.fsync(file.fileno())
        part.replace(part.with_name(CHECKPOINT))
