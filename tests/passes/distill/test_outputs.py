"""What an output is, told from names, shapes and operators of text models."""

from __future__ import annotations

import re

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxcompress.errors import OptionError, TrainingError
from onnxcompress.graph import shapes
from onnxcompress.graph.output_kinds import Tensor
from onnxcompress.passes.distill.outputs import find_outputs
from onnxcompress.samples.samples import Batch

RANDOM = np.random.default_rng(0)
WEIGHTS = {
    "w": (6, 5),
    "b": (5,),
    "s": (6,),
    "one": (6, 1),
    "k": (5, 6, 1, 1),
    "k1": (1, 6, 1, 1),
}


def model(body: str, outputs: str, inputs: str = "float[batch,6] x", opset: int = 17) -> ir.Model:
    text = f"""<ir_version: 8, opset_import: ["" : {opset}]>\nnet ({inputs}) => ({outputs}) {{ {body} }}"""
    proto = onnx.parser.parse_model(text)
    read = {name for node in proto.graph.node for name in node.input}
    for name, shape in WEIGHTS.items():
        if name in read:
            array = RANDOM.standard_normal(shape).astype(np.float32)
            proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    found = ir.from_proto(proto)
    shapes.infer(found)
    return found


VECTOR = ("float[batch,6] x", (2, 6))
TOKENS = ("float[batch,t,6] x", (2, 4, 6))
IMAGE = ("float[batch,6,h,v] x", (2, 6, 4, 4))
MAKERS = [
    # what stands in the graph, its output, input; kind, tensor, axis
    (VECTOR, "l = Gemm(x, w, b)\n y = Softmax(l)", "float[n,5] y", "classes", "l", 1),
    (VECTOR, "l = Gemm(x, w, b)\n y = LogSoftmax(l)", "float[n,5] y", "classes", "l", 1),
    (VECTOR, "l = Gemm(x, w, b)\n p = Softmax(l)\n y = Identity(p)", "float[n,5] y", "classes", "l", 1),
    (VECTOR, "l = Gemm(x, w, b)\n y = Sigmoid(l)", "float[n,5] y", "binary", "l", 1),
    (VECTOR, "y = Gemm(x, w, b)", "float[n,5] y", "classes", "y", 1),
    (VECTOR, "m = MatMul(x, w)\n y = Add(b, m)", "float[n,5] y", "classes", "y", 1),
    (VECTOR, "m = MatMul(x, w)\n y = Relu(m)", "float[n,5] y", "embedding", "y", 1),
    (VECTOR, "m = MatMul(x, w)\n y = Tanh(m)", "float[n,5] y", "embedding", "y", 1),
    (VECTOR, "m = MatMul(x, w)\n r = ReduceL2<axes = [1]>(m)\n y = Div(m, r)", "float[n,5] y", "embedding", "y", 1),
    (VECTOR, "y = LpNormalization(x)", "float[n,6] y", "embedding", "y", 1),
    (VECTOR, "y = MatMul(x, w)", "float[n,5] image_embeds", "embedding", "image_embeds", 1),
    (VECTOR, "y = MatMul(x, w)", "float[n,5] pred_boxes", "values", "pred_boxes", 1),
    (VECTOR, "l = MatMul(x, w)\n y = Sigmoid(l)", "float[n,5] pred_boxes", "values", "pred_boxes", 1),
    (VECTOR, "y = MatMul(x, one)", "float[n,1] y", "values", "y", 1),
    (VECTOR, "y = MatMul(x, one)", "float[n,1] logits", "binary", "logits", 1),
    (VECTOR, "m = MatMul(x, one)\n y = Squeeze(m)", "float[n] y", "values", "y", 0),
    (TOKENS, "y = MatMul(x, w)", "float[n,t,5] y", "classes", "y", 2),
    (TOKENS, "l = MatMul(x, w)\n y = Softmax<axis = 1>(l)", "float[n,t,5] y", "classes", "l", 1),
    (TOKENS, "y = LayerNormalization(x, s)", "float[n,t,6] y", "embedding", "y", 2),
    (TOKENS, "m = ReduceMean<axes = [1], keepdims = 0>(x)\n y = Identity(m)", "float[n,6] y", "embedding", "y", 1),
    (TOKENS, "y = MatMul(x, w)", "float[n,t,5] last_hidden_state", "embedding", "last_hidden_state", 2),
    (IMAGE, "y = Conv(x, k)", "float[n,5,h,v] y", "values", "y", 1),
    (IMAGE, "y = Conv(x, k)", "float[n,5,h,v] logits", "classes", "logits", 1),
    (IMAGE, "l = Conv(x, k)\n y = Softmax<axis = 1>(l)", "float[n,5,h,v] y", "classes", "l", 1),
    (IMAGE, "c = Conv(x, k)\n y = Relu(c)", "float[n,5,h,v] y", "embedding", "y", 1),
    (IMAGE, "g = GlobalAveragePool(x)\n c = Conv(g, k)\n y = Flatten(c)", "float[n,5] y", "classes", "y", 1),
    (IMAGE, "g = GlobalAveragePool(x)\n y = Flatten(g)", "float[n,6] y", "embedding", "y", 1),
    (IMAGE, "c = Conv(x, k1)\n y = Sigmoid(c)", "float[n,1,h,v] y", "binary", "c", 1),
]  # fmt: skip


