"""Quantize once with one peer, and tell what it cost. Runs in the peer's environment: numpy, and nothing of ours.

python child.py PEER MODEL.onnx SAMPLES.npz OUTPUT.onnx OPTIONS_JSON RESULT.json
"""

from __future__ import annotations

import importlib.util
import json
import resource
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np


def load_feeds(path: str) -> list[dict[str, np.ndarray]]:
    """Return the samples, one feed each; their arrays are named ``number/input``."""
    feeds: dict[str, dict[str, np.ndarray]] = {}
    with np.load(path) as arrays:
        for key in arrays.files:
            number, name = key.split("/", 1)
            feeds.setdefault(number, {})[name] = arrays[key]
    return [feeds[number] for number in sorted(feeds)]


def usage() -> tuple[float, float]:
    """Return seconds of CPU and peak megabytes, processes that this one started included."""
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return sum(u.ru_utime + u.ru_stime for u in both), max(u.ru_maxrss for u in both) / unit


def measure(peer: str, model: str, samples: str, output: str, options: dict[str, Any]) -> dict[str, Any]:
    """Run one peer; what it costs to import it, and to read the samples, is not its quantization's."""
    feeds = load_feeds(samples)
    file = Path(__file__).parent / "peers" / f"{peer}.py"
    sys.path.insert(0, str(file.parent))
    spec = importlib.util.spec_from_file_location(f"peer_{peer}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    cpu_before, idle = usage()
    start = time.perf_counter()
    more = module.quantize(Path(model), feeds, Path(output), **options)
    seconds = time.perf_counter() - start
    cpu, peak = usage()
    return {"seconds": seconds, "cpu": cpu - cpu_before, "peak_mb": peak, "idle_mb": idle, **(more or {})}


def main() -> int:
    """Write the result, which may be a failure in words."""
    peer, model, samples, output, options, result = sys.argv[1:]
    try:
        row = measure(peer, model, samples, output, json.loads(options))
    except Exception as error:  # noqa: BLE001 - a peer may fail in any way, and that is its row
        traceback.print_exc()
        row = {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}", "peak_mb": usage()[1]}
    Path(result).write_text(json.dumps(row), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
