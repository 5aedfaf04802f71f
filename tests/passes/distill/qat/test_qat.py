"""Quantization-aware training: what was pruned, shared and rounded stays so, and gets better."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from corpus.aware import CASES, EIGHT, FOUR, NET, divergence, images, integers, operators, steps, teacher, trained

from onnxcompress import apply
from onnxcompress.contract import Context
from onnxcompress.errors import TrainingError
from onnxcompress.graph import edit
from onnxcompress.passes import Distill, MagnitudePrune, Quantize, QuantizeWeights
from onnxcompress.passes.distill import WeightsPlan
from onnxcompress.passes.distill.qat.masters import find_masters
from onnxcompress.passes.distill.qat.rounding import with_floats
from onnxcompress.samples.samples import load_samples


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_same_graph_with_other_integers_is_nearer_to_its_teacher(name: str) -> None:
    start, end, report = trained(CASES[name], learning_rate=1e-4 if "QAT, 8 bits" in name else 1e-3)
    assert [node.SerializeToString() for node in start.graph.node] == [n.SerializeToString() for n in end.graph.node]
    assert operators(start) == operators(end)
    # In 8 bits there is next to nothing to win.
    assert divergence(end) < divergence(start) * (1.05 if "QAT, 8 bits" in name else 1)
    before, after = steps(start), steps(end)
    assert len(before) == 3
    for old, new in ((before[n], after[n]) for n in before):
        pruned = ("PQAT" in name or "PCQAT" in name) and (old == 0).mean() > 0.4
        assert pruned or "PQAT" not in name or old.shape[1] == 2  # two channels are no four
        if pruned:
            assert not new[old == 0].any()
        if "CQAT" in name or "PCQAT" in name:
            assert len(np.unique(new)) <= len(np.unique(old)) <= 9
            assert len({*zip(old.ravel().tolist(), new.ravel().tolist(), strict=True)}) == len(np.unique(old))
        assert new.min() >= min(old.min(), -7 if "4" in name else -127)
    fixed, now = ({t.name: t.SerializeToString() for t in m.graph.initializer} for m in (start, end))
    trained_ = integers(start) | {"b1", "b2", "b3"}
    assert {name for name in fixed if fixed[name] != now[name]} <= trained_
    assert {name for name in trained_ & {*fixed} if fixed[name] != now[name]}
    assert not report.steps[-1].refused


def test_masks_of_integers_can_be_given_up() -> None:
    start, end, _ = trained(
        [MagnitudePrune(sparsity=0.6), Quantize(**EIGHT)], masks=False, epochs=2, learning_rate=0.01
    )
    before, after = steps(start), steps(end)
    assert sum(np.count_nonzero(after[name][array == 0]) for name, array in before.items()) > 20


def test_batch_norm_between_integers_has_the_statistics_that_it_came_with() -> None:
    text = NET.replace("r = Relu(a)", "n = BatchNormalization(a, scale, shift, mean, var)\n  r = Relu(n)")
    proto, random = onnx.parser.parse_model(text), np.random.default_rng(3)
    proto.graph.initializer.extend(teacher().graph.initializer)
    for name in ("scale", "shift", "mean", "var"):
        array = random.uniform(0.5, 1.5, 8).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    data = {"x": images(1, 100)}
    start, _ = apply(proto, [QuantizeWeights(minimum_size=1)], data=data)
    end, _ = apply(start, [Distill(epochs=1, learning_rate=0.01, keep_anyway=True)], data=data)
    old, new = ({t.name: onnx.numpy_helper.to_array(t) for t in m.graph.initializer} for m in (start, end))
    assert {name for name in ("scale", "shift", "mean", "var") if (old[name] != new[name]).any()} == {"scale", "shift"}


FEW = """<ir_version: 10, opset_import: ["": 17, "com.microsoft": 1]>
agraph (float[N,32] x) => (float[N,8] logits)
<float[32,16] w1, float[16,8] w2{bias}>
{{ h = MatMul(x, w1)
  {body}
  logits = MatMul(r, w2) }}"""


def few_bits(body: str, bias: str) -> onnx.ModelProto:
    proto = onnx.parser.parse_model(FEW.format(body=body, bias=bias))
    random = np.random.default_rng(1)
    shapes = {"w1": (32, 16), "w2": (16, 8)} | ({"b1": (16,)} if bias else {})
    for name, shape in shapes.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(random.normal(size=shape).astype(np.float32), name))
    return proto


def test_around_packed_bits_what_is_float_is_trained() -> None:
    proto = few_bits("b = Add(h, b1)\n  r = Relu(b)", ", float[16] b1")
    data = {"x": np.random.default_rng(0).normal(size=(60, 32)).astype(np.float32)}
    four = QuantizeWeights(dtype="int4", block_size=16, format="matmulnbits", minimum_size=1)
    packed, _ = apply(proto, [four], data=data)
    assert sum(node.op_type == "MatMulNBits" for node in packed.graph.node) == 2
    end, report = apply(packed, [Distill(epochs=1, learning_rate=0.01, keep_anyway=True)], data=data)
    old, new = ({t.name: t.SerializeToString() for t in m.graph.initializer} for m in (packed, end))
    assert {name for name in old if old[name] != new[name]} == {"b1"}
    assert any("2 weights of packed bits (MatMulNBits) stay" in note for note in report.steps[-1].notes)


def test_packed_bits_alone_cannot_be_trained() -> None:
    data = {"x": np.random.default_rng(0).normal(size=(9, 32)).astype(np.float32)}
    four = QuantizeWeights(dtype="int4", block_size=16, format="matmulnbits", minimum_size=1)
    packed, _ = apply(few_bits("r = Relu(h)", ""), [four], data=data)
    with pytest.raises(TrainingError, match="nothing in this model can be trained.*distill before quantize-weights"):
        apply(packed, [Distill(epochs=1)], data=data)


def test_a_plan_read_back_gives_the_same_integers() -> None:
    start, _ = apply(teacher(), [Quantize(**FOUR)], data={"x": images(1, 100)})
    model = ir.from_proto(start)
    context = Context(model, original=ir.from_proto(teacher()), samples=load_samples({"x": images(1, 100)}, model))
    step = Distill(epochs=1, learning_rate=0.01, keep_anyway=True)
    plan = step.plan(model, context)
    assert ir.to_proto(model).SerializeToString() == ir.to_proto(ir.from_proto(start)).SerializeToString()
    other = model.clone()
    step.apply(model, plan)
    step.apply(other, WeightsPlan.from_json(plan.to_json()))
    for one, two in zip(edit.values(model.graph), edit.values(other.graph), strict=True):
        if edit.constant(one) is not None:
            np.testing.assert_array_equal(edit.array(one), edit.array(two))


@pytest.mark.parametrize("options", [FOUR, EIGHT])
def test_what_is_trained_computes_what_the_integers_do(options: dict[str, object]) -> None:
    start, _ = apply(teacher(), [Quantize(**options)], data={"x": images(1, 100)})
    model = ir.from_proto(start)
    copy = ir.to_proto(with_floats(model, find_masters(model)[0]))
    plain = onnxruntime.SessionOptions()
    plain.log_severity_level = 3
    plain.add_session_config_entry("session.disable_quant_qdq", "1")
    x = images(5, 200)
    integers_, exact, found = (
        onnxruntime.InferenceSession(m.SerializeToString(), how).run(None, {"x": x})[0]
        for m, how in ((start, None), (start, plain), (copy, plain))
    )
    np.testing.assert_allclose(found, exact, atol=1e-5 * np.abs(exact).max())
    assert np.square(found - integers_).mean() < 1e-3 * np.square(integers_).mean()
