"""What a model is for, told from text models."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxcompress.graph import shapes
from onnxcompress.purpose import find_purpose
from onnxcompress.samples.samples import load_samples

RANDOM = np.random.default_rng(0)
WEIGHTS = {
    "w": (6, 5),
    "w16": (6, 16),
    "chars": (6, 40),
    "table": (50, 6),
    "back": (6, 50),
    "s": (6,),
    "k": (5, 6, 1, 1),
    "k1": (1, 6, 1, 1),
    "grid": (3, 5, 16, 16),
    "rows": (7, 3, 1, 1),
    "lstm_w": (1, 12, 6),
    "lstm_r": (1, 12, 3),
    "to_three": (3, 5),
}


def model(body: str, outputs: str, inputs: str = "float[batch,6] x") -> ir.Model:
    text = f"""<ir_version: 8, opset_import: ["" : 17]>\nnet ({inputs}) => ({outputs}) {{ {body} }}"""
    proto = onnx.parser.parse_model(text)
    read = {name for node in proto.graph.node for name in node.input}
    for name, shape in WEIGHTS.items():
        if name in read:
            array = RANDOM.standard_normal(shape).astype(np.float32)
            proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    found = ir.from_proto(proto)
    shapes.infer(found)
    return found


IMAGE = "float[batch,6,8,8] x"
IDS = "int64[batch,t] ids"
PICTURE = "float[1,3,64,64] x"
STEPS = "float[batch,9,6] x"
CASES = [
    # inputs, body, outputs; kind of the model, of its outputs, whether it is a guess
    ("float[batch,6] x", "y = MatMul(x, w)", "float[n,5] y", "classifier", "classes", True),
    ("float[batch,6] x", "l = MatMul(x, w)\n y = Softmax(l)", "float[n,5] y", "classifier", "classes", False),
    ("float[batch,6] x", "y = Relu(x)", "float[n,6] y", "encoder", "embedding", True),
    ("float[batch,6] x", "y = MatMul(x, w)", "float[n,5] text_embeds", "encoder", "embedding", True),
    ("float[batch,6] x", "l = MatMul(x, w)\n y = Sigmoid(l)", "float[n,5] y", "classifier", "binary", False),
    ("float[batch,6] x", "y = ReduceMean<axes = [1]>(x)", "float[n,1] y", "regressor", "values", True),
    ("float[batch,6] x", "y = ArgMax<axis = 1, keepdims = 0>(x)", "int64[n] y", "other", "decisions", True),
    (IMAGE, "y = Conv(x, k)", "float[n,5,8,8] logits", "segmenter", "pixels", True),
    (IMAGE, "c = Conv(x, k1)\n y = Sigmoid(c)", "float[n,1,8,8] y", "segmenter", "pixels", False),
    (IMAGE, "y = Conv(x, k)", "float[n,5,8,8] y", "regressor", "values", True),
    # five maps of a pointwise convolution are no width of features: as SqueezeNet does it
    (IMAGE, "c = Conv(x, k)\n r = Relu(c)\n g = GlobalAveragePool(r)\n y = Flatten(g)", "float[n,5] y", "classifier",
     "classes", True),
    (IMAGE, "g = GlobalAveragePool(x)\n y = Flatten(g)", "float[n,6] y", "encoder", "embedding", True),
    (IDS, "e = Gather(table, ids)\n y = MatMul(e, back)", "float[n,t,50] y", "decoder", "tokens", True),
    (IDS, "e = Gather(table, ids)\n y = MatMul(e, w)", "float[n,t,5] y", "classifier", "classes", True),
    (STEPS, "l = MatMul(x, chars)\n y = Softmax(l)", "float[n,9,40] y", "recogniser", "text", True),
    (STEPS, "y = MatMul(x, w)", "float[n,9,5] y", "classifier", "classes", True),
    # 64 + 16 + 4 places of strides 8, 16 and 32
    (PICTURE, "c = Conv(x, rows)\n r = Reshape(c, to)\n y = Slice(r, zero, many, two)", "float[1,7,84] y", "detector",
     "detections", True),
    ("float[batch,512] x", "y = Neg(x)", "float[n,512] audio", "regressor", "wave", True),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[1]} -> {case[2]}".replace("\n", ";"))
def test_what_a_model_is_for(case: tuple) -> None:
    inputs, body, outputs, kind, output, guess = case
    name = outputs.split()[-1]
    body = body.replace("y = ", f"{name} = ")
    if "Reshape" in body:
        body = (
            """to = Constant<value = int64[3] {1, 7, -1}>()
        zero = Constant<value = int64[1] {0}>()
        two = Constant<value = int64[1] {2}>()
        many = Constant<value = int64[1] {84}>()"""
            + "\n"
            + body
        )
    found = find_purpose(model(body, outputs, inputs))
    assert (found.kind, found.outputs, found.guess) == (kind, {name: output}, guess), found
    assert found.kind in found.sentence and name in found.sentence
    assert found.main == name


def test_what_is_carried_from_step_to_step_is_state() -> None:
    body = """h, hn = RNN<hidden_size = 3>(x, rnn_w, rnn_r, , , state)
    to = Constant<value = int64[3] {9, -1, 3}>()
    r = Reshape(h, to)
    y = MatMul(r, to_three)"""
    WEIGHTS.update(rnn_w=(1, 3, 6), rnn_r=(1, 3, 3))
    found = find_purpose(model(body, "float[9,n,5] y, float[1,n,3] hn", "float[9,batch,6] x, float[1,batch,3] state"))
    assert (found.kind, found.outputs["hn"], found.main) == ("recurrent", "state", "y")


def test_labels_that_fit_are_no_guess() -> None:
    subject = model("y = Relu(x)", "float[n,6] y")
    data = {"x": RANDOM.standard_normal((8, 6)).astype(np.float32), "labels": np.arange(8) % 6}
    found = find_purpose(subject, load_samples(data, subject))
    assert (found.kind, found.guess) == ("classifier", False)
    data["labels"] = np.arange(8) + 90
    assert find_purpose(subject, load_samples(data, subject)).kind == "encoder"


def test_an_embedding_by_name_is_one_whatever_labels_there_are() -> None:
    subject = model("image_embeds = MatMul(x, w)", "float[n,5] image_embeds")
    data = {"x": RANDOM.standard_normal((8, 6)).astype(np.float32), "labels": np.arange(8) % 5}
    assert find_purpose(subject, load_samples(data, subject)).kind == "encoder"


def test_boxes_beside_scores_and_levels() -> None:
    body = "boxes = Slice(x, zero, four, two)\n scores = Slice(x, four, six, two)"
    numbers = "\n".join(
        f"{name} = Constant<value = int64[1] {{{n}}}>()"
        for name, n in (("zero", 0), ("two", 2), ("four", 4), ("six", 6))
    )
    found = find_purpose(model(f"{numbers}\n{body}", "float[n,9,4] boxes, float[n,9,2] scores", STEPS))
    assert (found.kind, found.outputs) == ("detector", {"boxes": "boxes", "scores": "scores"})
    large = "float[1,3,128,128] x"
    pools = "\n".join(f"p{n} = MaxPool<kernel_shape = [{n}, {n}], strides = [{n}, {n}]>(x)" for n in (8, 16, 32))
    rows = "\n".join(f"c{n} = Conv(p{n}, rows)\n y{n} = Reshape(c{n}, to)" for n in (8, 16, 32))
    body = f"to = Constant<value = int64[3] {{1, 7, -1}}>()\n{pools}\n{rows}"
    found = find_purpose(model(body, "float[1,7,256] y8, float[1,7,64] y16, float[1,7,16] y32", large))
    assert (found.kind, set(found.outputs.values())) == ("detector", {"head"})


def test_integers_inside_are_told() -> None:
    body = """z = Constant<value = uint8 {128}>()
    one = Constant<value = float {0.1}>()
    q = QuantizeLinear(x, one, z)
    d = DequantizeLinear(q, one, z)
    y = MatMul(d, w)"""
    found = find_purpose(model(body, "float[n,5] y"))
    assert found.quantized and "already quantized" in found.sentence
    assert not find_purpose(model("y = MatMul(x, w)", "float[n,5] y")).quantized
