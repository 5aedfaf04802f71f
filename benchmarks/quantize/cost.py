"""What quantization costs beside ONNX Runtime's own, for the structure of ResNet-50; print medians of ratios.

    python benchmarks/quantize/cost.py [--samples 24] [--rounds 5] [--threads 1] [--only CANDIDATE ...] [--keep FOLDER]

Weights and images are random: what is measured is CPU time and memory, not accuracy. Each candidate runs in a process
of its own, and in each round all of them once, one after the other. CPU is user and system time of a process and of all
that it starts, from the loaded samples to the saved model; with "report", what `apply` measures for its report is
included. MB is the peak of the process above what it held before, beyond that of plain inference. With --threads 1
every process has one core, and no thread that waits is counted as work; 0 leaves all cores to all.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.version_converter
import onnx_ir as ir
from onnx_ir.passes import common

HERE = Path(__file__).absolute().parent
sys.path.insert(0, str(HERE.parent))
from calibration import resnet50  # noqa: E402

from onnxcompress.samples.inputs import find_layout, model_inputs, random_feeds  # noqa: E402

TEXTBOOK = {"equalise": False, "correct": False, "rounding": "nearest"}
PLAIN, PEER = "plain inference", "onnxruntime, min-max"
COMPARED: dict[str, tuple[str, dict[str, Any]]] = {
    PLAIN: ("plain", {}),
    PEER: ("onnxruntime_static", {}),
    "ours, textbook": ("ours", TEXTBOOK),
    "ours, textbook, report": ("ours_apply", TEXTBOOK),
    "ours": ("ours", {}),
    "ours, report": ("ours_apply", {}),
}
"""Candidate → a file in ``peers/`` and its options."""

OPSET = 17


def write(folder: Path, count: int) -> tuple[Path, Path]:
    """Write the model, as an exporter of today would, and its samples."""
    model = resnet50()
    layout = find_layout(model_inputs(model))
    feeds = [random_feeds(layout, 1, seed) for seed in range(count)]
    model.graph.inputs[:] = [value for value in model.graph.inputs if value.const_value is None]
    common.RemoveUnusedNodesPass()(model)
    for node in model.graph:
        node.op_type = "Add" if node.op_type == "Sum" else node.op_type
    model.ir_version = 8
    onnx.save(onnx.version_converter.convert_version(ir.to_proto(model), OPSET), folder / "resnet50.onnx")
    np.savez(folder / "samples.npz", **{f"{i:05d}/{k}": v for i, feed in enumerate(feeds) for k, v in feed.items()})
    return folder / "resnet50.onnx", folder / "samples.npz"


def measure(name: str, model: Path, samples: Path, folder: Path, threads: int) -> dict[str, Any]:
    """Run one candidate in a process of its own."""
    peer, options = COMPARED[name]
    result = folder / "result.json"
    output = folder / f"{name.replace(', ', '_').replace(' ', '_')}.onnx"
    cores = sorted(os.sched_getaffinity(0))
    start = {} if not threads else {"preexec_fn": lambda: os.sched_setaffinity(0, cores[:threads])}
    command = [sys.executable, HERE / "child.py", peer, model, samples, output, json.dumps(options), result]
    subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL, **start)
    row: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    if "failed" in row:
        sys.exit(f"{name}: {row['failed']}")
    return row


def main() -> int:
    """Print one line for each candidate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="cores for each process; 0: all")
    parser.add_argument("--only", nargs="+", default=list(COMPARED), choices=COMPARED, metavar="CANDIDATE")
    parser.add_argument("--keep", type=Path, help="where the model, the samples and the results stay")
    options = parser.parse_args()
    names = [name for name in COMPARED if name in options.only or name in (PLAIN, PEER)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        model, samples = write(folder, options.samples)
        rounds = [
            {name: measure(name, model, samples, folder, options.threads) for name in names}
            for _ in range(options.rounds)
        ]
    print(f"{'':24s}{'CPU s':>8s}{'/ plain':>9s}{'/ ' + PEER:>24s}{'MB more':>9s}")
    for name in names:
        cpu = statistics.median(one[name]["cpu"] for one in rounds)
        over = [statistics.median(one[name]["cpu"] / one[base]["cpu"] for one in rounds) for base in (PLAIN, PEER)]
        grown = [{key: row["peak_mb"] - row["idle_mb"] for key, row in one.items()} for one in rounds]
        more = statistics.median(one[name] - one[PLAIN] for one in grown)
        print(f"{name:24s}{cpu:8.2f}{over[0]:9.2f}{over[1]:24.2f}{more:9.0f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
