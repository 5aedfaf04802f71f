"""Quantizing small models, and counting onnxruntime's kernels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from onnxcompress.contract import Changes, Context
from onnxcompress.graph import edit
from onnxcompress.passes import Quantize
from onnxcompress.samples.samples import load_samples

Feeds = dict[str, np.ndarray]


@pytest.fixture
def quantized() -> Callable[..., tuple[ir.Model, Changes]]:
    """Plan as textbooks do, pass the plan through JSON, apply to a copy, check; the model must stay as it was."""

    def run(subject: ir.Model, feeds: Feeds, **options: Any) -> tuple[ir.Model, Changes]:
        for value in edit.values(subject.graph):
            edit.constant(value)  # onnx-ir names the tensor of a Constant node when it is first read
        before = ir.to_proto(subject).SerializeToString(deterministic=True)
        step = Quantize(**{"equalise": False, "correct": False, "rounding": "nearest", **options})
        plan = step.plan(subject, Context(subject, samples=load_samples(feeds, subject)))
        copies = [subject.clone(), subject.clone()]
        changes = step.apply(copies[0], type(plan).from_json(plan.to_json()))
        step.apply(copies[1], plan)
        first, second = (ir.to_proto(copy).SerializeToString(deterministic=True) for copy in copies)
        assert first == second
        assert ir.to_proto(subject).SerializeToString(deterministic=True) == before
        onnx.checker.check_model(ir.to_proto(copies[0]), full_check=True)
        return copies[0], changes

    return run


@pytest.fixture
def kernels(tmp_path: Path) -> Callable[[Any], Counter[str]]:
    """Count the operators of the graph that onnxruntime makes of a model."""

    def count(subject: ir.Model | Path) -> Counter[str]:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
        source = str(subject) if isinstance(subject, Path) else ir.to_proto(subject).SerializeToString()
        ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        return Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)

    return count


@pytest.fixture
def literally() -> Callable[[ir.Model, Feeds], Feeds]:
    """Run a model operator by operator, without any rewriting."""

    def run(subject: ir.Model, feeds: Feeds) -> Feeds:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        source = ir.to_proto(subject).SerializeToString()
        session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        return dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))

    return run
