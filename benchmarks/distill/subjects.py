"""Real models to train: their data, their scores, and students of half the multiply-accumulates."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

sys.path.insert(0, str(Path(__file__).parents[1]))
from loading import load_kit

from onnxcompress import apply
from onnxcompress.passes import FoldBatchNorm, FoldConstants, PruneChannels, Shrink

IMAGENET = np.float32([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])
CIFAR = np.float32([[0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]])
NORMALISED = {"resnet20_cifar10": IMAGENET, "resnet56_cifar10": IMAGENET, "vit_cifar10": CIFAR}
"""Mean and deviation that the CIFAR-10 models' images are normalised with."""

Samples = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Subject:
    """A model of the kit; files made of it are kept in a folder."""

    name: str
    kit: ModuleType
    folder: Path
    kept: Path

    @classmethod
    def of(cls, kit_folder: Path, name: str, kept: Path) -> Subject:
        """Open the kit."""
        kept.mkdir(parents=True, exist_ok=True)
        return cls(name, load_kit(kit_folder), kit_folder, kept)

    @property
    def path(self) -> Path:
        """The original's file."""
        return self.folder / "models" / f"{self.name}.onnx"

    @cached_property
    def calibration(self) -> Samples | list[Samples]:
        """The unlabelled samples; a list where they differ in length."""
        feeds: list[Samples] = self.kit.feeds(self.name, "calib")
        if len({tuple(array.shape for array in feed.values()) for feed in feeds}) > 1:
            return feeds
        return {key: np.concatenate([feed[key] for feed in feeds]) for key in feeds[0]}

    def samples(self, more: int = 0) -> Samples | list[Samples]:
        """Return the unlabelled samples, with `more` further CIFAR-10 training images."""
        if not more:
            return self.calibration
        images, _ = self.more(more)
        (key, own), *_ = self.calibration.items()  # type: ignore[union-attr]
        return {key: np.concatenate([own, images])}

    def more(self, count: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Return further training images, normalised as the model wants them, and their labels."""
        images, labels = self.kit.more_cifar(count)
        mean, deviation = NORMALISED[self.name]
        scaled = (images.astype(np.float32) / 255 - mean) / deviation
        return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2)), labels.astype(np.int64)

    def score(self, path: Path) -> float:
        """Score a file on the held-out test data, through plain ONNX Runtime."""
        options = ort.SessionOptions()
        options.log_severity_level = 3
        return float(
            self.kit.score(self.name, ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]))
        )

    def half(self, count: int = 512) -> Path:
        """Return the model without half of its multiply-accumulates, fitted to unlabelled samples, not trained."""
        target = self.kept / f"{self.name}-half.onnx"
        if not target.exists():
            prune = PruneChannels(
                sparsity=0.5, budget="macs", ranking="global", importance="reconstruction", compensate=True
            )
            apply(self.path, [FoldConstants(), FoldBatchNorm(), prune, Shrink()], data=self.few(count), output=target)
        return target

    def few(self, count: int) -> Samples | list[Samples]:
        """Draw some of the unlabelled samples."""
        own = self.calibration
        total = len(own) if isinstance(own, list) else len(next(iter(own.values())))
        picked = np.random.default_rng(0).permutation(total)[:count]
        return [own[i] for i in picked] if isinstance(own, list) else {key: array[picked] for key, array in own.items()}
