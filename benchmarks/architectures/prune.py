"""Prune every exported architecture, check it in plain ONNX Runtime, and print a table.

    python benchmarks/architectures/prune.py OUT [--sparsity 0.5] [--timeout 300] [--rows FILE] [NAME ...]

Runs in the project's environment, the small models first. A model counts as a success when FoldConstants,
PruneChannels and Shrink run, the result gives what the masked model gives, and at least a quarter of the parameters
went. Each model has a process and a time limit of its own, so that one bad model cannot stop the table. With `--rows`
each row is written to a file of JSON lines as it is done, and what is there already is not done again, so that a table
can be continued.
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
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

import onnxcompress
from onnxcompress.channels.groups import Groups, find_groups
from onnxcompress.contract import Context, Pass
from onnxcompress.graph import edit
from onnxcompress.passes import FoldConstants, PruneChannels, Shrink

Row: TypeAlias = dict[str, Any]
Rows: TypeAlias = dict[str, Row]

TOLERANCE = 1e-5
LARGEST_KEPT = 0.75
HEADER = f"{'model':44s} {'kept':>6s} {'error':>8s} {'groups':>8s} {'analysis':>9s} {'all':>7s} {'memory':>8s}  outcome"
OTHER = ("lstm", "gru", "lstm_both_ways", "conv1d", "conv3d")
KINDS = {"tensor(float16)": np.float16, "tensor(double)": np.float64, "tensor(int32)": np.int32}


def prune(path: Path, sparsity: float) -> Row:
    """Prune one model; return a row of the table."""
    row: Row = {}
    try:
        _prune(path, sparsity, row)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what the table reports
        row["failure"] = f"{type(error).__name__}: {error}"[:400]
        row["traceback"] = traceback.format_exc().splitlines()[-9:]
    row["seconds"] = time.process_time()
    row["megabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return row


def _prune(path: Path, sparsity: float, row: Row) -> None:
    model = run_pass(onnxcompress.load(path), FoldConstants())
    start = time.process_time()
    groups = find_groups(model)
    row["analysis"] = time.process_time() - start
    row["prunable"], row["frozen"] = len(groups.prunable), len(groups.frozen)
    row["reasons"] = frozen_weights(groups)
    row["original"] = parameters(model)
    with tempfile.TemporaryDirectory(prefix="architectures-") as folder:
        masked, pruned = Path(folder, "masked.onnx"), Path(folder, "pruned.onnx")
        between = run_pass(model, PruneChannels(sparsity=sparsity))
        small = run_pass(between, Shrink(), row)
        onnxcompress.save(between, masked)
        onnxcompress.save(small, pruned)
        row["kept"] = parameters(small) / max(row["original"], 1)
        row["error"], row["response"] = difference(masked, pruned)
        if row["error"] > TOLERANCE:
            row["noise"], _ = difference(masked, masked)


def run_pass(model: ir.Model, step: Pass, row: Row | None = None) -> ir.Model:
    """Run a pass alone, on a copy: what comes out is judged here, not by the pipeline."""
    plan, copy = step.plan(model, Context(model)), model.clone()
    changes = step.apply(copy, plan)
    if row is not None:
        row["stays"] = [f"{r.subject}: {r.reason}" for r in changes.refused][:5]
    return copy


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

    A file is compared with itself as it runs without optimisation: how much of an error is rounding.

    Returns
    -------
    error, response
        How far the second file is from the first; and how far the first is from itself when the feed changes, without
        which an error of nothing shows nothing.
    """
    sessions = [_session(masked, optimise=masked != pruned), _session(pruned)]
    random = np.random.default_rng(7)
    feeds = [{port.name: _random(random, port) for port in sessions[0].get_inputs()} for _ in range(2)]
    (first, second), (same, other) = ([session.run(None, feed) for feed in feeds] for session in sessions)
    return max(_gap(first, same), _gap(second, other)), _gap(first, second)


def _session(path: Path, *, optimise: bool = True) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimise else level.ORT_DISABLE_ALL
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _gap(first: list[np.ndarray], second: list[np.ndarray]) -> float:
    worst = 0.0
    for a, b in zip(first, second, strict=True):
        if a.shape != b.shape:
            raise ValueError(f"an output has shape {b.shape}, and had {a.shape}")
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            raise ValueError("an output is not finite")
        if a.size:
            largest = float(np.abs(a.astype(np.float64)).max()) or 1.0
            worst = max(worst, float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max()) / largest)
    return worst


def _random(random: np.random.Generator, port: Any) -> np.ndarray:
    shape = [n if isinstance(n, int) else 1 for n in port.shape]
    if "int" in port.type:
        return random.integers(3, 90, shape).astype(KINDS.get(port.type, np.int64))
    return random.standard_normal(shape).astype(KINDS.get(port.type, np.float32))


def in_a_process(path: Path, sparsity: float, timeout: float) -> Row:
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
    row: Row = json.loads(lines[-1])
    return row


