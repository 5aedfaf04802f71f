"""Peak memory of compensation for more and more samples, each in a process of its own; print ratios.

    python benchmarks/recovery_memory.py [MODEL.onnx]

Samples are made up, as they are needed, by a function; the demonstration's model is taken by default.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from onnxcompress import apply
from onnxcompress.graph.load import load
from onnxcompress.passes import FoldBatchNorm, FoldConstants, PruneChannels, Shrink
from onnxcompress.samples.inputs import find_layout, model_inputs, random_feeds

COUNTS = (128, 256, 512)
PIECE = 32


def run(path: Path, count: int) -> int:
    """Prune and compensate; return the peak of this process in bytes."""
    layout = find_layout(model_inputs(load(path)))

    def samples() -> Iterator[dict[str, Any]]:
        for piece in range(count // PIECE):
            yield random_feeds(layout, PIECE, piece)

    prune = PruneChannels(sparsity=0.25, importance="reconstruction", compensate=True)
    few = {name: np.asarray(array[:2]) for name, array in next(samples()).items()}
    apply(path, [FoldConstants(), FoldBatchNorm(), prune, Shrink()], data=samples, evaluate_on=few)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> int:
    """Print one line for each number of samples."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(__file__).parents[1] / "models" / "digits.onnx"
    parser.add_argument("model", type=Path, nargs="?", default=default)
    parser.add_argument("--one", type=int, help="run once with so many samples and print bytes")
    options = parser.parse_args()
    if options.one:
        print(run(options.model, options.one))
        return 0
    first = 0
    for count in COUNTS:
        command = [sys.executable, __file__, str(options.model), "--one", str(count)]
        peak = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])
        first = first or peak
        print(f"{count:5d} samples  {peak / 2**20:6.0f} MiB  {peak / first:.3f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
