"""A quantized model that is not faster than float is reported as such, with the layers that cost the time."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from corpus.topologies import conv_chain

from onnxcompress import apply
from onnxcompress.evaluation.step_times import slower
from onnxcompress.evaluation.timing import Timing, _measure, summarise
from onnxcompress.passes import FoldBatchNorm, PruneChannels, Quantize, Shrink
from onnxcompress.speed import Speed

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
    assert (last.ratio, last.ratio_low, last.ratio_high) == (1.2, 1.15, 1.25)
    assert last.milliseconds == pytest.approx(1.2 * report.stages[0].milliseconds)
    graph = optimised(model, tmp_path)
    assert found.layers
    assert {layer.kernel: layer.operator for layer in found.layers}.items() <= graph.items()
    names = {node.name for node in subject.graph}
    made_of_nodes = [layer for layer in found.layers if layer.kind == "integer"]
    assert made_of_nodes
    assert {layer.node for layer in made_of_nodes} <= names
    assert sum(item.kernels_after for item in found.operators) == len(graph)
    assert sum(found.kinds.values()) == pytest.approx(1)
    assert "Slower than the original: 1.20" in report.to_html()
    assert len(json.loads(report.to_json())["not_faster"]["layers"]) == len(found.layers)


@pytest.mark.parametrize("ratios", [(0.6,), (1.0, 0.7)], ids=["faster", "a timing that was disturbed"])
def test_a_faster_model_is_not(monkeypatch: pytest.MonkeyPatch, ratios: tuple[float, ...]) -> None:
    counts = timed(monkeypatch, *ratios)
    _, report = apply(conv_chain(), [Quantize()], data=DATA)
    assert len(counts) == len(ratios)
    assert report.not_faster is None
    assert "than the original" not in report.to_html()


def test_a_slower_float_model_is_looked_into_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for ratios, slow in (((1.3, 1.3), True), ((1.3, 1.0), False), ((1.0,), False)):
        timed(monkeypatch, *ratios)
        _, report = apply(conv_chain(), [PruneChannels(sparsity=0.5), Shrink()])
        assert (report.not_faster is not None) == slow
        assert ("Slower than the original: 1.30 × the time (1.25 – 1.35)" in report.to_html()) == slow
    timed(monkeypatch, 0.5, 1.3)
    quantized, _ = apply(conv_chain(), [Quantize()], data=DATA)
    _, report = apply(quantized, [])
    assert report.not_faster is None


def slow_steps(monkeypatch: pytest.MonkeyPatch, steps: list[float], again: float) -> list[int]:
    """Let each step take so many times as long as the one before, and, timed a second time, `again`."""
    counts: list[int] = []

    def answer(models: list[ir.Model], *_args: Any, **_options: Any) -> list[Timing]:
        counts.append(len(models))
        if len(counts) == 1:
            beside = [None, *(Speed(step, step - 0.05, step + 0.05) for step in steps)]
            return [Timing(1, 1, 1, 1, 1, 1, 9, step) for step in beside]
        first = Timing(1, 1, 1, 1, 1, 1, 9)
        return [first, Timing(again, again, again, again, again - 0.01, again + 0.01, 9)]

    monkeypatch.setattr("onnxcompress.evaluation.timing.time_models", answer)
    return counts


def test_each_step_that_made_the_model_slower_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = [PruneChannels(sparsity=0.5), Shrink()]
    counts = slow_steps(monkeypatch, [1.0, 1.5], 1.6)
    _, report = apply(conv_chain(), recipe)
    sentence = "shrink made the model slower: it takes 1.50 × the time (1.45 – 1.55) that it took before"
    assert report.warnings == [sentence]
    assert counts == [3, 2]
    assert sentence in report.to_html()
    assert json.loads(report.to_json())["warnings"] == [sentence]
    slow_steps(monkeypatch, [1.0, 1.5], 1.0)
    assert apply(conv_chain(), recipe)[1].warnings == [], "a timing that was disturbed"


def test_on_a_busy_machine_the_time_spent_computing_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = slow_steps(monkeypatch, [], 1.6)
    counts.append(0)
    one, other = conv_chain(), conv_chain()
    assert slower(one, other, Speed(1.5, 0.5, 3.0), {}, 1.0) == "1.60 × the CPU time (1.59 – 1.61)"
    assert slower(one, other, Speed(1.0, 0.95, 1.05), {}, 1.0) == ""
    assert counts == [0, 2]


def test_time_spent_waiting_is_not_spent_computing() -> None:
    class Waits:
        def run(self, feeds: Any) -> None:
            time.sleep(0.01)

    (passed,), (computed,) = (
        _measure([Waits()], {}, 0.0, clock).min(axis=0)  # type: ignore[list-item]
        for clock in (time.perf_counter_ns, time.thread_time_ns)
    )
    assert passed >= 10
    assert computed < 5


def test_a_step_for_another_target_is_not_called_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = slow_steps(monkeypatch, [1.5, 1.5, 1.5], 1.6)
    recipe = [FoldBatchNorm(), Quantize(target="qnn"), Shrink()]
    _, report = apply(conv_chain(), recipe, data=DATA)
    assert [text.split()[0] for text in report.warnings if "slower" in text] in ([], ["fold-batch-norm"])
    assert max(counts[1:], default=2) == 2
    assert report.not_faster is None


def test_the_time_of_a_step_is_taken_within_each_round() -> None:
    rounds = np.array([[1.0, 2.0, 3.0], [2.0, 4.0, 6.0], [10.0, 20.0, 30.0]])
    first, second, third = summarise(rounds)
    assert first.step is None
    assert second.step == Speed(2.0, 2.0, 2.0)
    assert third.step == Speed(1.5, 1.5, 1.5)
