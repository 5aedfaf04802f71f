"""The pass Distill: a damaged model gets its answers back from the model that it was."""

from __future__ import annotations

import re

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from corpus.trainable import weights_of
from scipy.special import log_softmax

from onnxcompress import apply
from onnxcompress.contract import Context
from onnxcompress.errors import OptionError, TrainingError
from onnxcompress.graph.edit import set_constant, stored, stored_in
from onnxcompress.passes.distill import Distill, WeightsPlan, outcome
from onnxcompress.passes.prune import Cluster
from onnxcompress.runtime.session import open_session
from onnxcompress.samples.samples import load_samples
from onnxcompress.training import Trained, logits_of

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
    distill = Distill(epochs=30, learning_rate=0.01, masks=False)
    plan = distill.plan(student, context(student))
    assert divergence(student, teacher(), unseen) == before, "plan must not change the model"
    changes = distill.apply(student, plan)
    assert {change.subject for change in changes.done} == {"w1", "b1", "w2"}
    assert re.fullmatch(r"held out: score [\d.]+ before, [\d.]+ after epoch \d+ of 30 \(loss .*\)", changes.notes[0])
    assert any(
        re.fullmatch(r"loss [\d.]+ in the first epoch, [\d.]+ in the last of 30", note) for note in changes.notes
    )
    assert changes.refused == ()
    assert divergence(student, teacher(), unseen) < before / 5
    assert plan.curve[-1].trained < plan.curve[1].trained / 5
    assert plan.curve[-1].loss < plan.curve[0].loss / 5


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
    student = damaged(NET.replace("r = Relu(h)", "[act] r = Mod<fmod = 1>(h, h)"))
    distill = Distill(epochs=1, keep_anyway=True)
    plan = distill.plan(student, context(student))
    changes = distill.apply(student, plan)
    assert [change.subject for change in changes.done] == ["w2"]
    assert {refusal.subject for refusal in changes.refused} == {"w1", "b1"}
    assert all("node 'act' (Mod) has no gradient" in refusal.reason for refusal in changes.refused)


def test_constant_nodes_are_trained_as_initializers_are() -> None:
    """The same model, its weights in Constant nodes: the same weights come out, masks and all, and stay there."""
    plain, nodes = damaged(), damaged()
    for name, value in list(nodes.graph.initializers.items()):
        node = ir.node("Constant", [], {"value": value.const_value})
        nodes.graph.initializers.pop(name)
        value.replace_all_uses_with(node.outputs[0])
        node.outputs[0].name = name
        nodes.graph.insert_before(nodes.graph[0], node)
    distill = Distill(epochs=2)
    trained = []
    for model in (plain, nodes):
        changes = distill.apply(model, distill.plan(model, context(model)))
        assert {change.subject for change in changes.done} == {"w1", "b1", "w2"}
        trained.append({name: stored_in(value).numpy() for name, value in stored(model.graph).items()})
    assert not nodes.graph.initializers
    assert (trained[1]["w1"][:, ::4] == 0).all()
    for name, array in trained[0].items():
        np.testing.assert_allclose(trained[1][name], array, atol=1e-6)


def test_nothing_trainable_raises() -> None:
    student = damaged(NET.replace("logits = MatMul(r, w2)", "s = MatMul(r, w2)\n [last] logits = Mod<fmod = 1>(s, s)"))
    with pytest.raises(TrainingError, match=r"node 'last' \(Mod\) has no gradient"):
        Distill(epochs=1).plan(student, context(student))


def test_a_plan_for_another_model_is_refused() -> None:
    plan = WeightsPlan(weights={"w1": np.zeros((6, 3), np.float32), "gone": np.zeros(2, np.float32)})
    student = damaged()
    before = student.graph.initializers["w1"].const_value.numpy().copy()
    changes = Distill().apply(student, plan)
    assert changes.done == ()
    assert [refusal.subject for refusal in changes.refused] == ["w1", "gone"]
    np.testing.assert_array_equal(student.graph.initializers["w1"].const_value.numpy(), before)


@pytest.mark.parametrize(
    "options", [{"epochs": 0}, {"temperature": 0.0}, {"losses": {"kl": 0}}, {"optimizer": "adam"}, {"batch_size": 0}]
)
def test_options_are_checked(options: dict[str, object]) -> None:
    with pytest.raises(OptionError, match=next(iter(options))):
        Distill(**options)


def test_zeros_stay_unless_they_are_given_up() -> None:
    zero = damaged().graph.initializers["w1"].const_value.numpy() == 0
    for keep in (True, False):
        model = damaged()
        distill = Distill(epochs=2, masks=keep)
        changes = distill.apply(model, distill.plan(model, context(model)))
        after = model.graph.initializers["w1"].const_value.numpy() == 0
        said = next(change.what for change in changes.done if change.subject == "w1")
        assert np.array_equal(after, zero) if keep else after.sum() < zero.sum() / 2
        assert said.endswith("; 25.0% zeros stay" if keep else f"; of 25.0% zeros {after.mean():.1%} stayed")


