"""What pruning makes of time, multiply-accumulates and score, by how widths are chosen: a table of the kit's CNNs.

    python benchmarks/widths.py KIT_FOLDER [--models NAME ...] [--columns WORD ...]

Each cell is time over the original's (what one thread computes, both models taking turns), and in brackets
multiply-accumulates over the original's, and the score where --score is given. All channels are compensated for on 512
images; `shrink` comes behind.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime

import onnxcompress
from onnxcompress.evaluation.timing import time_models
from onnxcompress.graph.cost import cost
from onnxcompress.graph.load import load
from onnxcompress.recipe import parse_pass

MODELS = ("mobilenet_v1_025_imagenet", "resnet20_cifar10", "resnet56_cifar10", "ppocr_cls")
PRUNE = "prune-channels compensate=true"
COLUMNS = {
    "shrink": None,
    "local, 1": f"{PRUNE} sparsity=0.25 budget=macs ranking=local round_to=1",
    "local, 8": f"{PRUNE} sparsity=0.25 budget=macs ranking=local round_to=8",
    "global, 1": f"{PRUNE} sparsity=0.25 budget=macs ranking=global round_to=1",
    "global, 4": f"{PRUNE} sparsity=0.25 budget=macs ranking=global round_to=4",
    "global, 8": f"{PRUNE} sparsity=0.25 budget=macs ranking=global round_to=8",
    "global, 16": f"{PRUNE} sparsity=0.25 budget=macs ranking=global round_to=16",
    "default": f"{PRUNE} sparsity=0.25 budget=macs",
    "channels": "prune-channels sparsity=0.25",
    "latency": f"{PRUNE} sparsity=0.3 budget=latency",
}
SAMPLES, SECONDS = 512, 3.0
PROVIDERS = ["CPUExecutionProvider"]


def pruned(path: Path, step: str | None, data: dict[str, Any]) -> Any:
    """Return the model after the recipe."""
    passes = ["shrink"] if step is None else ["fold-constants", "fold-batch-norm", step, "shrink"]
    judges = {name: array[:8] for name, array in data.items()}
    return onnxcompress.apply(load(path), [parse_pass(p) for p in passes], data=data, evaluate_on=judges)[0]


def cell(kit: Any, folder: Path, name: str, step: str | None, *, scored: bool) -> str:
    """Measure one recipe on one model."""
    feeds = kit.feeds(name, "calib")[:SAMPLES]
    data = {key: np.concatenate([feed[key] for feed in feeds]) for key in feeds[0]}
    path = folder / f"models/{name}.onnx"
    original, small = load(path), pruned(path, step, data)
    ratio = time_models([original, small], feeds[0], seconds=SECONDS, computing=True)[1].ratio
    said = f"{cost(small).macs / cost(original).macs:.2f}"
    if scored:
        session = onnxruntime.InferenceSession(ir.to_proto(small).SerializeToString(), providers=PROVIDERS)
        said += f", {kit.score(name, session):.3f}"
    return f"{ratio:.2f} ({said})"


def main() -> None:
    """Print the table, a row for each model."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kit", type=Path)
    parser.add_argument("--models", nargs="*", default=MODELS)
    parser.add_argument("--columns", nargs="*", default=list(COLUMNS))
    parser.add_argument("--score", action="store_true")
    given = parser.parse_args()
    sys.path.insert(0, str(given.kit))
    import kit

    print("| |", " | ".join(given.columns), "|\n|---|" + "---|" * len(given.columns))
    for name in given.models:
        cells = [cell(kit, given.kit, name, COLUMNS[column], scored=given.score) for column in given.columns]
        print(f"| {name} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
