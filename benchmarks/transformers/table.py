"""Every operation on every model: what comes out, how much of the bytes is kept, time, memory; print a table.

    python benchmarks/transformers/table.py MODEL_OR_FOLDER ... --cache FOLDER [--only OPERATION ...] [--names NAME ...]
        [--again] [--markdown]

Each pair runs as the command that a person types, without samples where none are needed and with `--data random` else,
in a process of its own. What came out runs in plain ONNX Runtime on inputs that fit the model, beside the original.
Rows are kept in FOLDER/rows.jsonl.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

RANDOM = ["--data", "random"]
OPERATIONS: dict[str, list[str]] = {
    "prune": ["-p", "prune-channels sparsity=0.5", "-p", "shrink"],
    "quantize": ["-p", "quantize", *RANDOM],
    "dynamic": ["-p", "quantize-dynamic"],
    "4 bits": ["-p", "quantize-weights dtype=uint4 block_size=32"],
    "4 bits, gptq": ["-p", "quantize-weights dtype=uint4 block_size=32 rounding=gptq", *RANDOM],
    "float16": ["-p", "convert-float"],
}
LIMIT = 1800
BROKEN = ("Traceback", "internal error")

JUDGE = """
import sys, json
import numpy as np, onnx_ir as ir
from onnxcompress.graph.load import load
from onnxcompress.runtime.session import open_session
from onnxcompress.samples.random_values import runnable_feed
first = load(sys.argv[1])
session = open_session(first)
feed = runnable_feed(first, session)
import onnxruntime as ort
options = ort.SessionOptions(); options.log_severity_level = 3
other = ort.InferenceSession(sys.argv[2], options)
names = {i.name for i in other.get_inputs()}
wanted, got = session.run(feed), other.run(None, {k: v for k, v in feed.items() if k in names})
wanted = list(wanted.values()) if isinstance(wanted, dict) else wanted
least = 1.0
for a, b in zip(wanted, got):
    if getattr(a, "dtype", np.dtype("O")).kind == "f" and a.shape == b.shape and a.size:
        a, b = a.ravel().astype(float), b.ravel().astype(float)
        assert np.isfinite(b).all() or not np.isfinite(a).all(), "not finite"
        if np.linalg.norm(a) and np.linalg.norm(b):
            least = min(least, float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)))
print(json.dumps(least))
"""


def models(given: list[Path]) -> Iterator[tuple[str, Path]]:
    """Yield a name and a file for each model in files and folders."""
    for path in given:
        files = [path] if path.is_file() else sorted(path.rglob("*.onnx"))
        for file in files:
            folder = file.parent.name
            yield (f"{folder}/{file.stem}" if file.stem != "model" and path.is_dir() else
                   folder if file.stem == "model" else file.stem), file  # fmt: skip


def size(path: Path) -> int:
    """Return the bytes of a model with its data files."""
    return sum(file.stat().st_size for file in path.parent.glob(path.name + "*"))


def measured(command: list[str]) -> dict[str, Any]:
    """Run a command; what it said, its exit status, CPU seconds and its peak."""
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        text = process.communicate(timeout=None)[0] if process.stdout is None else process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    return {
        "text": text, "status": process.returncode, "seconds": usage.ru_utime + usage.ru_stime,
        "wall": time.perf_counter() - started, "peak": usage.ru_maxrss * 1024,
    }  # fmt: skip


def row(name: str, file: Path, operation: str, cache: Path) -> dict[str, Any]:
    """Carry out one operation."""
    output = cache / f"{name}.{operation}.onnx".replace("/", "_").replace(" ", "_").replace(",", "")
    for old in cache.glob(output.name + "*"):
        old.unlink()
    command = ["timeout", str(LIMIT), sys.executable, "-m", "onnxcompress", "apply", str(file), "-o", str(output)]
    found = measured([*command, *OPERATIONS[operation]])
    lines = [line.strip() for line in found.pop("text").splitlines() if line.strip()]
    broken = [line for line in lines if any(word in line for word in BROKEN)]
    made = {"model": name, "operation": operation, "bytes": size(file), **found}
    if broken or found["status"] not in (0, 1, 2):
        return made | {"outcome": "broken", "said": (broken or lines or ["nothing"])[-1][:300]}
    if not output.exists():
        said = next((line for line in lines if line.startswith(("error", "fell short"))), (lines or [""])[-1])
        return made | {"outcome": "refused", "said": said[:300]}
    judged = subprocess.run([sys.executable, "-c", JUDGE, file, output], capture_output=True, text=True, check=False)
    made["kept"] = size(output) / size(file)
    for old in cache.glob(output.name + "*"):
        old.unlink()
    if judged.returncode:
        return made | {"outcome": "wrong", "said": judged.stderr.strip().splitlines()[-1][:300]}
    return made | {"outcome": "ok", "cosine": json.loads(judged.stdout.splitlines()[-1])}


def table(rows: list[dict[str, Any]], operations: list[str]) -> str:
    """Return a Markdown table: share of the bytes kept, cosine to the original; or what was said."""
    found = {(r["model"], r["operation"]): r for r in rows}
    lines = [f"| model | MB | {' | '.join(operations)} |", "|---|---|" + "---|" * len(operations)]
    for name in dict.fromkeys(r["model"] for r in rows):
        cells = [cell(found.get((name, operation))) for operation in operations]
        megabytes = next(r["bytes"] for r in rows if r["model"] == name) / 1e6
        lines.append(f"| {name} | {megabytes:.1f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(found: dict[str, Any] | None) -> str:
    """Return what stands in the table for a row."""
    if found is None:
        return "–"
    if found["outcome"] != "ok":
        return found["outcome"]
    return f"{found['kept']:.2f} · {found['cosine']:.3f}".replace("0.", ".")


def main() -> int:
    """Measure what is not there yet, print the table; the exit status says whether anything is broken or wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--only", nargs="+", default=list(OPERATIONS), choices=list(OPERATIONS))
    parser.add_argument("--names", nargs="+")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    path = options.cache / "rows.jsonl"
    old = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    rows = {(r["model"], r["operation"]): r for r in old}
    for name, file in models(options.models):
        if options.names and name not in options.names:
            continue
        for operation in options.only:
            if (name, operation) in rows and not options.again:
                continue
            rows[name, operation] = found = row(name, file, operation, options.cache)
            with path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(found) + "\n")
            print(f"{name:32s} {operation:13s} {cell(found):14s} {found['wall']:6.1f} s {found['peak'] / 1e6:7.0f} MB  "
                  f"{found.get('said', '')}", flush=True)  # fmt: skip
    if options.markdown:
        print(table(list(rows.values()), options.only))
    seconds = [r["seconds"] for r in rows.values()]
    print(f"{len(rows)} rows, median {np.median(seconds):.1f} s CPU")
    return int(any(r["outcome"] in ("broken", "wrong") for r in rows.values()))


if __name__ == "__main__":
    sys.exit(main())