def test_a_loss_that_grew_is_said_so() -> None:
    for losses, grew in (([1.0, 2.0], True), ([2.0, 1.0], False)):
        assert any("it grew" in note for note in outcome.notes(Trained({}, losses))) == grew


@pytest.mark.parametrize("kept", [True, False])
def test_clusters_stay_unless_they_are_given_up(kept: bool) -> None:
    student = teacher()
    apply_pass = Cluster(clusters=4)
    apply_pass.apply(student, apply_pass.plan(student, context(student)))
    before = weights_of(student)
    distill = Distill(epochs=3, clusters=kept)
    changes = distill.apply(student, distill.plan(student, context(student)))
    after = weights_of(student)
    for name in ("w1", "w2"):
        assert not np.array_equal(after[name], before[name])
        pairs = {*zip(before[name].ravel().tolist(), after[name].ravel().tolist(), strict=True)}
        assert (len(pairs) == 4) == kept
        said = next(change.what for change in changes.done if change.subject == name)
        assert said.endswith("; 4 different values stay" if kept else f"; 4 different values became {len(pairs)}")


def test_a_plan_with_values_that_are_no_numbers_is_refused() -> None:
    student = damaged()
    before = student.graph.initializers["b1"].const_value.numpy().copy()
    changes = Distill().apply(student, WeightsPlan(weights={"b1": np.full(16, np.nan, np.float32)}))
    assert [(refusal.subject, refusal.reason) for refusal in changes.refused] == [
        ("b1", "the plan has values that are not finite")
    ]
    np.testing.assert_array_equal(student.graph.initializers["b1"].const_value.numpy(), before)


CNN = """<ir_version: 8, opset_import: ["" : 17]>
net (float[batch,2,7,7] x) => (float[batch,3] p) {
  [same] c = Conv<PADS, strides = [2,2]>(x, w)
  r = Relu(c)
  m = MaxPool<kernel_shape = [3,3], strides = [2,2], PADS>(r)
  f = Flatten(m)
  p = Gemm(f, fc)
}"""


def test_padding_by_name_trains_like_padding_by_number() -> None:
    random = np.random.default_rng(0)
    w, fc = (random.standard_normal(shape).astype(np.float32) for shape in ((4, 2, 3, 3), (16, 3)))
    data = {"x": random.standard_normal((32, 2, 7, 7)).astype(np.float32), "labels": random.integers(0, 3, 32)}
    trained = []
    for pads in ('auto_pad = "SAME_UPPER"', "pads = [1,1,1,1]"):
        proto = onnx.parser.parse_model(CNN.replace("PADS", pads, 1).replace("PADS", "pads = [0,0,1,1]"))
        proto.graph.initializer.extend(onnx.numpy_helper.from_array(a, n) for n, a in {"w": w, "fc": fc}.items())
        student, _ = apply(proto, [Distill(epochs=3, losses={"cross-entropy": 1.0})], data=data)
        assert ("auto_pad" in str(student.graph.node[0].attribute)) == ("auto_pad" in pads)
        trained.append({t.name: onnx.numpy_helper.to_array(t) for t in student.graph.initializer})
    for name, array in trained[1].items():
        np.testing.assert_allclose(trained[0][name], array, rtol=1e-6)
        assert not np.array_equal(array, {"w": w, "fc": fc}[name])


def test_padding_that_is_known_only_when_it_runs_is_refused_by_name() -> None:
    """How many columns are left depends on the image: no extent, no pads, no gradient for what lies before."""
    text = CNN.replace("PADS", "pads = [1,1,1,1]", 1).replace("PADS", "pads = [0,0,1,1]")
    text = text.replace(
        "r = Relu(c)",
        "n = NonZero(c)\n u = ReduceMax<axes = [1], keepdims = 0>(n)\n k = Add(u, one)\n"
        ' d = Slice(c, zero, k)\n [late] r = Conv<auto_pad = "SAME_UPPER", strides = [2,2]>(d, v)',
    )
    random = np.random.default_rng(0)
    arrays = {"w": (4, 2, 3, 3), "v": (4, 4, 3, 3), "fc": (4, 3)}
    proto = onnx.parser.parse_model(text.replace("[same] ", ""))
    for name, shape in arrays.items():
        array = random.standard_normal(shape).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(4, np.int64), "zero"))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1]), "one"))
    data = {"x": random.standard_normal((32, 2, 7, 7)).astype(np.float32), "labels": random.integers(0, 3, 32)}
    _, report = apply(proto, [Distill(epochs=1, losses={"cross-entropy": 1.0})], data=data)
    reasons = {refusal.subject: refusal.reason for refusal in report.steps[0].refused}
    assert set(reasons) == {"w", "v"}
    assert all("node 'late' (Conv) has no gradient with auto_pad" in reason for reason in reasons.values())


def test_a_weight_that_a_caller_may_replace_is_not_trained() -> None:
    student = damaged()
    student.graph.inputs.append(student.graph.initializers["b1"])
    distill = Distill(epochs=1)
    plan = distill.plan(student, context(student))
    assert set(plan.weights) == {"w1", "w2"}
    assert [(refusal.subject, "caller may set" in refusal.reason) for refusal in plan.refused] == [("b1", True)]
