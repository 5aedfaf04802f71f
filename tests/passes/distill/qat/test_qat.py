"""Quantization-aware training: what was pruned, shared and rounded stays so, and gets better."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from scipy.special import log_softmax

from onnxcompress import apply
from onnxcompress.contract import Pass
from onnxcompress.graph import edit
from onnxcompress.passes import Cluster, Distill, MagnitudePrune, PruneNOfM, Quantize, QuantizeWeights
from onnxcompress.passes.distill.qat.masters import find_masters

NET = """<ir_version: 8, opset_import: ["" : 17]>
net (float[batch,2,8,8] x) => (float[batch,5] logits) {
  a = Conv<pads = [1,1,1,1]>(x, w1, b1)
  r = Relu(a)
  b = Conv<pads = [1,1,1,1], strides = [2,2]>(r, w2, b2)
  s = Relu(b)
  f = Flatten(s)
  logits = Gemm<transB = 1>(f, w3, b3)
}"""

SHAPES = {"w1": (8, 2, 3, 3), "b1": (8,), "w2": (16, 8, 3, 3), "b2": (16,), "w3": (5, 256), "b3": (5,)}

FOUR = {"weights": "int4", "rounding": "nearest", "correct": False}
EIGHT = {"target": "onnxruntime-cpu", "granularity": "tensor", "rounding": "nearest", "correct": False}

CASES: dict[str, list[Pass]] = {
    "QAT, 4 bits for each channel": [Quantize(**FOUR)],
    "QAT, 4 bits": [Quantize(**FOUR, granularity="tensor")],
    "QAT, 8 bits": [Quantize(**EIGHT)],
    "QAT, 8 bits for each channel": [Quantize(**(EIGHT | {"granularity": "channel"}))],
    "QAT, weights alone": [QuantizeWeights(dtype="int4", minimum_size=1)],
    "QAT, weights alone in blocks": [QuantizeWeights(dtype="uint4", block_size=16, minimum_size=1)],
    "PQAT": [MagnitudePrune(sparsity=0.6), Quantize(**EIGHT)],
    "PQAT, n of m": [PruneNOfM(), Quantize(**FOUR)],
    "CQAT": [Cluster(clusters=8), Quantize(**EIGHT)],
    "PCQAT": [MagnitudePrune(sparsity=0.6), Cluster(clusters=8), Quantize(**EIGHT)],
}


@cache
def teacher() -> onnx.ModelProto:
    random, proto = np.random.default_rng(0), onnx.parser.parse_model(NET)
    for name, shape in SHAPES.items():
        array = (2 * random.standard_normal(shape) / np.sqrt(max(np.prod(shape[1:]), 8))).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return proto


def images(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 2, 8, 8)).astype(np.float32)


def logits(model: onnx.ModelProto) -> np.ndarray:
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": images(9, 500)})[0]


def divergence(model: onnx.ModelProto) -> float:
    """How far it is from its teacher, on samples that nothing was fitted to."""
    p, q = (log_softmax(logits(m).astype(np.float64), 1) for m in (teacher(), model))
    return float((np.exp(p) * (p - q)).sum(1).mean())


def steps(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """How far the integers are from their zero points."""
    masters = find_masters(ir.from_proto(model))[0]
    return {name: master.steps for name, master in masters.items() if master.steps.ndim > 1}


def trained(passes: list[Pass], **options: Any) -> tuple[onnx.ModelProto, onnx.ModelProto, Any]:
    """Return the model before and after training, and the report."""
    data = {"x": images(1, 2000)}
    start, _ = apply(teacher(), passes, data=data)
    settings: dict[str, Any] = {"epochs": 4, "batch_size": 32, "learning_rate": 3e-3, "losses": {"kl": 1.0}}
    settings |= {"outputs": {"logits": "classes"}, "teacher": "", "keep_anyway": True} | options
    end, report = apply(teacher(), [*passes, Distill(**settings)], data=data)
    return start, end, report


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_same_graph_with_other_integers_is_nearer_to_its_teacher(name: str) -> None:
    start, end, report = trained(CASES[name])
    assert [node.SerializeToString() for node in start.graph.node] == [n.SerializeToString() for n in end.graph.node]
    assert operators(start) == operators(end)
    assert divergence(end) < 0.7 * divergence(start)
    before, after = steps(start), steps(end)
    changed = [n for n, array in before.items() if not np.array_equal(array, after[n])]
    assert len(changed) == len(before) >= 3
    for old, new in ((before[n], after[n]) for n in before):
        if "PQAT" in name or "PCQAT" in name:
            np.testing.assert_array_equal(old == 0, new == 0)
            assert (old == 0).mean() > 0.3
        if "CQAT" in name or "PCQAT" in name:
            assert len(np.unique(new)) <= len(np.unique(old)) <= 9
            assert len({*zip(old.ravel().tolist(), new.ravel().tolist(), strict=True)}) == len(np.unique(old))
        assert new.min() >= min(old.min(), -7 if "4" in name else -127)
    others = {t.name: t.SerializeToString() for t in start.graph.initializer if t.name not in integers(start)}
    assert others == {t.name: t.SerializeToString() for t in end.graph.initializer if t.name not in integers(end)}
    assert not report.steps[-1].refused


def integers(model: onnx.ModelProto) -> set[str]:
    return set(find_masters(ir.from_proto(model))[0])


def operators(model: onnx.ModelProto) -> list[str]:
    """The operators that onnxruntime makes of it."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = ""
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        options.log_severity_level = 3
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return sorted(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)


def test_masks_of_integers_can_be_given_up() -> None:
    start, end, _ = trained([MagnitudePrune(sparsity=0.6), Quantize(**EIGHT)], masks=False, epochs=2)
    before, after = steps(start), steps(end)
    assert all((after[name][array == 0] != 0).mean() > 0.3 for name, array in before.items())


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


def test_a_plan_read_back_gives_the_same_integers() -> None:
    from onnxcompress.contract import Context
    from onnxcompress.passes.distill import WeightsPlan
    from onnxcompress.samples.samples import load_samples

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
