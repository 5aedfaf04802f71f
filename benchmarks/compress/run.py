"""Type what a newcomer would type, on real models; print what comes out of it beside what others' one-liners give.

    python benchmarks/compress/run.py KIT_FOLDER --cache FOLDER [--models NAME ...] [--only ROW ...] [--again ROW ...]
        [--budget 5m] [--time-again] [--markdown]

`compress` runs with a budget of 1 %, once for latency and once for size, beside each single command that the guide
names, ONNX Runtime's own quantizer and NNCF with accuracy control. All are given the same samples; the score comes from
the kit's test split, which nothing has seen, through plain ONNX Runtime; everything that came out is timed beside the
original, taking turns in one process. Rows are kept in FOLDER/results.jsonl, and what is there is not measured again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from kit_models import MODELS, Subject

sys.path.insert(0, str(Path(__file__).absolute().parents[1] / "quantize"))
from candidates import ENVIRONMENTS, TRANSFORMERS
from environments import InstallError, python_of
from judge import size

from onnxcompress.evaluation.timing import time_models

QUANTIZE = Path(__file__).absolute().parents[1] / "quantize"
PRUNE = ["-p", "fold-batch-norm", "-p", "prune-channels sparsity=0.25 budget=macs compensate=true", "-p", "shrink"]
SINGLE = {
    "quantize": ["-p", "quantize"],
    "quantize max_drop=.01": ["-p", "quantize max_drop=0.01"],
    "quantize-dynamic": ["-p", "quantize-dynamic"],
    "quantize-weights": ["-p", "quantize-weights"],
    "convert-float": ["-p", "convert-float"],
    "prune a quarter": PRUNE,
    "prune a quarter, quantize": [*PRUNE, "-p", "quantize"],
}
"""Documented commands that do one thing."""

COMPRESS = {"compress for latency": "latency", "compress for size": "size"}
PEERS: dict[str, tuple[str, dict[str, Any]]] = {
    "onnxruntime": ("onnxruntime_static", {"opset": 17}),
    "nncf, accuracy control": ("nncf_accuracy_control", {}),
}
"""Row → file of `benchmarks/quantize/peers`, options."""

ROWS = ("original", *COMPRESS, *SINGLE, *PEERS)


class Failed(Exception):  # noqa: N818 - a row in words
    """A row that is words."""


class Benchmark:
    """The cache folder: samples, models, reports, and rows."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.cache: Path = options.cache.absolute()
        self.cache.mkdir(parents=True, exist_ok=True)
        self.results = self.cache / "results.jsonl"
        lines = self.results.read_text(encoding="utf-8").splitlines() if self.results.exists() else []
        self.rows: dict[tuple[str, str], dict[str, Any]] = {}
        for line in lines:
            self._remember(json.loads(line))

    def _remember(self, row: dict[str, Any]) -> None:
        self.rows.setdefault((row["model"], row["row"]), {}).update(row)

    def add(self, model: str, name: str, **values: Any) -> None:
        """Print a row and keep it."""
        row = {"model": model, "row": name, **values}
        print(model, name, {k: round(v, 4) if isinstance(v, float) else v for k, v in values.items()}, flush=True)
        self._remember(row)
        with self.results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def path(self, model: str, name: str) -> Path:
        """Where what came out is kept."""
        folder = self.cache / model
        folder.mkdir(exist_ok=True)
        return folder / f"{''.join(c if c.isalnum() else '_' for c in name)}.onnx"

    def samples(self, subject: Subject) -> str:
        """Write the samples once: one file where their shapes agree, else a folder of them."""
        place = self.cache / "samples" / subject.name
        if not place.exists():
            place.mkdir(parents=True)
            feeds, labels = subject.feeds("calib"), subject.labels()
            for number, feed in enumerate(feeds):
                more = {} if labels is None else {"labels": labels[number : number + 1]}
                np.savez(place / f"{number:05d}.npz", **feed, **more)
        return str(place)

    def run(self) -> None:
        """Measure what has not been measured yet."""
        for name in self.options.models:
            subject, fresh = Subject(name, self.options.kit), False
            for row in self.options.only:
                if (name, row) in self.rows and row not in self.options.again:
                    continue
                fresh = True
                self.add(name, row, **self._row(subject, row))
            if fresh or self.options.time_again:
                self._time(subject)

    def _row(self, subject: Subject, row: str) -> dict[str, Any]:
        output = subject.path if row == "original" else self.path(subject.name, row)
        try:
            start = time.perf_counter()
            found = {} if row == "original" else self._made(subject, row, output)
            seconds = time.perf_counter() - start
            if not output.exists():
                raise Failed("wrote nothing")
            bytes_ = size(subject.path) / size(output)
            return {"failed": None, "seconds": seconds, "smaller": bytes_, "score": subject.score(output), **found}
        except (Failed, InstallError) as error:
            return {"failed": str(error).replace(str(self.cache), "")}

    def _made(self, subject: Subject, row: str, output: Path) -> dict[str, Any]:
        if row in PEERS:
            return self._peer(subject, row, output)
        report = output.with_suffix(".json")
        data = ["--data", self.samples(subject), "-o", str(output), "--report", str(report), "--overwrite"]
        if row in COMPRESS:
            how = ["compress", str(subject.path), "--max-drop", "1%", "--for", COMPRESS[row]]
            how += ["--budget", self.options.budget]
        else:
            how = ["apply", str(subject.path), *SINGLE[row]]
        command = [sys.executable, "-m", "onnxcompress", *how, *data]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=3600)
        if not report.exists() or done.returncode not in (0, 1):
            raise Failed((done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1][:300])
        verdict = json.loads(report.read_text(encoding="utf-8")).get("verdict") or {}
        return {"status": done.returncode, "verdict": verdict.get("state"), "sentence": verdict.get("sentence")}

    def _peer(self, subject: Subject, row: str, output: Path) -> dict[str, Any]:
        peer, options = PEERS[row]
        if row.startswith("nncf") and subject.name in TRANSFORMERS:
            options = {**options, "transformer": True}
        python = python_of(next(e for e in ENVIRONMENTS if row.startswith(e)), self.cache, here=False)
        with tempfile.TemporaryDirectory() as temporary:
            samples, result = Path(temporary, "samples.npz"), Path(temporary, "result.json")
            feeds, labels = subject.feeds("calib")[:500], subject.labels()
            with_labels = labels is not None and "control" in row
            arrays = {f"{i:05d}/{key}": value for i, feed in enumerate(feeds) for key, value in feed.items()}
            if with_labels:
                arrays |= {f"{i:05d}/labels": labels[i] for i in range(len(feeds))}
            np.savez(samples, **arrays)
            what = [peer, subject.path, samples, output, json.dumps(options), result]
            command = [str(part) for part in (python, QUANTIZE / "child.py", *what)]
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=3600)
            if not result.exists():
                raise Failed((done.stderr.strip().splitlines() or ["crashed"])[-1][:300])
            found = json.loads(result.read_text(encoding="utf-8"))
        if found.get("failed"):
            raise Failed(found["failed"])
        return {}

    def _time(self, subject: Subject) -> None:
        names = [row for row in ROWS if row != "original" and self.path(subject.name, row).exists()]
        paths = [subject.path, *(self.path(subject.name, row) for row in names)]
        timings = time_models(paths, subject.feeds("calib")[0], seconds=self.options.seconds, threads=1, computing=True)
        for row, timing in zip(["original", *names], timings, strict=True):
            self.add(subject.name, row, time=timing.ratio, time_low=timing.ratio_low, time_high=timing.ratio_high)