@pytest.mark.parametrize("case", MAKERS, ids=lambda case: f"{case[1]} -> {case[2]}".replace("\n", ";"))
def test_kind_tensor_and_axis(case: tuple) -> None:
    (inputs, shape), body, outputs, kind, tensor, axis = case
    name = outputs.split()[-1]
    subject = model(re.sub(r"\by = ", f"{name} = ", body), outputs, inputs)
    batch = Batch({"x": RANDOM.standard_normal(shape).astype(np.float32)}, None, 2)
    (found,), ignored = find_outputs(subject, subject, batch, {})
    assert (found.kind, found.student.name, found.student.axis) == (kind, tensor, axis), found.why
    assert found.teacher == found.student
    assert ignored == {}


def batch_of(shape: tuple[int, ...] = (2, 6)) -> Batch:
    return Batch({"x": RANDOM.standard_normal(shape).astype(np.float32)}, None, shape[0])


def test_old_softmax_over_an_image_of_one_pixel() -> None:
    body = """to = Constant<value = int64[2] {-1, 5}>()
    g = GlobalAveragePool(x)
    l = Conv(g, k)
    p = Softmax(l)
    y = Reshape(p, to)"""
    subject = model(body, "float[n,5] y", IMAGE[0], opset=11)
    (found,), _ = find_outputs(subject, subject, batch_of((2, 6, 4, 4)), {})
    assert (found.kind, found.student) == ("classes", Tensor("l", (2, 5, 1, 1), 1))


def test_labels_that_fit_tell_classes() -> None:
    subject = model("g = GlobalAveragePool(x)\n y = Flatten(g)", "float[n,6] y", IMAGE[0])
    for labels, kind in ((np.arange(6), "classes"), (np.arange(7), "embedding"), (np.zeros((6, 2), int), "embedding")):
        (found,), _ = find_outputs(subject, subject, batch_of((2, 6, 4, 4)), {}, labels)
        assert found.kind == kind


def test_integers_caches_and_what_has_no_batch_are_not_compared() -> None:
    body = """logits = MatMul(x, w)
    answer = ArgMax<axis = 1, keepdims = 0>(logits)
    present_0_key = Relu(x)
    state_out = Relu(x)
    total = ReduceSum<keepdims = 0>(x)"""
    outputs = "float[n,5] logits, int64[n] answer, float[n,6] present_0_key, float[n,6] state_out, float[] total"
    subject = model(body, outputs)
    found, ignored = find_outputs(subject, subject, batch_of(), {})
    assert [output.name for output in found] == ["logits"]
    assert ignored == {
        "answer": "it holds no numbers with fractions",
        "present_0_key": "'present' in its name",
        "state_out": "'state' in its name",
        "total": "its first dimension is not the batch",
    }


def test_a_batch_that_was_moved_away_is_found_before_it() -> None:
    """As detectors do that squeeze the batch of one away."""
    body = """to = Constant<value_ints = [5, 16]>()
    c = Conv(x, k)
    p = Sigmoid(c)
    r = Reshape(p, to)
    y = Transpose(r)"""
    subject = model(body, "float[16,5] y", "float[1,6,4,4] x")
    (found,), _ = find_outputs(subject, subject, batch_of((1, 6, 4, 4)), {})
    assert (found.kind, found.student.name, found.student.shape) == ("binary", "c", (1, 5, 4, 4))


@pytest.mark.parametrize("kind", ["float", "int64", "bool"])
def test_padding_is_told_by_the_mask(kind: str) -> None:
    subject = model(
        "y = MatMul(x, w)\n m = ReduceMean<axes = [1], keepdims = 0>(x)\n z = Identity(m)",
        "float[n,t,5] y, float[n,6] z",
        f"float[batch,t,6] x, {kind}[batch,t] attention_mask",
    )
    mask = np.ones((2, 4), {"float": np.float32}.get(kind, kind))
    batch = Batch({"x": np.ones((2, 4, 6), np.float32), "attention_mask": mask}, None, 2)
    found, _ = find_outputs(subject, subject, batch, {})
    assert [output.mask for output in found] == ["attention_mask", ""]


def test_what_is_chosen_holds_and_the_later_pattern_wins() -> None:
    subject = model("a = MatMul(x, w)\n b1 = Relu(x)\n b2 = Relu(x)", "float[n,5] a, float[n,6] b1, float[n,6] b2")
    chosen = {"*": ("values",), "b*": ("ignore",), "b2": ("classes", "binary")}
    found, ignored = find_outputs(subject, subject, batch_of(), chosen)  # type: ignore[arg-type]
    assert {output.name: output.kind for output in found} == {"a": "values", "b2": "classes"}
    assert ignored == {"b1": "as chosen"}
    with pytest.raises(OptionError, match=r"outputs: 'aa' matches no output of the model; did you mean 'a'\?"):
        find_outputs(subject, subject, batch_of(), {"aa": ("values",)})


def test_the_teachers_output_of_the_same_name_or_of_the_only_fitting_shape() -> None:
    student = model("l = MatMul(x, w)\n y = Softmax(l)", "float[n,5] y")
    renamed = model("other = MatMul(x, w)\n e = Relu(x)", "float[n,6] e, float[n,5] other")
    (found,), _ = find_outputs(student, renamed, batch_of(), {})
    assert (found.student.name, found.teacher.name) == ("l", "other")
    both = model("other = MatMul(x, w)\n l = MatMul(x, w)\n y = Softmax(l)", "float[n,5] other, float[n,5] y")
    (found,), _ = find_outputs(student, both, batch_of(), {})
    assert found.teacher.name == "l"
    message = r"output 'y' is compared by 'l' \[batch, 5\], and the teacher has no such tensor"
    with pytest.raises(TrainingError, match=message + r" \(there: 'y' \[batch, 6\]\)"):
        find_outputs(student, model("y = Relu(x)", "float[n,6] y"), batch_of(), {})
