"""What tests compare with: plain ONNX Runtime, without any code of the project."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort


def plain_run(model: ir.Model | onnx.ModelProto | str | Path, feeds: dict[str, Any]) -> dict[str, np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    source: Any = str(model) if isinstance(model, (str, Path)) else None
    if source is None:
        proto = ir.to_proto(model) if isinstance(model, ir.Model) else model
        source = proto.SerializeToString()
    session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, feeds), strict=True))


def drawn_feeds(model: ir.Model, batch: int = 3, seed: int = 0) -> dict[str, np.ndarray]:
    """Draw one feed for the inputs of a small model whose first axis may be a batch."""
    random = np.random.default_rng(seed)
    feeds = {}
    for value in model.graph.inputs:
        if value.const_value is None and value.name:
            shape = [d if isinstance(d, int) else batch for d in (value.shape or ())]
            dtype = value.dtype.numpy() if value.dtype else np.float32
            drawn = np.abs(random.standard_normal(shape) * 4) if dtype == np.int64 else random.standard_normal(shape)
            feeds[value.name] = np.asarray(drawn > 0 if dtype == np.bool_ else drawn, dtype)
    return feeds


def assert_same(a: dict[str, np.ndarray], b: dict[str, np.ndarray], tolerance: float = 1e-5) -> None:
    """Compare outputs: max|a - b| <= tolerance * max|a|, output by output."""
    assert list(a) == list(b)
    for name in a:
        assert a[name].shape == b[name].shape
        error = np.abs(a[name].astype(np.float64) - b[name]).max(initial=0)
        assert error <= tolerance * max(np.abs(a[name]).max(initial=0), 1e-30), (name, error)