def markdown(rows: dict[tuple[str, str], dict[str, Any]], models: list[str]) -> str:
    """Return one table, models down."""
    head = "| model | command | score | smaller | time | seconds | verdict |\n|---|---|---|---|---|---|---|"
    lines = [head]
    for model in models:
        for row in ROWS:
            found = rows.get((model, row))
            if found is None or "failed" not in found:  # of an interrupted row only the time is known
                continue
            label = model if row == "original" else ""
            if found.get("failed"):
                lines.append(f"| {label} | {row} | {found['failed'].replace('|', '/')[:80]} | | | | |")
                continue
            spent = "" if row == "original" else f"{found['seconds']:.0f}"
            verdict = found.get("verdict") or ""
            cells = (f"{found['score']:.3f}", f"{found['smaller']:.2f}×", f"{found.get('time', 1):.2f}", spent, verdict)
            lines.append(f"| {label} | {row} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kit", type=lambda text: Path(text).absolute())
    parser.add_argument("--cache", type=Path, required=True, help="environments, samples, models and results.jsonl")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--only", nargs="+", default=list(ROWS), choices=ROWS, metavar="ROW")
    parser.add_argument("--again", nargs="+", default=[], choices=ROWS, metavar="ROW")
    parser.add_argument("--budget", default="5m", help="how long compress may search")
    parser.add_argument("--seconds", type=float, default=20, help="to time all models of one kind")
    parser.add_argument("--time-again", action="store_true", help="time every model once more, for a quiet moment")
    parser.add_argument("--markdown", action="store_true", help="only print the table of what is there")
    options = parser.parse_args()
    benchmark = Benchmark(options)
    if not options.markdown:
        benchmark.run()
    print(markdown(benchmark.rows, options.models))
    return 0


if __name__ == "__main__":
    sys.exit(main())
