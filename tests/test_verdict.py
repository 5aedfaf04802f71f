"""What is said of a budget, in words and as an exit status."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import call
from corpus.text import model

from onnxcompress import apply
from onnxcompress.evaluation.compare import Comparison, compare_models
from onnxcompress.passes import Quantize
from onnxcompress.samples.samples import load_samples
from onnxcompress.verdict import judge_drop

ARGMAX = "g (float[N,4] x) => (float[N,4] y) { y = Identity(x) }"
SHIFTED = "g (float[N,4] x) => (float[N,4] y) <float[4] b = {0, 0.01, 0, 0}> { y = Add(x, b) }"
"""Changes a decision where the two highest scores are nearer than 0.01."""


def compared(count: int, metric: str = "agreement") -> Comparison:
    subject = model(ARGMAX, {})
    values = np.random.default_rng(0).normal(size=(count, 4)).astype(np.float32)
    return compare_models(subject, model(SHIFTED, {}), load_samples({"x": values}, subject), metric)


def test_the_interval_decides_not_the_drop() -> None:
    few, many = compared(50), compared(5000)
    assert judge_drop(few, 0.02).state == "not shown"
    assert "samples would show it" in judge_drop(few, 0.02).details[0]
    held = judge_drop(many, 0.02)
    assert (held.state, held.holds, held.asked) == ("held", True, {"max_drop": 0.02})
    assert held.low is not None
    assert held.high is not None
    assert held.low < (held.drop or 0) < held.high < 0.02
    assert judge_drop(many, 0.0).state == "not held"


def test_samples_that_were_fitted_to_show_nothing() -> None:
    for unseen in (False, None):
        found = judge_drop(compared(5000), 0.02, unseen=unseen)
        assert (found.state, found.holds) == ("not shown", False)
        assert "--evaluate-on" in found.details[0]


def test_equal_outputs_hold_whatever_is_asked_for() -> None:
    subject = model(ARGMAX, {})
    samples = load_samples({"x": np.ones((2, 4), np.float32)}, subject)
    assert judge_drop(compare_models(subject, model(ARGMAX, {}), samples, "agreement"), 0.0).holds


def test_a_pass_that_keeps_its_budget_by_luck_ends_with_1(tmp_path: Path) -> None:
    subject = model("g (float[N,8] x) => (float[N,4] y) { y = Gemm(x, w) }", {"w": (8, 4)})
    values = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
    _, report = apply(subject, [Quantize(max_drop=0.02)], data={"x": values})
    assert report.verdict is not None
    assert report.verdict.state in ("not shown", "not held")
    assert json.loads(report.to_json())["verdict"]["holds"] is False
    assert report.verdict.sentence in report.to_html()


def test_the_command_line_takes_a_budget_for_any_recipe(tmp_path: Path) -> None:
    import onnx_ir as ir

    subject = model("g (float[N,4] x) => (float[N,4] y) { z = Identity(x) y = Relu(z) }", {})
    ir.save(subject, tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", x=np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32))
    line = ("apply", tmp_path / "m.onnx", "-p", "fold-constants", "--data", tmp_path / "d.npz", "--overwrite")
    held = call(*line, "-o", tmp_path / "o.onnx", "--max-drop", "1%", "--json")
    assert held.exit_code == 0
    assert json.loads(held.stdout)["verdict"]["asked"] == {"max_drop": 0.01}
    bare = call(*line[:4], "-o", tmp_path / "o.onnx", "--overwrite", "--max-drop", "1%")
    assert bare.exit_code == 1
    assert bare.stdout.startswith("Not shown: at most 0.01 may be lost, and there are no samples")
    for text, wrong in (("x", "expected a number such as 0.01, or 1%"), ("-1", "expected 0 or more")):
        assert wrong in call(*line, "-o", tmp_path / "o.onnx", "--max-drop", text).stderr


@pytest.mark.parametrize("unseen", [True, False])
def test_random_samples_show_nothing(unseen: bool) -> None:
    subject = model(ARGMAX, {})
    found = compare_models(subject, model(ARGMAX, {}), load_samples("random", subject), "agreement")
    assert judge_drop(found, 0.5, unseen=unseen).state == "not shown"
