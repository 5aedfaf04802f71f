"""Quantize the kit's models with this project and with its peers, side by side; print what each costs and what is left.

    python benchmarks/quantize/run.py KIT_FOLDER --cache FOLDER [--models NAME ...] [--only CANDIDATE ...]
        [--again CANDIDATE ...] [--time-again] [--markdown | --across COLUMN ...]

Each candidate runs in a process of its own, each peer in a virtual environment of its own, which the command makes in
the cache folder with pip. All get the same calibration samples; scores come from the test split through plain ONNX
Runtime; all models that came out are timed beside the float model, taking turns in one process. A crash, a refusal or a
model that does not load is a row in words.

Rows are kept in FOLDER/results.jsonl as they come, and what is there is not measured again, unless with --again.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from candidates import CANDIDATES, ENVIRONMENTS, KIT, MODELS, PLAIN
from environments import InstallError, python_of
from rich.console import Console
from table import COLUMNS, across, markdown, show

HERE = Path(__file__).absolute().parent


class ChildError(Exception):
    """A child process gave no result; the text says why."""


def run_child(command: list[Any], limit: float) -> None:
    """Run a process and all that it starts for at most `limit` seconds, in a folder that is removed with what it left.

    Raises
    ------
    ChildError
        It crashed, or the time was up.
    """
    with tempfile.TemporaryFile("w+") as errors, tempfile.TemporaryDirectory() as folder:
        child = subprocess.Popen(
            [str(part) for part in command],
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
            cwd=folder,
        )
        try:
            code = child.wait(limit)
        except subprocess.TimeoutExpired:
            raise ChildError(f"not done after {limit:.0f} s") from None
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        errors.seek(0)
        last = ([line.strip() for line in errors if line.strip()] or [""])[-1]
    if code:
        how = f"crashes ({signal.Signals(-code).name})" if code < 0 else "fails"
        raise ChildError(f"{how}: {last[:300]}")


def remove(model: Path) -> None:
    """Remove a model, and a file beside it that holds its weights."""
    for file in model.parent.glob(f"{model.name}*"):
        file.unlink()


class Benchmark:
    """The cache folder: samples, quantized models, and rows, one JSON object a line; later rows win."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.cache: Path = options.cache.absolute()
        self.cache.mkdir(parents=True, exist_ok=True)
        self.results = self.cache / "results.jsonl"
        lines = self.results.read_text(encoding="utf-8").splitlines() if self.results.exists() else []
        self.rows: dict[tuple[str, str, str], dict[str, Any]] = {}
        for line in lines:
            self._remember(json.loads(line))

    def _remember(self, row: dict[str, Any]) -> None:
        self.rows[row["kind"], row.get("model", ""), row["candidate"]] = row

    def add(self, kind: str, candidate: str, model: str = "", **values: Any) -> None:
        """Print a row and keep it."""
        row = {"kind": kind, "model": model, "candidate": candidate, **values}
        brief = {key: round(v, 4) if isinstance(v, float) else v for key, v in values.items() if key != "operators"}
        print(kind, model, candidate, brief, flush=True)
        self._remember(row)
        with self.results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def path(self, model: str, candidate: str) -> Path:
        """Where a quantized model is kept."""
        folder = self.cache / "models" / model
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{candidate.replace(' ', '_').replace(',', '')}.onnx"

    def judge(self, what: str, model: str, *arguments: Any, limit: float | None = None) -> None:
        """Run `judge.py`, where this command runs."""
        command = [sys.executable, HERE / "judge.py", what, self.options.kit, model, *arguments]
        run_child(command, self.options.limit if limit is None else limit)

    def samples(self, model: str) -> Path:
        """Return the calibration samples, written once."""
        path = self.cache / "samples" / f"{model}.npz"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            self.judge("samples", model, path)
        return path

    def quantize(self, model: str, name: str) -> None:
        """Run one candidate, judge what it wrote, and add the row."""
        candidate, output = CANDIDATES[name], self.path(model, name)
        remove(output)
        source = HERE.parents[1] / "models/digits.onnx"
        source = source if model == "digits" else self.options.kit / "models" / f"{model}.onnx"
        row: dict[str, Any] = {}
        with tempfile.TemporaryDirectory() as temporary:
            result = Path(temporary, "result.json")
            try:
                python = python_of(candidate.environment, self.cache, here=self.options.here)
                what = (source, self.samples(model), output, json.dumps(candidate.options), result)
                run_child([python, HERE / "child.py", candidate.peer, *what], self.options.limit)
                row |= json.loads(result.read_text(encoding="utf-8"))
                if "failed" not in row:
                    row |= self.score(model, output, Path(temporary, "score.json"))
            except (InstallError, ChildError) as error:
                row["failed"] = str(error)
        if "failed" in row:
            row["failed"] = row["failed"].replace(f"{output.parent}/", "")
            remove(output)
        self.add("quantized", name, model, **row)

    def score(self, model: str, output: Path, result: Path) -> dict[str, Any]:
        """Return what `judge.py` makes of a quantized model."""
        try:
            self.judge("score", model, output, result)
        except ChildError as error:
            return {"failed": f"what it wrote cannot be scored: {error}"}
        row: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
        return row

    def time(self, model: str) -> None:
        """Time everything that came out beside the float model, in turns."""
        names = [name for name in CANDIDATES if name != PLAIN and self.path(model, name).exists()]
        paths = [self.path(model, name) for name in (PLAIN, *names)]
        with tempfile.TemporaryDirectory() as temporary:
            result = Path(temporary, "latency.json")
            try:
                self.judge("latency", model, result, self.options.seconds, *paths, limit=1800)
            except ChildError as error:
                print(f"{model}: cannot be timed: {error}", flush=True)
                return
            rows = json.loads(result.read_text(encoding="utf-8"))
        for name, row in zip((PLAIN, *names), rows, strict=True):
            self.add("latency", name, model, together=len(paths), **row)

    def run(self) -> None:
        """Measure what has not been measured yet."""
        again = self.options.again
        for model in self.options.models:
            fresh = False
            for name in [PLAIN, *(name for name in self.options.only if name != PLAIN)]:
                only = CANDIDATES[name].only
                if only and model not in only:
                    continue
                if ("quantized", model, name) not in self.rows or name in again:
                    self.quantize(model, name)
                    fresh = True
            if self.options.seconds and (fresh or self.options.time_again):
                self.time(model)

    def environments(self) -> None:
        """Add a row for each environment: what is installed there."""
        for name in (None, *ENVIRONMENTS):
            marker = self.cache / "environments" / str(name) / "packages.txt"
            if name is None:
                self.add("environment", "ours", packages=installed(), machine=machine())
            elif marker.exists():
                self.add("environment", name, packages=marker.read_text(encoding="utf-8").splitlines())