def outcome(row: Row) -> str:
    """Say "ok", or in a few words what is wrong."""
    if "failure" in row:
        return str(row["failure"])
    if not row["error"] <= TOLERANCE:
        rounding = f"; masked, not optimised, differs from itself by {row['noise']:.1e}" if "noise" in row else ""
        return f"pruned differs from masked by {row['error']:.1e}{rounding}"
    if row["response"] <= 10 * TOLERANCE:
        return f"the masked model hardly answers to its input: {row['response']:.1e}"
    if row["kept"] > LARGEST_KEPT:
        reason = next(iter(row["reasons"]), "no channels were chosen")
        return f"only {1 - row['kept']:.0%} went; mostly: {reason}"
    return "ok"


def line(name: str, row: Row) -> str:
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


def set_of(name: str) -> str:
    """Return the set of a model by its name."""
    network = name.rsplit(".", 1)[0]
    prefixes = {"test_": "quick", "tv_": "torchvision", "hf_": "transformers"}
    found = [kind for prefix, kind in prefixes.items() if network.startswith(prefix)]
    return found[0] if found else "other" if network in OTHER else "timm"


def summary(rows: Rows, lost: dict[str, str]) -> list[str]:
    """Successes and the median share kept, for each exporter and set; then what went wrong, by name."""
    lines = ["", f"{'exporter':9s} {'set':14s} {'success':>9s} {'median kept':>12s} {'not exported':>13s}"]
    for exporter in sorted({name.rsplit(".", 1)[-1] for name in (*rows, *lost)}):
        mine = {n: row for n, row in rows.items() if n.endswith(f".{exporter}")}
        absent = [n for n in lost if n.endswith(f".{exporter}") and n not in rows]
        kinds = sorted({set_of(n) for n in (*mine, *absent)})
        for title, chosen in (*((k, (k,)) for k in kinds), ("all but quick", tuple(k for k in kinds if k != "quick"))):
            part = [row for n, row in mine.items() if set_of(n) in chosen]
            missing = sum(set_of(n) in chosen for n in absent)
            shares = [row["kept"] for row in part if "kept" in row]
            good = f"{sum(outcome(row) == 'ok' for row in part)}/{len(part) + missing}"
            kept = f"{statistics.median(shares):.3f}" if shares else "-"
            lines.append(f"{exporter:9s} {title:14s} {good:>9s} {kept:>12s} {missing:13d}")
    bad = {name: outcome(row) for name, row in sorted(rows.items()) if outcome(row) != "ok"}
    bad |= {name: f"not exported: {reason}" for name, reason in sorted(lost.items()) if name not in rows}
    return [*lines, "", *(f"{name}: {reason[:300]}" for name, reason in bad.items())]


def read_rows(path: Path | None) -> Rows:
    """Read the rows that an earlier run wrote."""
    if path is None or not path.exists():
        return {}
    lines = [json.loads(text) for text in path.read_text().splitlines()]
    return {row.pop("name"): row for row in lines}


def selected(options: argparse.Namespace) -> list[Path]:
    """Return the models to prune, small ones first."""
    wanted = options.names or [""]
    paths = [path for path in options.out.glob("*.onnx") if any(name in path.stem for name in wanted)]
    return sorted(paths, key=lambda path: path.stat().st_size)


def main() -> int:
    """Print a line for each model as it is done, then a summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("names", nargs="*", metavar="NAME", help="parts of file names; all files without")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--sparsity", type=float, default=0.5)
    parser.add_argument("--timeout", type=float, default=300, help="processor seconds for one model")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--rows", type=Path, help="a file of JSON lines that rows are read from and added to")
    options = parser.parse_intermixed_args()
    if options.one is not None:
        limit = int(options.timeout)
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
        print(json.dumps(prune(options.one, options.sparsity)))
        return 0
    if options.out is None:
        parser.error("OUT is missing")
    paths = selected(options)
    known = {name: row for name, row in read_rows(options.rows).items() if name in {p.stem for p in paths}}
    print(HEADER)
    for name, row in known.items():
        print(line(name, row))
    rows = known | run([p for p in paths if p.stem not in known], options)
    failures = options.out / "failures.json"
    lost = json.loads(failures.read_text()) if failures.exists() and not options.names else {}
    print("\n".join(summary(rows, lost)))
    return 0 if rows and all(outcome(row) == "ok" for row in rows.values()) else 1


def run(paths: list[Path], options: argparse.Namespace) -> Rows:
    """Prune the models, each in a process of its own; print and keep each row as it is done."""
    rows: Rows = {}
    with ThreadPoolExecutor(options.jobs) as pool:
        results = pool.map(lambda p: in_a_process(p, options.sparsity, options.timeout), paths)
        for path, row in zip(paths, results, strict=True):
            rows[path.stem] = row
            print(line(path.stem, row), flush=True)
            if options.rows is not None:
                with options.rows.open("a") as stream:
                    stream.write(json.dumps({"name": path.stem, **row}) + "\n")
    return rows


if __name__ == "__main__":
    sys.exit(main())
