"""Runs the command line as its users do, and small models to run it on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
from typer.testing import CliRunner, Result

from onnxcompress.cli import app

NET = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N, 4] x) => (float[N, 3] y) {
    hidden = MatMul (x, w1)
    positive = Relu (hidden)
    y = MatMul (positive, w2)
}
"""


def make_model(path: Path, *, width: int = 8, seed: int = 0) -> Path:
    """Write a network of two layers, ``x [N, 4] -> y [N, 3]``."""
    random = np.random.default_rng(seed)
    proto = onnx.parser.parse_model(NET)
    for name, shape in (("w1", (4, width)), ("w2", (width, 3))):
        array = random.standard_normal(shape).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.save(proto, path)
    return path


def make_data(path: Path, **arrays: np.ndarray) -> Path:
    """Write samples for `make_model`'s network, with labels; `arrays` replace or add."""
    x = np.random.default_rng(1).standard_normal((24, 4)).astype(np.float32)
    np.savez(path, **({"x": x, "labels": np.arange(24) % 3} | arrays))
    return path


def call(*arguments: str | Path) -> Result:
    """Run a command line in this process."""
    return CliRunner().invoke(app, [str(a) for a in arguments])


def spawn(*arguments: str | Path, program: str | None = None, **options: object) -> subprocess.Popen[str]:
    """Start a command line in a process of its own; `program` is Python text to run in place of the package."""
    start = ["-m", "onnxcompress"] if program is None else ["-c", program]
    command = [sys.executable, *start, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)  # type: ignore[call-overload]
