"""The benchmark beside the peers runs, on the demonstration's model and without a network."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

RUN = Path(__file__).parents[1] / "benchmarks" / "quantize" / "run.py"
MISSING = "aimet"
CANDIDATES = ("ours", "onnxruntime, min-max", MISSING)


def run(cache: Path, *options: str) -> str:
    arguments = [cache, "--cache", cache, "--here", "--models", "digits", "--only", *CANDIDATES, *options]
    done = subprocess.run([sys.executable, RUN, *arguments], capture_output=True, text=True, check=True)
    return done.stdout


def rows(cache: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (cache / "results.jsonl").read_text().splitlines()]


def top1(path: Path) -> float:
    from onnxcompress.demo.data import load_split

    images, labels = load_split("test")
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    outputs = [session.run(None, {"image": image[None]})[0] for image in images]
    return float(np.mean(np.concatenate(outputs).argmax(1) == labels))


@pytest.mark.slow
def test_candidates_side_by_side(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("onnxruntime.quantization")
    run(tmp_path, "--seconds", "0.3")
    quantized = {row["candidate"]: row for row in rows(tmp_path) if row["kind"] == "quantized"}
    latency = {row["candidate"]: row["latency"] for row in rows(tmp_path) if row["kind"] == "latency"}
    files = {"ours": "ours", "onnxruntime, min-max": "onnxruntime_min-max"}
    assert latency.keys() == {"plain inference", *files}
    for name, stem in files.items():
        path = tmp_path / "models" / "digits" / f"{stem}.onnx"
        assert quantized[name]["score"] == top1(path)
        assert quantized[name]["bytes"] == path.stat().st_size / (RUN.parents[2] / "models/digits.onnx").stat().st_size
        assert quantized[name]["integer_heavy"] == 7  # six convolutions and the classifier
    if importlib.util.find_spec("aimet_onnx") is None:
        assert "No module named 'aimet_onnx'" in quantized[MISSING]["failed"]

    before = len([row for row in rows(tmp_path) if row["kind"] != "environment"])
    run(tmp_path, "--seconds", "0", "--again", MISSING, "--limit", "0.01")
    fresh = [row for row in rows(tmp_path) if row["kind"] != "environment"][before:]
    assert [(row["candidate"], row["failed"]) for row in fresh] == [(MISSING, "not done after 0 s")]
    table = run(tmp_path, "--markdown")
    assert f"| {MISSING} | not done after 0 s |" in table
    assert f"| ours | {quantized['ours']['score']:.3f} |" in table
    assert run(tmp_path, "--across", "score").splitlines()[3] == f"| ours | {quantized['ours']['score']:.3f} |"
