"""Weights behind Identity and Transpose are stored in few bits, and compensated, as if they were read directly."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

from onnxcompress import apply
from onnxcompress.passes import QuantizeWeights

MODEL = """<ir_version: 10, opset_import: ["": 21]>
agraph (float[N,32] x) => (float[N,16] y)
<float[16,32] w>
{{ {body} }}"""

INSIDE = """<ir_version: 10, opset_import: ["": 21]>
agraph (float[N,32] x, bool c) => (float[N,16] y)
<float[32,16] w>
{ [choose] y = If (c) <
    then_branch = yes () => (float[N,16] a) { [left] a = MatMul(x, w) },
    else_branch = no () => (float[N,16] b) { [right] b = MatMul(x, w) }> }"""

WEIGHT = np.random.default_rng(0).normal(size=(16, 32)).astype(np.float32)
DATA = {"x": (np.random.default_rng(1).normal(size=(64, 32)) @ np.diag(np.linspace(0.1, 3, 32))).astype(np.float32)}


def model(text: str, weight: np.ndarray = WEIGHT) -> onnx.ModelProto:
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    return proto


def run(proto: onnx.ModelProto) -> np.ndarray:
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(None, DATA)[0]
    return found


@pytest.mark.parametrize(
    "body",
    [
        "t = Transpose(w) y = MatMul(x, t)",
        "i = Identity(w) j = Identity(i) t = Transpose<perm = [1, 0]>(j) y = MatMul(x, t)",
        "t = Transpose(w) i = Identity(t) y = MatMul(x, i)",
    ],
)
@pytest.mark.parametrize("form", ["qdq", "matmulnbits"])
def test_what_moves_a_weight_is_out_of_the_way(body: str, form: str) -> None:
    four = QuantizeWeights(dtype="int4", block_size=16, format=form, rounding="gptq", minimum_size=1)
    moved, report = apply(model(MODEL.format(body=body)), [four], data=DATA)
    direct, _ = apply(
        model(MODEL.format(body="y = MatMul(x, w)").replace("[16,32]", "[32,16]"), WEIGHT.T.copy()),
        [four],
        data=DATA,
    )
    assert not report.steps[-1].refused and len(moved.graph.node) == (1 if form == "matmulnbits" else 2)
    plain = run(model(MODEL.format(body=body)))
    nearest, _ = apply(model(MODEL.format(body=body)), [four.replaced({"rounding": "nearest"})], data=DATA)
    assert np.square(run(moved) - plain).sum() < np.square(run(nearest) - plain).sum()
    np.testing.assert_array_equal(run(moved), run(direct))


def test_a_table_that_is_looked_up_too_is_not_turned() -> None:
    text = MODEL.format(body="t = Transpose(w) y = MatMul(x, t) z = Gather(w, i)").replace(
        "(float[N,16] y)", "(float[N,16] y, float[N,32] z)"
    )
    four = QuantizeWeights(dtype="int8", minimum_size=1)
    found, _ = apply(
        model(text.replace("(float[N,32] x)", "(float[N,32] x, int64[N] i)")),
        [four],
        data=DATA | {"i": np.zeros(64, np.int64)},
    )
    assert "Transpose" in {node.op_type for node in found.graph.node}


def test_what_an_inner_graph_reads_is_named() -> None:
    four = QuantizeWeights(dtype="int4", block_size=16, rounding="gptq", minimum_size=1)
    _, report = apply(model(INSIDE, WEIGHT.T.copy()), [four], data=DATA | {"c": np.array(True)})
    assert [refusal.reason for refusal in report.steps[-1].refused] == [
        "rounded to nearest: left (MatMul) reads it inside choose (If); what is computed there is not seen, so that "
        "errors cannot be made up for"
    ]
