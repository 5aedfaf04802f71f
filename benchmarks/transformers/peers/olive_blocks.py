"""Olive's passes for the weights of ONNX models."""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path
from typing import Any

import onnx
from olive.hardware import DEFAULT_CPU_ACCELERATOR
from olive.model import ONNXModelHandler
from olive.passes.olive_pass import create_pass_from_dict


def quantize(model: Path, feeds: list[dict[str, Any]], output: Path, *, name: str, **options: Any) -> None:
    """Run one pass."""
    module, _, kind = name.rpartition(".")
    step = create_pass_from_dict(
        getattr(importlib.import_module(module), kind),
        options,
        disable_search=True,
        accelerator_spec=DEFAULT_CPU_ACCELERATOR,
    )
    with tempfile.TemporaryDirectory() as folder:
        found = onnx.load(step.run(ONNXModelHandler(str(model)), folder).model_path)
    for value, given in zip(found.graph.output, onnx.load(model).graph.output, strict=True):
        if value.name != given.name:  # it names an output anew, which nobody could ask for
            found.graph.node.append(onnx.helper.make_node("Identity", [value.name], [given.name]))
            value.name = given.name
    onnx.save(found, output)
