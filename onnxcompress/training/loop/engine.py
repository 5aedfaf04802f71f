"""Sessions of the worker's onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

LOSS, SCORE = "onnxcompress.loss", "onnxcompress.score"


def open_gradients(path: Path, weights: list[str], threads: int) -> Any:
    """Return a session that gives the loss and its gradient with respect to each weight."""
    import onnxruntime
    from onnxruntime.capi._pybind_state import GradientGraphBuilder, get_optimized_model

    onnxruntime.set_default_logger_severity(3)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.use_deterministic_compute = True
    wanted = set(weights)
    optimized = get_optimized_model(path.read_bytes(), wanted, options)
    builder = GradientGraphBuilder(optimized, {LOSS}, wanted, LOSS, options)
    builder.build()
    return onnxruntime.InferenceSession(builder.get_model(), options, providers=["CPUExecutionProvider"])


def open_graph(path: Path, threads: int) -> Any:
    """Return a session that runs a graph as it is."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
