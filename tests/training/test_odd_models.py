"""Models that exporters make and training must take: nodes without names, weights as inputs, statistics of several."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

from onnxcompress import apply
from onnxcompress.passes import Distill
from onnxcompress.training.loss import CrossEntropy
from onnxcompress.training.objective import build_evaluation, build_objective

SHARED = """<ir_version: 8, opset_import: ["" : 17]>
g (float[n,4,6,6] x) => (float[n,5] logits) {
  a = Conv<pads = [1,1,1,1]>(x, w)
  b = BatchNormalization(a, s, t, m, v)
  c = Conv<pads = [1,1,1,1]>(b, w)
  d = BatchNormalization(c, s, t, m, v)
  p = GlobalAveragePool(d)
  f = Flatten(p)
  logits = Gemm<transB = 1>(f, fc, z)
}"""

OLD = """<ir_version: 3, opset_import: ["" : 8]>
g (float[1,4,6,6] x, float[4,4,3,3] w, float[5,144] fc, float[5] z, int64[2] flat) => (float[1,5] logits) {
  a = Conv<pads = [1,1,1,1]>(x, w)
  r = Relu(a)
  f = Reshape(r, flat)
  logits = Gemm<transB = 1>(f, fc, z)
}"""


def built(text: str, **more: np.ndarray) -> onnx.ModelProto:
    random = np.random.default_rng(0)
    proto = onnx.parser.parse_model(text)
    arrays = {"w": random.standard_normal((4, 4, 3, 3)) / 6, "z": np.zeros(5)} | more
    for name, array in arrays.items():
        kind = array.dtype if array.dtype.kind == "i" else np.float32
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array, kind), name))
    return proto


def images(count: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((count, 4, 6, 6)).astype(np.float32)


def test_vectors_that_several_share_come_apart_and_all_trains() -> None:
    random = np.random.default_rng(2)
    per_channel = {"s": np.ones(4), "t": np.zeros(4), "m": np.zeros(4), "v": np.ones(4)}
    model = built(SHARED, fc=random.standard_normal((5, 4)), **per_channel)
    data = {"x": images(60), "labels": np.arange(60) % 5}
    _, report = apply(model, [Distill(epochs=1, learning_rate=1e-3, keep_anyway=True)], data=data)
    step = report.steps[0]
    assert {change.subject for change in step.done} == {
        "w", "fc", "z", *(f"{name}{twin}" for name in "stmv" for twin in ("", "_1"))
    }  # fmt: skip
    assert step.curve[-1].trained is not None


def test_every_node_that_is_run_has_a_name_of_its_own() -> None:
    model = ir.from_proto(built(OLD, fc=np.ones((5, 144)), flat=np.array([1, 144])))
    loss, samples = CrossEntropy(np.zeros(8, np.int64)), {"x": images(8)}
    objective = build_objective(model, loss, samples=samples)
    for proto in (objective.proto, build_evaluation(model, loss, objective, samples)):
        names = [node.name for node in proto.graph.node]
        assert all(names)
        assert len(set(names)) == len(names)


def test_a_teacher_whose_weights_are_inputs_answers_any_number_of_samples() -> None:
    """The rehearsal asks the teacher batch by batch; a target of Reshape that is an input, too, holds its batch."""
    model = built(OLD, fc=np.ones((5, 144)), flat=np.array([1, 144]))
    _, report = apply(model, [Distill(epochs=1)], data={"x": images(60)}, rehearsal=True)
    assert any("steps" in note for note in report.steps[0].notes)
