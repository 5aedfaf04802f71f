"""Another model takes the inputs and outputs of the one whose place it takes, or is refused in a line."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from corpus.text import model

from onnxcompress.errors import ModelError
from onnxcompress.graph import edit
from onnxcompress.passes.distill.students.ports import take_inputs, take_outputs
from onnxcompress.runtime.session import open_session

LIKE = "g (float[N,4] tokens, int64[N,4] mask) => (float[N,3] logits, float[N,4] state) {"
LIKE += " m = Cast<to = 1>(mask) state = Mul(tokens, m) logits = MatMul(state, w) }"


def like() -> ir.Model:
    return model(LIKE, {"w": (4, 3)})


def test_names_are_taken_over_where_only_one_comes_into_question() -> None:
    """Inner tensors called like an input or output of the other are renamed."""
    text = "g (int64[M,4] b, float[M,4] a) => (float[M,4] mask, float[M,3] tokens) {"
    text += " logits = Cast<to = 1>(b) mask = Mul(a, logits) state = Relu(mask) tokens = MatMul(state, w) }"
    student = model(text, {"w": (4, 3)})
    feeds = {"a": np.float32([[1, -2, 3, 4]]), "b": np.int64([[1, 1, 0, 1]])}
    before = open_session(student).run(feeds)
    assert take_inputs(student, like(), "student") == []
    assert take_outputs(student, like(), "student") == []
    after = open_session(student).run({"tokens": feeds["a"], "mask": feeds["b"]})
    assert list(after) == ["logits", "state"]
    np.testing.assert_array_equal(after["logits"], before["tokens"])
    np.testing.assert_array_equal(after["state"], before["mask"])
    assert [value.name for value in student.graph.inputs] == ["tokens", "mask"]


def test_an_input_that_it_lacks_is_there_and_unread() -> None:
    student = model("g (float[N,4] tokens) => (float[N,4] y) { y = Relu(tokens) }", {})
    notes = take_inputs(student, like(), "small.onnx")
    assert notes == ["small.onnx does not read 'mask' int64[N, 4]"]
    found = open_session(student).run({"tokens": np.float32([[1, -2, 3, 4]]), "mask": np.ones((1, 4), np.int64)})
    assert found["y"].tolist() == [[1, 0, 3, 4]]


def test_a_default_of_the_model_stays_one() -> None:
    known = like()
    known.graph.inputs.append(known.graph.initializers["w"])
    student = model("g (float[N,4] tokens, int64[N,4] mask, float[4] v) => (float[N,4] y) { y = Add(tokens, v) }", {})
    edit.make_constant(student.graph.inputs[2], ir.tensor(np.float32([1, 2, 3, 4]), name="v"), optional=True)
    take_inputs(student, known, "student")
    assert [value.name for value in student.graph.inputs] == ["tokens", "mask", "w"]
    assert [value.name for value in edit.defaults(student.graph)] == ["w"]
    np.testing.assert_array_equal(
        student.graph.initializers["w"].const_value.numpy(), known.graph.initializers["w"].const_value.numpy()
    )
    found = open_session(student).run({"tokens": np.zeros((1, 4), np.float32), "mask": np.ones((1, 4), np.int64)})
    assert found["y"].tolist() == [[1, 2, 3, 4]]


def test_outputs_that_the_model_has_not_are_left_out() -> None:
    text = "g (float[N,4] tokens, int64[N,4] mask) => (float[N,3] logits, float[N,4] state, float[N,4] more) {"
    student = model(text + " more = Exp(tokens) state = Relu(tokens) logits = MatMul(state, w) }", {"w": (4, 3)})
    assert take_outputs(student, like(), "small.onnx") == [
        "small.onnx: left out what the model does not give: 'more' float[N, 4]"
    ]
    assert [node.op_type for node in student.graph] == ["Relu", "MatMul"]


def test_an_output_that_is_an_input_gets_a_name_of_its_own() -> None:
    student = model(
        "g (float[N,4] tokens, int64[N,4] mask) => (float[N,3] z, float[N,4] tokens) { z = MatMul(tokens, w) }",
        {"w": (4, 3)},
    )
    take_outputs(student, like(), "student")
    found = open_session(student).run({"tokens": np.ones((1, 4), np.float32), "mask": np.ones((1, 4), np.int64)})
    assert found["state"].tolist() == [[1, 1, 1, 1]]


@pytest.mark.parametrize(("text", "message"), [
    ("g (float[N,5] tokens) => (float[N,5] y) { y = Relu(tokens) }",
     "small.onnx: input 'tokens' float[N, 5] does not fit the model's 'tokens' float[N, 4]"),
    ("g (double[N,4] x) => (double[N,4] y) { y = Abs(x) }",
     "small.onnx: input 'x' double[N, 4] fits no input of the model: 'tokens' float[N, 4], 'mask' int64[N, 4]"),
    ("g (float[N,4] tokens, int64[N,4] mask, float[N,2] z) => (float[N,4] y) { y = Relu(tokens) }",
     "small.onnx: input 'z' float[N, 2] fits no input of the model: 'tokens' float[N, 4], 'mask' int64[N, 4]"),
    ("g (float[N,4] a, float[N,4] b) => (float[N,4] y) { y = Add(a, b) }",
     "small.onnx: input 'a' float[N, 4] fits no input of the model: 'tokens' float[N, 4], 'mask' int64[N, 4]"),
])  # fmt: skip
def test_inputs_that_do_not_fit_are_named_with_their_shapes(text: str, message: str) -> None:
    with pytest.raises(ModelError) as error:
        take_inputs(model(text, {}), like(), "small.onnx")
    assert str(error.value) == message


def test_outputs_that_do_not_fit_are_named_with_their_shapes() -> None:
    student = model(
        "g (float[N,4] tokens) => (float[N,2] logits, float[N,4] y) { y = Relu(tokens) logits = MatMul(y, w) }",
        {"w": (4, 2)},
    )
    with pytest.raises(ModelError) as error:
        take_outputs(student, like(), "small.onnx")
    assert str(error.value) == "small.onnx: output 'logits' float[N, 2] does not fit the model's 'logits' float[N, 3]"
    student = model("g (float[N,4] tokens) => (float[N,3] logits) { logits = MatMul(tokens, w) }", {"w": (4, 3)})
    with pytest.raises(
        ModelError, match=r"^s: none of its outputs fits the model's output 'state' float\[N, 4\]; there are 'logits'"
    ):
        take_outputs(student, like(), "s")
