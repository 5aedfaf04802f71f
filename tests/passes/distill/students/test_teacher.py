"""The model that teaches can be named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from command_line import call
from corpus.text import model

from onnxcompress.errors import ModelError
from onnxcompress.graph.save import save
from onnxcompress.passes.distill.students.teacher import find_teacher
from onnxcompress.runtime.session import open_session

SMALL = "g (float[N,6] x) => (float[N,4] y) { y = MatMul(x, w) }"
BIG = "g (float[M,6] pixels) => (float[M,4] scores) { h = MatMul(pixels, w1) x = Relu(h) scores = MatMul(x, w2) }"


def small(seed: int = 0) -> ir.Model:
    return model(SMALL, {"w": (6, 4)}, seed=seed)


def test_a_file_teaches_under_the_names_of_the_student(tmp_path: Path) -> None:
    big = model(BIG, {"w1": (6, 16), "w2": (16, 4)})
    path = tmp_path / "big.onnx"
    save(big.clone(), path)
    x = np.random.default_rng(0).standard_normal((5, 6)).astype(np.float32)
    teacher = find_teacher(str(path), small(), small())
    expected = np.maximum(x @ big.graph.initializers["w1"].const_value.numpy(), 0)
    expected = expected @ big.graph.initializers["w2"].const_value.numpy()
    np.testing.assert_allclose(open_session(teacher).run({"x": x})["scores"], expected, rtol=1e-5, atol=1e-6)


def test_without_a_name_it_is_the_model_that_the_recipe_started_from() -> None:
    original = small()
    assert find_teacher("", small(1), original) is original


@pytest.mark.parametrize(("text", "message"), [
    (None, "big.onnx: no such file"),
    (BIG.replace("M,6", "M,7"),
     "teacher big.onnx: input 'pixels' float[M, 7] fits no input of the model: 'x' float[N, 6]"),
])  # fmt: skip
def test_what_cannot_teach_is_one_line(
    text: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if text is not None:
        save(model(text, {"w1": (7, 16), "w2": (16, 4)}), "big.onnx")
    with pytest.raises(ModelError) as error:
        find_teacher("big.onnx", small(), small())
    assert str(error.value) == message


def test_the_command_line_names_it_and_never_writes_over_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The student learns what the named teacher says, and not what it started from."""
    monkeypatch.chdir(tmp_path)
    teacher = model(BIG.replace("Relu", "Identity"), {"w1": (6, 16), "w2": (16, 4)}, seed=3)
    save(teacher.clone(), "big.onnx")
    save(small(), "small.onnx")
    x = np.random.default_rng(0).standard_normal((200, 6)).astype(np.float32)
    np.savez("x.npz", x=x)
    step = "distill teacher=big.onnx epochs=20 learning_rate=0.02"
    done = call("apply", "small.onnx", "-p", step, "--data", "x.npz", "-o", "big.onnx", "--overwrite")
    assert done.exit_code == 2 and "teacher of distill name the same file" in done.stderr
    done = call("apply", "small.onnx", "-p", step, "--data", "x.npz", "-o", "out.onnx")
    assert done.exit_code == 0, done.stderr
    expected = open_session(teacher).run({"pixels": x})["scores"].argmax(1)
    agreement = [
        (open_session(Path(name)).run({"x": x})["y"].argmax(1) == expected).mean()
        for name in ("small.onnx", "out.onnx")
    ]
    assert agreement[1] > 0.8 > agreement[0] + 0.2
