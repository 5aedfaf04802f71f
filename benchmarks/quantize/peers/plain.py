"""No quantization: what running the float model over the samples costs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import onnxruntime as ort


def quantize(model: Path, feeds: list[dict[str, Any]], output: Path) -> dict[str, Any]:
    """Run each sample once; the session opens first, and is not timed."""
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    session.run(None, feeds[0])
    start, cpu = time.perf_counter(), time.process_time()
    for feed in feeds:
        session.run(None, feed)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    output.write_bytes(model.read_bytes())
    return {"seconds": seconds, "cpu": cpu}
