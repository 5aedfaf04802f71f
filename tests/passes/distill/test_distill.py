"""The pass Distill: a damaged model gets its answers back from the model that it was."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from scipy.special import log_softmax

from onnxcompress.contract import Context
from onnxcompress.errors import OptionError, TrainingError
from onnxcompress.graph.edit import set_constant
from onnxcompress.passes.distill import Distill, WeightsPlan
from onnxcompress.runtime.samples import load_samples
from onnxcompress.runtime.session import open_session
from onnxcompress.training import logits_of

NET = """<ir_version: 8, opset_import: ["" : 17]>
net (float[batch,6] x) => (float[batch,4] p) {
  h = Gemm(x, w1, b1)
  r = Relu(h)
  logits = MatMul(r, w2)
  p = Softmax<axis = 1>(logits)
}"""


def teacher(text: str = NET) -> ir.Model:
    random = np.random.default_rng(0)
    proto = onnx.parser.parse_model(text)
    for name, shape in {"w1": (6, 16), "b1": (16,), "w2": (16, 4)}.items():
        array = random.standard_normal(shape).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return ir.from_proto(proto)


def damaged(text: str = NET) -> ir.Model:
    model = teacher(text)
    w1 = model.graph.initializers["w1"]
    array = w1.const_value.numpy().copy()
    array[:, ::4] = 0
    set_constant(w1, array)
    return model


def context(model: ir.Model) -> Context:
    x = np.random.default_rng(1).standard_normal((256, 6)).astype(np.float32)
    return Context(model, original=teacher(), samples=load_samples({"x": x}, model))


def divergence(model: ir.Model, original: ir.Model, x: np.ndarray) -> float:
    p, q = (open_session(m).run({"x": x})["p"].astype(np.float64) for m in (original, model))
    return float((p * (np.log(p + 1e-12) - np.log(q + 1e-12))).sum(1).mean())


def test_student_comes_nearer_to_its_teacher_on_unseen_samples() -> None:
    student = damaged()
    unseen = np.random.default_rng(2).standard_normal((500, 6)).astype(np.float32)
    before = divergence(student, teacher(), unseen)
    distill = Distill(epochs=30, learning_rate=0.01, keep_masks=False)
    plan = distill.plan(student, context(student))
    assert divergence(student, teacher(), unseen) == before, "plan must not change the model"
    changes = distill.apply(student, plan)
    assert {change.subject for change in changes.done} == {"loss", "w1", "b1", "w2"}
    assert changes.refused == ()
    assert divergence(student, teacher(), unseen) < before / 5
    assert plan.losses[-1] < plan.losses[0] / 5


def test_logits_are_what_its_softmax_reads() -> None:
    ctx = context(teacher())
    logits = logits_of(ctx.original, ctx.samples)
    p = open_session(teacher()).run(ctx.samples.arrays())["p"]
    np.testing.assert_allclose(np.exp(log_softmax(logits, 1)), p, rtol=1e-4, atol=1e-6)
    assert logits.sum(1).std() > 1, "probabilities would sum to one"


def test_a_plan_read_back_gives_the_same_model() -> None:
    student = damaged()
    distill = Distill(epochs=1)
    plan = distill.plan(student, context(student))
    again = WeightsPlan.from_json(plan.to_json())
    other = damaged()
    distill.apply(student, plan)
    distill.apply(other, again)
    for name, value in student.graph.initializers.items():
        np.testing.assert_array_equal(value.const_value.numpy(), other.graph.initializers[name].const_value.numpy())


def test_weights_behind_a_node_without_gradient_are_refused_by_name() -> None:
    student = damaged(NET.replace("r = Relu(h)", "[act] r = HardSwish(h)"))
    distill = Distill(epochs=1)
    plan = distill.plan(student, context(student))
    changes = distill.apply(student, plan)
    assert [change.subject for change in changes.done] == ["loss", "w2"]
    assert {refusal.subject for refusal in changes.refused} == {"w1", "b1"}
    assert all("node 'act' (HardSwish) has no gradient" in refusal.reason for refusal in changes.refused)


def test_nothing_trainable_raises() -> None:
    student = damaged(NET.replace("logits = MatMul(r, w2)", "s = MatMul(r, w2)\n [last] logits = Elu(s)"))
    with pytest.raises(TrainingError, match=r"node 'last' \(Elu\) has no gradient"):
        Distill(epochs=1).plan(student, context(student))


def test_a_quantized_model_is_refused_by_node_name() -> None:
    text = NET.replace("r = Relu(h)", "[q] u = QuantizeLinear(h, s, z)\n [dq] r = DequantizeLinear(u, s, z)")
    proto = ir.to_proto(teacher(text))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(0.1), "s"))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.uint8(128), "z"))
    student = ir.from_proto(proto)
    with pytest.raises(TrainingError, match=r"node 'q' \(QuantizeLinear\) has no gradient.*before quantization"):
        Distill(epochs=1).plan(student, context(student))


def test_a_plan_for_another_model_is_refused() -> None:
    plan = WeightsPlan(weights={"w1": np.zeros((6, 3), np.float32), "gone": np.zeros(2, np.float32)}, losses=[1.0])
    student = damaged()
    before = student.graph.initializers["w1"].const_value.numpy().copy()
    changes = Distill().apply(student, plan)
    assert changes.done == ()
    assert [refusal.subject for refusal in changes.refused] == ["w1", "gone"]
    np.testing.assert_array_equal(student.graph.initializers["w1"].const_value.numpy(), before)


@pytest.mark.parametrize(
    "options", [{"epochs": 0}, {"temperature": 0.0}, {"hard_weight": 1.5}, {"optimizer": "adam"}, {"batch_size": 0}]
)
def test_options_are_checked(options: dict[str, object]) -> None:
    with pytest.raises(OptionError, match=next(iter(options))):
        Distill(**options)
