"""Prune, shrink and quantize real pretrained models; print scores, bytes and latency before and after.

    python benchmarks/kit.py KIT_FOLDER [--sparsity 0.1] [--round-to 1] [MODEL ...]

KIT_FOLDER holds ``models/*.onnx`` and a ``kit.py`` with ``feeds(name, split)``, ``labels(name, split)`` and
``score(name, session)``. Scores come from that file through plain ONNX Runtime; latency is interleaved in one process.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime as ort
from loading import load_kit

from onnxcompress import OnnxCompressError, apply
from onnxcompress.evaluation.timing import time_models
from onnxcompress.passes import FoldBatchNorm, FoldConstants, PruneChannels, Quantize, Shrink

SCORED = ("resnet20_cifar10", "resnet56_cifar10", "mobilenet_v1_025_imagenet", "ppocr_cls")
HEADER = f"{'model':28s} {'stage':>10s} {'score':>7s} {'bytes':>8s} {'latency':>17s}  refused"


def score(kit: ModuleType, name: str, path: Path) -> float:
    """Score a file through plain ONNX Runtime."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return float(kit.score(name, ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])))


def samples(kit: ModuleType, name: str) -> dict[str, np.ndarray]:
    """Stack up to 300 of the model's calibration samples."""
    feeds: list[dict[str, Any]] = kit.feeds(name, "calib")[:300]
    return {key: np.concatenate([feed[key] for feed in feeds]) for key in feeds[0]}


def rows(kit: ModuleType, folder: Path, name: str, sparsity: float, round_to: int) -> list[str]:
    """Run one model: pruned and shrunk, quantized, and both."""
    source = folder / "models" / f"{name}.onnx"
    data = samples(kit, name)
    prune = [FoldConstants(), FoldBatchNorm(), PruneChannels(sparsity=sparsity, round_to=round_to), Shrink()]
    recipes = {"pruned": prune, "int8": [FoldConstants(), FoldBatchNorm(), Quantize()], "both": [*prune, Quantize()]}
    one = {key: array[:1] for key, array in data.items()}
    lines = [f"{name:28s} {'original':>10s} {score(kit, name, source):7.4f} {1:8.3f} {1:17.2f}"]
    with tempfile.TemporaryDirectory() as temporary:
        for stage, recipe in recipes.items():
            target = Path(temporary, f"{stage}.onnx")
            _, report = apply(source, recipe, data=data, evaluate_on=data, output=target)
            timing = time_models([source, target], one)[1]
            size = target.stat().st_size / source.stat().st_size
            latency = f"{timing.ratio:.2f} [{timing.ratio_low:.2f}, {timing.ratio_high:.2f}]"
            refused = sum(len(step.refused) for step in report.steps)
            lines.append(f"{'':28s} {stage:>10s} {score(kit, name, target):7.4f} {size:8.3f} {latency:>17s}  {refused}")
    return lines


def main() -> int:
    """Print the table; ratios are to the original."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kit", type=Path)
    parser.add_argument("models", nargs="*", default=SCORED)
    parser.add_argument("--sparsity", type=float, default=0.1)
    parser.add_argument("--round-to", type=int, default=1)
    options = parser.parse_args()
    kit = load_kit(options.kit)
    print(HEADER)
    for name in options.models:
        try:
            print("\n".join(rows(kit, options.kit, name, options.sparsity, options.round_to)), flush=True)
        except OnnxCompressError as error:
            print(f"{name:28s} {error}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
