"""Sessions of the worker's onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

LOSS, SCORE = "onnxcompress.loss", "onnxcompress.score"


def open_session(path: Path, job: dict[str, Any]) -> Any:
    """Return a session for a graph that computes a loss, and perhaps gradients."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job["threads"]
    for library in job.get("custom_ops", ()):
        options.register_custom_ops_library(library)
    options.use_deterministic_compute = True
    # Gradients read what is between QuantizeLinear and DequantizeLinear, so that nothing is fused to integer kernels.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
