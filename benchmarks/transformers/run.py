"""A trained language model made small: ours beside the peers; print perplexity, KL, bytes, tokens per second, cost.

    python benchmarks/transformers/run.py KIT_FOLDER --cache FOLDER [--only ROW ...] [--again ROW ...] [--markdown]

Each of ours is the command that a person types. Peers run in environments of their own under FOLDER/environments.
Samples are windows of 128 tokens; perplexity and KL come from the kit's test windows through plain ONNX Runtime. What
came out decodes token by token beside the original, taking turns in one process; the ratio of the two is told, not the
times. Rows are kept in FOLDER/rows.jsonl, and what is there is not measured again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from language_model import LanguageModel
from rows import GENAI, OURS, PEERS, Peer
from table import measured, size

sys.path.insert(0, str(Path(__file__).absolute().parents[1] / "quantize"))
from environments import python_of

CHILD = Path(__file__).absolute().parents[1] / "quantize" / "child.py"

TURNS = 12


class Benchmark:
    """The cache folder: samples, models and rows."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.cache: Path = options.cache.absolute()
        self.cache.mkdir(parents=True, exist_ok=True)
        self.subject = LanguageModel(options.kit)
        self.windows = self.cache / "windows.npz"
        self.subject.write_samples(self.windows)
        self.path = self.cache / "rows.jsonl"
        old = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        self.rows = {row["row"]: row for row in map(json.loads, old)}

    def measure(self, name: str) -> None:
        """Make one of them, judge and time it, and keep the row."""
        folder = self.cache / "models" / "".join(c if c.isalnum() else "_" for c in name)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        output = folder / "model.onnx"
        try:
            made = self._peer(PEERS[name], output) if name in PEERS else self._ours(name, output)
            row = {"row": name, **made, **self.subject.judge(output), "time": self._time(output)}
        except Exception as error:  # noqa: BLE001 - a peer's file may not even load, and that is its row
            row = {"row": name, "failed": " ".join(str(error).split())[:300]}
        print({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}, flush=True)
        self.rows[name] = row
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def _ours(self, name: str, output: Path) -> dict[str, Any]:
        if name in GENAI:
            model, target, words = self.subject.genai, output.parent, GENAI[name]
        else:
            model, target, words = self.subject.original, output, OURS[name]
        words = [str(self.windows) if word == "SAMPLES" else word for word in words]
        found = measured([sys.executable, "-m", "onnxcompress", words[0], str(model), "-o", str(target), *words[1:]])
        if not output.exists():
            raise RuntimeError((found["text"].strip().splitlines() or ["nothing"])[-1])
        return {"cpu": found["seconds"], "peak": found["peak"], "smaller": size(self.subject.original) / size(output)}

    def _peer(self, peer: Peer, output: Path) -> dict[str, Any]:
        python = python_of(peer.environment, self.cache, here=False)
        with tempfile.TemporaryDirectory() as temporary:
            samples, result = Path(temporary, "samples.npz"), Path(temporary, "result.json")
            feeds = self.subject.samples(peer.samples)
            np.savez(samples, **{f"{n:05d}/{k}": v for n, feed in enumerate(feeds) for k, v in feed.items()})
            options = json.dumps(peer.options)
            command = [str(python), str(CHILD), f"../../transformers/peers/{peer.file}"]
            command += [str(self.subject.original), str(samples), str(output), options, str(result)]
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1800, cwd=temporary)
            found = json.loads(result.read_text()) if result.exists() else {"failed": done.stderr.strip()[-300:]}
        if "failed" in found or not output.exists():
            raise RuntimeError(found.get("failed", "wrote nothing"))
        return {"cpu": found["cpu"], "peak": found["peak_mb"] * 2**20,
                "smaller": size(self.subject.original) / size(output)}  # fmt: skip

    def _time(self, output: Path) -> float:
        """Return the time of decoding over the original's: the median of turns taken together."""
        first, second = self.subject.decoder(self.subject.original), self.subject.decoder(output)
        ratios = []
        for _ in range(TURNS):
            seconds = []
            for run in (first, second):
                start = time.perf_counter()
                run()
                seconds.append(time.perf_counter() - start)
            ratios.append(seconds[1] / seconds[0])
        return float(np.median(ratios))

    def markdown(self) -> str:
        """Return the table."""
        lines = [
            "| | perplexity | KL | MB | tokens/s over float's | CPU s | peak MB |",
            "|---|---|---|---|---|---|---|",
        ]
        for name in (*OURS, *GENAI, *PEERS):
            row = self.rows.get(name)
            if row is None:
                continue
            if row.get("failed"):
                lines.append(f"| {name} | {row['failed'][:100]} | | | | | |")
                continue
            numbers = f"{row['perplexity']:.2f} | {row['kl']:.4f} | {row['bytes'] / 1e6:.2f} | {1 / row['time']:.2f}"
            line = f"| {name} | {numbers} | {row['cpu']:.0f} | {row['peak'] / 1e6:.0f} |"
            lines.append(line.replace(" 0.", " ."))
        return "\n".join(lines)


def main() -> int:
    """Measure what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kit", type=Path)
    parser.add_argument("--cache", type=Path, required=True)
    names = [*OURS, *GENAI, *PEERS]
    parser.add_argument("--only", nargs="+", default=names, choices=names, metavar="ROW")
    parser.add_argument("--again", nargs="+", default=[], choices=names, metavar="ROW")
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    benchmark = Benchmark(options)
    for name in options.only:
        if name not in benchmark.rows or name in options.again:
            benchmark.measure(name)
    if options.markdown:
        print(benchmark.markdown())
    return 0


if __name__ == "__main__":
    sys.exit(main())
