"""The models with their data: the kit's, and the demonstration's."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from candidates import MODELS

sys.path.insert(0, str(Path(__file__).parents[1]))
from loading import load_kit

from onnxcompress.demo.data import load_split

DIGITS = Path(__file__).parents[2] / "models" / "digits.onnx"


@dataclass(frozen=True)
class Subject:
    """One model, its calibration samples and its score."""

    folder: Path
    name: str

    @property
    def path(self) -> Path:
        """Where the float model is."""
        return DIGITS if self.name == "digits" else self.folder / "models" / f"{self.name}.onnx"

    def feeds(self) -> list[dict[str, Any]]:
        """Return calibration samples, drawn from a seed."""
        if self.name == "digits":
            every = [{"image": image[None]} for image in load_split("train")[0]]
        else:
            every = load_kit(self.folder).feeds(self.name, "calib")
        return [every[i] for i in np.random.default_rng(0).permutation(len(every))[: MODELS[self.name]]]

    def score(self, session: Any) -> float:
        """Score on the test split what has the ``run(names, feed)`` of an ONNX Runtime session."""
        if self.name != "digits":
            return float(load_kit(self.folder).score(self.name, session))
        images, labels = load_split("test")
        outputs = [session.run(None, {"image": image[None]})[0] for image in images]
        return float((np.concatenate(outputs).argmax(1) == labels).mean())
