"""Judge what a candidate wrote, in a process of its own: it may not load, or may crash.

python judge.py samples KIT NAME SAMPLES.npz
python judge.py score KIT NAME MODEL.onnx RESULT.json
python judge.py latency KIT NAME RESULT.json SECONDS FLOAT.onnx MODEL.onnx ...
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from candidates import EMBEDDINGS
from kernels import count_kernels
from subjects import Subject

from onnxcompress.evaluation.fidelity import Fidelity
from onnxcompress.evaluation.timing import time_models


def session_of(path: str | Path) -> ort.InferenceSession:
    """Open a model in plain ONNX Runtime."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class BesideFloat:
    """Runs a candidate for the kit's score, and the float model beside it."""

    def __init__(self, model: Path, candidate: str) -> None:
        self._float, self._candidate = session_of(model), session_of(candidate)
        self.fidelity = Fidelity(self._float.get_outputs()[0].name)
        self.cosines: list[float] = []

    def run(self, names: list[str] | None, feed: dict[str, Any]) -> list[np.ndarray]:
        """Return the candidate's outputs."""
        a, b = self._float.run(None, feed)[0], self._candidate.run(None, feed)
        self.fidelity.update(a, b[0])
        x, y = a.reshape(-1).astype(np.float64), b[0].reshape(-1).astype(np.float64)
        self.cosines.append(float(x @ y / max(np.linalg.norm(x) * np.linalg.norm(y), 1e-30)))
        return b


def size(path: Path) -> int:
    """Return a model's bytes, with those of the files that hold its weights."""
    graph = onnx.load(path, load_external_data=False).graph
    places = {entry.value for weight in graph.initializer for entry in weight.external_data if entry.key == "location"}
    return sum(file.stat().st_size for file in (path, *(path.parent / place for place in places)))


def write_samples(subject: Subject, path: str) -> None:
    """Write the calibration samples for `child.py`."""
    arrays = {f"{i:05d}/{key}": value for i, feed in enumerate(subject.feeds()) for key, value in feed.items()}
    np.savez(path, **arrays)


def score(subject: Subject, model: str, result: str) -> None:
    """Write the score on the test split, how near the outputs are to the float model's, bytes and kernels."""
    both = BesideFloat(subject.path, model)
    value = subject.score(both)
    near = both.fidelity.result()
    row = {
        "score": value,
        "agreement": None if subject.name in EMBEDDINGS else near.agreement,
        "sqnr": near.sqnr,
        "cosine": float(np.mean(both.cosines)),
        "bytes": size(Path(model)) / size(subject.path),
        **asdict(count_kernels(model)),
    }
    Path(result).write_text(json.dumps(row), encoding="utf-8")


def latency(subject: Subject, result: str, seconds: float, models: list[str]) -> None:
    """Write each model's time over the first's: medians and intervals."""
    timings = time_models([Path(model) for model in models], subject.feeds()[0], seconds=seconds)
    rows = [{"latency": t.ratio, "latency_low": t.ratio_low, "latency_high": t.ratio_high} for t in timings]
    Path(result).write_text(json.dumps(rows), encoding="utf-8")


def main() -> int:
    """Do one of the three."""
    what, kit, name, *rest = sys.argv[1:]
    subject = Subject(Path(kit), name)
    if what == "samples":
        write_samples(subject, rest[0])
    elif what == "score":
        score(subject, *rest)
    else:
        latency(subject, rest[0], float(rest[1]), rest[2:])
    return 0


if __name__ == "__main__":
    sys.exit(main())
