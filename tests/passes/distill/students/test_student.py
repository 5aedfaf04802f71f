"""Another model takes the place of the one that the pass gets, and learns in its stead."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from command_line import call
from corpus.text import model
from corpus.trainable import mlp

from onnxcompress import apply
from onnxcompress.errors import ModelError, PlanError
from onnxcompress.graph.load import load
from onnxcompress.graph.save import save
from onnxcompress.passes.distill import Distill
from onnxcompress.runtime.session import open_session

SMALL = """g (float[M,6] pixels) => (float[M,4] scores) {
  x = MatMul(pixels, a) h = Tanh(x) logits = MatMul(h, b) scores = Add(logits, c) }"""
X = np.random.default_rng(0).standard_normal((200, 6)).astype(np.float32)


def small() -> ir.Model:
    return model(SMALL, {"a": (6, 24), "b": (24, 4), "c": (4,)}, seed=5)


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save(mlp(), "big.onnx")
    save(small(), "small.onnx")
    np.savez("x.npz", x=X)


def agreement(subject: ir.Model) -> float:
    expected = open_session(mlp()).run({"x": X})["logits"].argmax(1)
    return float((open_session(subject).run({"x": X})["logits"].argmax(1) == expected).mean())


@pytest.mark.parametrize("initialise", ["as-is", "he"])
def test_it_learns_what_the_model_says_and_is_what_is_written(initialise: str) -> None:
    step = f"distill student=small.onnx initialise={initialise} epochs=30 learning_rate=0.02"
    done = call("apply", "big.onnx", "-p", step, "--data", "x.npz", "-o", "out.onnx", "--plans", "plans")
    assert done.exit_code == 0, done.stderr
    assert "small.onnx takes its place" in done.stdout
    written = load("out.onnx")
    assert [node.op_type for node in written.graph] == ["MatMul", "Tanh", "MatMul", "Add"]
    assert agreement(written) > 0.8
    done = call("apply", "big.onnx", "--replay", "plans", "-o", "again.onnx")
    assert done.exit_code == 0, done.stderr
    assert Path("again.onnx").read_bytes() == Path("out.onnx").read_bytes()
    save(model(SMALL, {"a": (6, 24), "b": (24, 4), "c": (4,)}), "small.onnx", overwrite=True)
    with pytest.raises(PlanError, match=r"student small.onnx: it is not the model any more that the plan was made for"):
        apply("big.onnx", plans="plans")


def test_what_include_and_exclude_name_is_of_the_student() -> None:
    _, report = apply("big.onnx", [Distill(student="small.onnx", exclude=("c",), epochs=1)], data="x.npz")
    assert {change.subject for change in report.steps[0].done} == {"model", "a", "b"}
    assert {refusal.subject: refusal.reason for refusal in report.steps[0].refused} == {"c": "excluded by 'c'"}


@pytest.mark.parametrize("kind", ["teacher", "student"])
def test_one_that_was_exported_for_one_sample_takes_any_number(kind: str) -> None:
    reshaped = "w = Reshape(pixels, shape) x = MatMul(w, a)"
    text = SMALL.replace("float[M,", "float[1,").replace("x = MatMul(pixels, a)", reshaped)
    weights = {"a": (6, 24), "b": (24, 4), "c": (4,), "shape": np.int64([1, 6])}
    save(model(text, weights), "fixed.onnx")
    step = Distill(**{kind: "fixed.onnx"}, epochs=1, keep_anyway=True)
    result, report = apply("big.onnx", [step], data="x.npz")
    assert report.steps[0].done
    assert open_session(result).run({"x": X})["logits"].shape == (200, 4)
    held = text.replace("Reshape(pixels, shape)", "Tile(pixels, shape)").replace(
        "shape) x =", "shape) s = ReduceMax(w) v = Mul(w, s) x ="
    )
    save(
        model(held.replace("MatMul(w, a)", "MatMul(v, a)"), weights | {"shape": np.int64([1, 1])}),
        "fixed.onnx",
        overwrite=True,
    )
    with pytest.raises(ModelError, match=f"^{kind} fixed.onnx: it takes 1 samples at a time, and the model any number"):
        apply("big.onnx", [step], data="x.npz")


def test_a_dry_run_goes_on_with_the_student() -> None:
    shown = call(
        "apply", "big.onnx", "--dry-run", "-p", "distill student=small.onnx", "-p", "cluster", "--data", "x.npz"
    )
    assert shown.exit_code == 0, shown.stderr
    assert "small.onnx takes its place" in shown.stdout
    clustered = shown.stdout.split("cluster clusters")[1]
    assert "w1" not in clustered and " a " in clustered


@pytest.mark.parametrize(("text", "message"), [
    (None, "other.onnx: no such file"),
    (SMALL.replace("M,6", "M,7"),
     "student other.onnx: input 'pixels' float[M, 7] fits no input of the model: 'x' float[batch, 6]"),
    (SMALL.replace("M,4", "M,5"),
     "student other.onnx: none of its outputs fits the model's output 'logits' float[batch, 4]; "
     "there are 'scores' float[M, 5]"),
])  # fmt: skip
def test_what_cannot_take_the_place_is_refused_in_a_line(text: str | None, message: str) -> None:
    if text is not None:
        first, last = int(text[11]), int(text.split("(float[M,")[2][0])
        save(model(text, {"a": (first, 24), "b": (24, last), "c": (last,)}), "other.onnx")
    with pytest.raises(ModelError) as error:
        apply("big.onnx", [Distill(student="other.onnx")], data="x.npz")
    assert str(error.value) == message
