"""Prune every exported architecture, check it in plain ONNX Runtime, and print a table.

    python benchmarks/architectures/prune.py OUT [--sparsity 0.5] [--timeout 120] [--json FILE] [NAME ...]

Runs in the project's environment. A model counts as a success when PruneChannels and Shrink run, the result gives what
the masked model gives, and at least a quarter of the parameters went. Each model has a process and a time limit of its
own, so that one bad model cannot stop the table.
"""

from __future__ import annotations

import argparse
import json
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

import onnxcompress
from onnxcompress.channels.groups import Groups, find_groups
from onnxcompress.graph import edit
from onnxcompress.passes import PruneChannels, Shrink

TOLERANCE = 1e-5
LARGEST_KEPT = 0.75
HEADER = f"{'model':44s} {'kept':>6s} {'error':>8s} {'groups':>8s} {'analysis':>9s} {'all':>7s} {'memory':>8s}  outcome"
KINDS = {"tensor(float16)": np.float16, "tensor(double)": np.float64, "tensor(int32)": np.int32}


def prune(path: Path, sparsity: float) -> dict[str, Any]:
    """Prune one model; return a row of the table."""
    row: dict[str, Any] = {}
    try:
        _prune(path, sparsity, row)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what the table reports
        row["failure"] = f"{type(error).__name__}: {error}"[:400]
        row["traceback"] = traceback.format_exc().splitlines()[-9:]
    row["seconds"] = time.process_time()
    row["megabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return row


def _prune(path: Path, sparsity: float, row: dict[str, Any]) -> None:
    model = onnxcompress.load(path)
    start = time.process_time()
    groups = find_groups(model)
    row["analysis"] = time.process_time() - start
    row["prunable"], row["frozen"] = len(groups.prunable), len(groups.frozen)
    row["reasons"] = frozen_weights(groups)
    row["original"] = parameters(model)
    with tempfile.TemporaryDirectory(prefix="architectures-") as folder:
        masked, pruned = Path(folder, "masked.onnx"), Path(folder, "pruned.onnx")
        between, _ = onnxcompress.apply(path, [PruneChannels(sparsity=sparsity)], output=masked)
        small, report = onnxcompress.apply(between, [Shrink()], output=pruned)
        row["stays"] = [f"{r.subject}: {r.reason}" for step in report.steps for r in step.refused][:5]
        row["kept"] = parameters(small) / max(row["original"], 1)
        row["error"], row["response"] = difference(masked, pruned)


def parameters(model: Any) -> int:
    """Count the elements of constants that are floating point."""
    tensors = {id(t): t for v in edit.values(model.graph) if (t := edit.constant(v)) is not None}
    return sum(t.size for t in tensors.values() if t.dtype.is_floating_point())


def frozen_weights(groups: Groups) -> dict[str, int]:
    """Reason for freezing → how many elements the weights have whose output channels it keeps; the largest few."""
    counted: Counter[str] = Counter()
    for group in groups.frozen:
        for member in group.members:
            tensor = edit.constant(member.value)
            if member.role == "out" and tensor is not None:
                share = (member.index >= 0).mean()
                counted[group.frozen] += int(tensor.size * share)
    return dict(counted.most_common(6))


def difference(masked: Path, pruned: Path) -> tuple[float, float]:
    """Compare the outputs of two files on two random feeds, each relative to the largest output.

    Returns
    -------
    error, response
        How far the second file is from the first; and how far the first is from itself when the feed changes, without
        which an error of nothing shows nothing.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    sessions = [ort.InferenceSession(str(p), options, providers=["CPUExecutionProvider"]) for p in (masked, pruned)]
    random = np.random.default_rng(7)
    feeds = [{port.name: _random(random, port) for port in sessions[0].get_inputs()} for _ in range(2)]
    (first, second), (same, other) = ([session.run(None, feed) for feed in feeds] for session in sessions)
    return max(_gap(first, same), _gap(second, other)), _gap(first, second)


def _gap(first: list[np.ndarray], second: list[np.ndarray]) -> float:
    worst = 0.0
    for a, b in zip(first, second, strict=True):
        if a.shape != b.shape:
            raise ValueError(f"an output has shape {b.shape}, and had {a.shape}")
        if a.size:
            largest = float(np.abs(a.astype(np.float64)).max()) or 1.0
            worst = max(worst, float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max()) / largest)
    return worst


def _random(random: np.random.Generator, port: Any) -> np.ndarray:
    shape = [n if isinstance(n, int) else 1 for n in port.shape]
    if "int" in port.type:
        return random.integers(3, 90, shape).astype(KINDS.get(port.type, np.int64))
    return random.standard_normal(shape).astype(KINDS.get(port.type, np.float32))


def in_a_process(path: Path, sparsity: float, timeout: float) -> dict[str, Any]:
    """Run `prune` in a process of its own, for `timeout` processor seconds (load does not count) or ten times that."""
    command = [sys.executable, __file__, "--one", str(path), "--sparsity", str(sparsity), "--timeout", str(timeout)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10 * timeout, check=False)
    except subprocess.TimeoutExpired:
        return {"failure": f"not done after {10 * timeout:.0f} s by the clock"}
    if done.returncode == -signal.SIGXCPU:
        return {"failure": f"not done after {timeout:.0f} processor seconds", "seconds": timeout}
    lines = done.stdout.splitlines()
    if done.returncode != 0 or not lines:
        return {"failure": f"the process ended with {done.returncode}: {done.stderr.strip()[-300:]}"}
    row: dict[str, Any] = json.loads(lines[-1])
    return row


def outcome(row: dict[str, Any]) -> str:
    """Say "ok", or in a few words what is wrong."""
    if "failure" in row:
        return str(row["failure"])
    if not row["error"] <= TOLERANCE:
        return f"pruned differs from masked by {row['error']:.1e}"
    if row["response"] <= 10 * TOLERANCE:
        return f"the masked model hardly answers to its input: {row['response']:.1e}"
    if row["kept"] > LARGEST_KEPT:
        reason = next(iter(row["reasons"]), "no channels were chosen")
        return f"only {1 - row['kept']:.0%} went; mostly: {reason}"
    return "ok"


def line(name: str, row: dict[str, Any]) -> str:
    """Format one row; what is not known is a dash."""
    counts = f"{row['prunable']}+{row['frozen']}" if "prunable" in row else "-"
    cells = [
        f"{row['kept']:6.3f}" if "kept" in row else f"{'-':>6s}",
        f"{row['error']:8.1e}" if "error" in row else f"{'-':>8s}",
        f"{counts:>8s}",
        f"{row['analysis']:7.2f} s" if "analysis" in row else f"{'-':>9s}",
        f"{row['seconds']:5.0f} s" if "seconds" in row else f"{'-':>7s}",
        f"{row['megabytes']:5.0f} MB" if "megabytes" in row else f"{'-':>8s}",
    ]
    return f"{name:44s} {' '.join(cells)}  {outcome(row)[:160]}"


def summary(rows: dict[str, dict[str, Any]]) -> list[str]:
    """Successes, and the median share of parameters kept, for each exporter."""
    lines = []
    for exporter in sorted({name.rsplit(".", 1)[-1] for name in rows}):
        mine = [row for name, row in rows.items() if name.endswith(f".{exporter}")]
        good = [row for row in mine if outcome(row) == "ok"]
        shares = [row["kept"] for row in mine if "kept" in row]
        kept = f"{statistics.median(shares):.3f}" if shares else "unknown"
        failed = len(mine) - len(shares)
        lines.append(f"{exporter}: {len(good)} of {len(mine)} succeed; median share kept {kept}; {failed} did not run")
    return lines


def main() -> int:
    """Print a line for each model as it is done, then a summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("names", nargs="*", metavar="NAME", help="parts of file names; all files without")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--sparsity", type=float, default=0.5)
    parser.add_argument("--timeout", type=float, default=120, help="processor seconds for one model")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write all rows to this file")
    options = parser.parse_intermixed_args()
    if options.one is not None:
        limit = int(options.timeout)
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
        print(json.dumps(prune(options.one, options.sparsity)))
        return 0
    if options.out is None:
        parser.error("OUT is missing")
    wanted = options.names or [""]
    paths = sorted(path for path in options.out.glob("*.onnx") if any(name in path.stem for name in wanted))
    rows: dict[str, dict[str, Any]] = {}
    print(HEADER)
    with ThreadPoolExecutor(options.jobs) as pool:
        results = pool.map(lambda p: in_a_process(p, options.sparsity, options.timeout), paths)
        for path, row in zip(paths, results, strict=True):
            rows[path.stem] = row
            print(line(path.stem, row), flush=True)
            if options.json is not None:
                options.json.write_text(json.dumps(rows, indent=1) + "\n")
    print("\n".join(summary(rows)))
    return 0 if rows and all(outcome(row) == "ok" for row in rows.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
