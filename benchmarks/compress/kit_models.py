"""Models with the samples a user would give, and the score on samples that nothing has seen."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime as ort

sys.path.insert(0, str(Path(__file__).parents[1]))
from loading import load_kit

from onnxcompress import compare

LABELLED = ("resnet20_cifar10", "resnet56_cifar10", "vit_cifar10", "mobilenet_v1_025_imagenet", "ppocr_cls")
UNLABELLED = ("minilm_l6_v2", "ppocr_rec")
SENTENCES = 2000
"""Sentences given; the kit has five times as many."""


@dataclass(frozen=True)
class Photos:
    """How a detector wants photographs: width, height, mean, deviation, channels reversed."""

    size: tuple[int, int]
    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]
    reverse: bool


DETECTORS = {
    "nanodet_m_320": Photos((320, 320), (103.53, 116.28, 123.675), (57.375, 57.12, 58.395), reverse=True),
    "ultraface_rfb320": Photos((320, 240), (127.0, 127.0, 127.0), (128.0, 128.0, 128.0), reverse=False),
}
MODELS = (*LABELLED, *UNLABELLED, *DETECTORS)


@dataclass(frozen=True)
class Subject:
    """A model of the kit."""

    name: str
    folder: Path

    @property
    def path(self) -> Path:
        """The original's file."""
        return self.folder / "models" / f"{self.name}.onnx"

    @cached_property
    def kit(self) -> ModuleType:
        """The kit's own module."""
        return load_kit(self.folder)

    def feeds(self, split: str) -> list[dict[str, Any]]:
        """Return samples of one split, one feed each."""
        if self.name in DETECTORS:
            name = ort.InferenceSession(self.path, providers=["CPUExecutionProvider"]).get_inputs()[0].name
            return [{name: image} for image in _photos(self.folder, split, DETECTORS[self.name])]
        feeds: list[dict[str, Any]] = self.kit.feeds(self.name, split)
        return feeds[:SENTENCES] if split == "calib" else feeds

    def labels(self) -> Any:
        """Return the labels of the samples that are given; None where there are none."""
        return self.kit.labels(self.name, "calib") if self.name in LABELLED else None

    def score(self, model: Path) -> float:
        """Return the kit's score on the test split; of a detector the default metric beside the original."""
        if self.name in DETECTORS:
            return float(compare(self.path, model, self.feeds("test")[:200]).value_b)
        options = ort.SessionOptions()
        options.log_severity_level = 3
        session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        return float(self.kit.score(self.name, session))


def _photos(folder: Path, split: str, wanted: Photos) -> list[Any]:
    from PIL import Image

    found = []
    for file in sorted((folder / "data" / "imagenet" / split).glob("*")):
        pixels = np.asarray(Image.open(file).convert("RGB").resize(wanted.size), np.float32)
        pixels = pixels[..., ::-1] if wanted.reverse else pixels
        image = (pixels - np.float32(wanted.mean)) / np.float32(wanted.deviation)
        found.append(image.transpose(2, 0, 1)[None])
    return found
