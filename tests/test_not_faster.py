"""A quantized model that is not faster than float is reported as such, with the layers that cost the time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from corpus.topologies import conv_chain

from onnxcompress import apply
from onnxcompress.evaluation.timing import Timing
from onnxcompress.passes import PruneChannels, Quantize

DATA = {"x": np.random.default_rng(0).normal(size=(8, 3, 8, 8)).astype(np.float32)}


def timed(monkeypatch: pytest.MonkeyPatch, *ratios: float) -> list[int]:
    """Let each timing say the next of some ratios of the last model to the first; return how many models each timed."""
    counts: list[int] = []
    left = iter(ratios)

    def answer(models: list[ir.Model], *_args: Any, **_options: Any) -> list[Timing]:
        counts.append(len(models))
        ratio = next(left)
        return [Timing(1, 1, 1, 1, 1, 1, 9)] * (len(models) - 1) + [
            Timing(ratio, ratio, ratio, ratio, ratio - 0.05, ratio + 0.05, 9)
        ]

    monkeypatch.setattr("onnxcompress.evaluation.timing.time_models", answer)
    return counts


def optimised(model: ir.Model, folder: Path) -> dict[str, str]:
    """Let ONNX Runtime write the graph that it makes; return name → operator."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
    return {node.name: node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node}


def test_a_slow_model_is_reported_with_its_layers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    counts = timed(monkeypatch, 1.2, 1.3)
    subject = conv_chain()
    for node in subject.graph:
        node.name = f"the {node.outputs[0].name}"
    model, report = apply(subject, [Quantize()], data=DATA)
    assert counts == [2, 2]
    found = report.not_faster
    assert found is not None
    last = report.stages[-1]
    assert (last.ratio, last.ratio_low, last.ratio_high) == (1.3, 1.25, 1.35)
    assert last.milliseconds == pytest.approx(1.3 * report.stages[0].milliseconds)
    graph = optimised(model, tmp_path)
    assert found.layers
    assert {layer.kernel: layer.operator for layer in found.layers}.items() <= graph.items()
    names = {node.name for node in subject.graph}
    made_of_nodes = [layer for layer in found.layers if layer.kind == "integer"]
    assert made_of_nodes
    assert {layer.node for layer in made_of_nodes} <= names
    assert sum(item.kernels_after for item in found.operators) == len(graph)
    assert sum(found.kinds.values()) == pytest.approx(1)
    assert "Slower than the float original: 1.30" in report.to_html()
    assert len(json.loads(report.to_json())["not_faster"]["layers"]) == len(found.layers)


@pytest.mark.parametrize("ratios", [(0.6,), (1.0, 0.7)], ids=["faster", "a timing that was disturbed"])
def test_a_faster_model_is_not(monkeypatch: pytest.MonkeyPatch, ratios: tuple[float, ...]) -> None:
    counts = timed(monkeypatch, *ratios)
    _, report = apply(conv_chain(), [Quantize()], data=DATA)
    assert len(counts) == len(ratios)
    assert report.not_faster is None
    assert "the float original" not in report.to_html()


def test_float_models_and_those_that_were_quantized_before_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert timed(monkeypatch, 1.3) == []
    _, report = apply(conv_chain(), [PruneChannels(sparsity=0.5)])
    assert report.not_faster is None
    timed(monkeypatch, 0.5, 1.3)
    quantized, _ = apply(conv_chain(), [Quantize()], data=DATA)
    _, report = apply(quantized, [])
    assert report.not_faster is None
