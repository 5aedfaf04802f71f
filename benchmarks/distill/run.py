"""Train real models: students of a teacher, what was pruned away won back, masks, clusters and integers kept.

    python benchmarks/distill/run.py KIT_FOLDER --kept FOLDER [--parts NAME ...] [--only TEXT] [--seeds 3] [--markdown]

KIT_FOLDER holds ``models/*.onnx`` and a ``kit.py`` with ``feeds(name, split)``, ``score(name, session)`` and
``more_cifar(count)``. Scores are of the test split, which no training sees, through plain ONNX Runtime. Models and rows
(results.jsonl) are kept in FOLDER as they come, and what is there is not trained again. Tables in Markdown come last.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from parts import PARTS, Case
from table import markdown

from onnxcompress import OnnxCompressError, apply


@dataclass
class Rows:
    """Results, one JSON object a line."""

    path: Path

    def read(self) -> list[dict[str, Any]]:
        """Return all that have been kept."""
        return [json.loads(line) for line in self.path.read_text().splitlines()] if self.path.exists() else []

    def has(self, case: Case, seed: int) -> bool:
        """Tell whether a case has been measured."""
        key = (case.part, case.model, case.what, seed)
        return any((row["part"], row["model"], row["what"], row["seed"]) == key for row in self.read())

    def add(self, row: dict[str, Any]) -> None:
        """Print a row and keep it."""
        print(" ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in row.items()), flush=True)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")


def measure(case: Case, seed: int, kept: Path) -> dict[str, Any]:
    """Run one recipe and score what comes out."""
    target = kept / f"{case.part}-{case.model}-{case.what}-{seed}.onnx".replace(" ", "_").replace("/", "_")
    row: dict[str, Any] = {"part": case.part, "model": case.model, "what": case.what, "seed": seed}
    started = time.perf_counter()
    try:
        _, report = apply(
            case.source, case.recipe, data=case.data, evaluate_on=case.judge, output=target, seed=seed, overwrite=True
        )
    except OnnxCompressError as error:
        return row | {"refused": str(error).splitlines()[0]}
    row["seconds"] = round(time.perf_counter() - started, 1)
    row["score"] = case.subject.score(target)
    row["before"] = case.before()
    row |= {"zipped": zipped(target), "bytes": target.stat().st_size, "zeros": zeros(target)}
    row["notes"] = [note for step in report.steps for note in step.notes][-3:]
    return row


def zipped(path: Path) -> int:
    """Return the bytes of a file as ZIP has them."""
    with zipfile.ZipFile(path.with_suffix(".zip"), "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.write(path, path.name)
    size = path.with_suffix(".zip").stat().st_size
    path.with_suffix(".zip").unlink()
    return size


def zeros(path: Path) -> float:
    """Return the share of zeros in all weights of two or more dimensions; of integers, of those at the zero point 0."""
    import onnx

    model = onnx.load(path)
    arrays = [onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer if len(tensor.dims) > 1]
    weights = [array for array in arrays if array.size > 64]
    return float(sum((array == 0).sum() for array in weights) / max(sum(array.size for array in weights), 1))


def cases(names: list[str], only: str, kit: Path, kept: Path) -> Iterator[Case]:
    """Return what is to be measured."""
    for name in names:
        make: Callable[[Path, Path], Iterator[Case]] = PARTS[name]
        yield from (case for case in make(kit, kept) if only in f"{case.model} {case.what}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kit", type=Path)
    parser.add_argument("--kept", type=Path, required=True)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--only", default="")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--markdown", action="store_true", help="print what is there, and measure nothing")
    options = parser.parse_args()
    options.kept.mkdir(parents=True, exist_ok=True)
    rows = Rows(options.kept / "results.jsonl")
    if not options.markdown:
        for seed in range(options.seeds):
            for case in cases(options.parts, options.only, options.kit, options.kept):
                if not rows.has(case, seed) and (case.repeated or seed == 0):
                    rows.add(measure(case, seed, options.kept))
    print(markdown(rows.read(), options.parts))
    return 0


if __name__ == "__main__":
    np.seterr(all="warn")
    sys.exit(main())