def installed() -> list[str]:
    """Return what this interpreter has installed."""
    return sorted(f"{package.name}=={package.version}" for package in importlib.metadata.distributions())


def machine() -> dict[str, Any]:
    """Say what this ran on, for what the figures depend on."""
    return {"processor": platform.machine(), "cores": os.cpu_count(), "load": os.getloadavg()[0]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kit", type=lambda text: Path(text).absolute())
    parser.add_argument("--cache", type=Path, required=True, help="environments, samples, models and results.jsonl")
    parser.add_argument("--models", nargs="+", default=KIT, choices=list(MODELS))
    parser.add_argument("--only", nargs="+", default=list(CANDIDATES), choices=list(CANDIDATES), metavar="CANDIDATE")
    parser.add_argument("--again", nargs="+", default=[], choices=list(CANDIDATES), metavar="CANDIDATE")
    parser.add_argument("--time-again", action="store_true", help="time every model once more, for a quiet moment")
    parser.add_argument("--limit", type=float, default=900, help="seconds for one candidate on one model")
    parser.add_argument("--seconds", type=float, default=20, help="to time all candidates of a model; 0: not at all")
    parser.add_argument("--here", action="store_true", help="run every peer in this interpreter")
    parser.add_argument("--markdown", action="store_true", help="only print the tables of what is there, for the docs")
    parser.add_argument("--across", nargs="+", choices=list(COLUMNS), help="only print these columns, models across")
    options = parser.parse_args()
    benchmark = Benchmark(options)
    if options.markdown:
        print(markdown(benchmark.rows, options.models, options.only))
        return 0
    if options.across:
        print("\n\n".join(across(benchmark.rows, options.models, options.only, column) for column in options.across))
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that a child does not outlive this
    benchmark.run()
    benchmark.environments()
    show(benchmark.rows, options.models, options.only, Console())
    return 0


if __name__ == "__main__":
    sys.exit(main())
