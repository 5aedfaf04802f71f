"""What nobody can have wanted is said on top: no effect, zeros that stay, a file that grew."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from command_line import call
from corpus.text import model
from corpus.topologies import mlp

from onnxcompress import apply
from onnxcompress.passes import FoldConstants, MagnitudePrune, PruneChannels, Quantize, Shrink

RELU = "g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }"


@pytest.fixture(autouse=True)
def not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxcompress.evaluation.step_times.slower_steps", lambda *_: [])


def test_a_recipe_that_does_nothing_ends_with_1(tmp_path: Path) -> None:
    ir.save(model(RELU, {}), tmp_path / "m.onnx")
    done = call("apply", tmp_path / "m.onnx", "-o", tmp_path / "o.onnx", "-p", "quantize", "--data", "random")
    assert done.exit_code == 1
    assert "fell short: quantize changed nothing: no Conv, Gemm or MatMul" in done.stderr
    tidy = call("apply", tmp_path / "m.onnx", "-o", tmp_path / "p.onnx", "-p", "fold-constants")
    assert tidy.exit_code == 0, "a model that is tidy already falls short of nothing"


def test_one_step_without_effect_among_others_is_a_warning() -> None:
    data = {"x": np.ones((4, 16), np.float32)}
    subject = model("g (float[N,16] x) => (float[N,4] y) { y = Gemm(x, w) }", {"w": (16, 4)})
    _, report = apply(subject, [MagnitudePrune(threshold=0.0), Quantize()], data=data)
    assert report.unmet == []
    assert next(text for text in report.warnings if "changed nothing" in text).startswith("magnitude-prune changed")


def test_zeros_that_nothing_removes_are_said() -> None:
    _, masked = apply(mlp(), [PruneChannels(sparsity=0.5)])
    assert any("prune-channels wrote zeros" in text and "shrink" in text for text in masked.warnings)
    _, smaller = apply(mlp(), [PruneChannels(sparsity=0.5), Shrink()])
    assert not any("zeros" in text for text in smaller.warnings)
    _, nothing = apply(mlp(), [FoldConstants()])
    assert not any("zeros" in text for text in nothing.warnings)


def test_a_file_that_grew_is_said() -> None:
    subject = model("g (float[N,4] x) => (float[N,4] y) { y = Gemm(x, w) }", {"w": (4, 4)})
    _, report = apply(subject, [Quantize()], data={"x": np.ones((4, 4), np.float32)})
    first, last = report.stages[0].bytes, report.stages[-1].bytes
    assert last > first
    assert f"The file grew from {first:,} to {last:,} bytes" in report.warnings
