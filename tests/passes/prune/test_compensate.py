"""Compensation: exact where removed channels are combinations of kept ones, against plain ONNX Runtime."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from corpus.oracle import plain_run
from corpus.text import model

from onnxcompress import apply
from onnxcompress.contract import Context
from onnxcompress.errors import DataError
from onnxcompress.passes import PruneChannels, Shrink
from onnxcompress.passes.prune.compensate import compensate
from onnxcompress.passes.prune.masks import ChannelPlan
from onnxcompress.runtime.samples import load_samples

CONV = "g (float[N,3,8,8] x) => (float[N,4,h,w] y) { a = Conv(x, w1, b1) y = NODE }"
FLAT = "g (float[N,T,5] x) => (float[N,T,4] y) { a = MatMul(x, w1) y = NODE }"
GEMM = "g (float[N,5] x) => (float[N,4] y) { a = Gemm(x, w1, b1) y = NODE }"
CASES = {
    "conv 1x1": (CONV, "Conv(a, w2, b2)", (6, 3, 3, 3), (4, 6, 1, 1)),
    "conv 3x3": (CONV, "Conv(a, w2)", (6, 3, 3, 3), (4, 6, 3, 3)),
    "conv 3x3 padded, strided": (CONV, "Conv<pads=[1,1,1,1], strides=[2,2]>(a, w2, b2)", (6, 3, 3, 3), (4, 6, 3, 3)),
    "conv dilated": (CONV, "Conv<dilations=[2,1]>(a, w2)", (6, 3, 3, 3), (4, 6, 3, 3)),
    "conv same, padded": (CONV, 'Conv<auto_pad="SAME_LOWER", strides=[2,2]>(a, w2)', (6, 3, 3, 3), (4, 6, 4, 4)),
    "conv transpose": (CONV, "ConvTranspose<strides=[2,2]>(a, w2)", (6, 3, 3, 3), (6, 4, 2, 2)),
    "gemm": (GEMM, "Gemm<alpha=0.5, beta=2.0>(a, w2, b2)", (5, 6), (6, 4)),
    "gemm transposed": (GEMM, "Gemm<transB=1>(a, w2)", (5, 6), (4, 6)),
    "matmul": (FLAT, "MatMul(a, w2)", (5, 6), (6, 4)),
}


def dependent(case: str, *, constant: bool) -> ir.Model:
    """Channels 4 and 5 are combinations of channels 0 to 3, and of 1 with `constant`."""
    text, node, first, second = CASES[case]
    random = np.random.default_rng(1)
    axis = 0 if len(first) == 4 else 1
    w1 = np.moveaxis(random.standard_normal(first), axis, 0)
    mixing = random.standard_normal((2, 4)) / 2
    w1[4:] = np.tensordot(mixing, w1[:4], 1)
    b1 = random.standard_normal(6)
    b1[4:] = mixing @ b1[:4] + (random.standard_normal(2) if constant else 0)
    drawn = {"w2": random.standard_normal(second), "b2": random.standard_normal(4), "b1": b1}
    weights = {"w1": np.moveaxis(w1, 0, axis)} | {n: a for n, a in drawn.items() if n in node or n in text}
    return model(text.replace("NODE", node), {n: a.astype(np.float32) for n, a in weights.items()})


def feeds(subject: ir.Model, count: int = 40) -> dict[str, np.ndarray]:
    shape = [dim if isinstance(dim, int) else 7 for dim in subject.graph.inputs[0].shape.dims[1:]]  # type: ignore[union-attr]
    return {"x": np.random.default_rng(2).standard_normal((count, *shape)).astype(np.float32)}


def planned(subject: ir.Model, data: dict[str, np.ndarray], channels: list[int]) -> ChannelPlan:
    """Plan with these channels in place of the chosen ones."""
    context = Context(subject, samples=load_samples(data, subject))
    fitted = compensate(subject, context.groups, {"w1": channels}, context.samples)
    return ChannelPlan(channels={"w1": channels}, weights=fitted.weights, biases=fitted.biases, refused=fitted.refused)


def outputs(subject: ir.Model, data: dict[str, np.ndarray]) -> np.ndarray:
    return plain_run(ir.to_proto(subject), data)["y"]


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_combinations_of_kept_channels_are_made_up_for_exactly(case: str, constant: bool) -> None:
    if constant and ("padded" in case or case in ("conv transpose", "matmul")):
        pytest.skip("at borders and under a transposed kernel a constant is no bias; MatMul channels have none here")
    subject = dependent(case, constant=constant)
    data = feeds(subject)
    plan = planned(subject, data, [4, 5])
    assert not plan.refused
    pruned, masked = subject.clone(), subject.clone()
    PruneChannels().apply(pruned, plan)
    PruneChannels().apply(masked, replace(plan, weights={}, biases={}))
    expected = outputs(subject, data)
    scale = np.abs(expected).max()
    assert np.abs(outputs(masked, data) - expected).max() > 0.05 * scale
    np.testing.assert_allclose(outputs(pruned, data), expected, atol=1e-4 * scale)
    shrunk, report = apply(pruned, [Shrink()], data=data)
    assert report.stages[-1].parameters < report.stages[0].parameters
    np.testing.assert_allclose(outputs(shrunk, data), outputs(pruned, data), atol=1e-5 * scale)


def test_the_plan_replays_to_the_same_bytes() -> None:
    subject = dependent("conv 3x3", constant=True)
    samples = load_samples(feeds(subject), subject)
    plan = PruneChannels(sparsity=0.5, compensate=True).plan(subject, Context(subject, samples=samples))
    again = ChannelPlan.from_json(plan.to_json())
    assert plan.weights and plan.biases
    copies = [subject.clone(), subject.clone()]
    for copy, p in zip(copies, (plan, again), strict=True):
        PruneChannels().apply(copy, p)
    assert ir.to_proto(copies[0]).SerializeToString() == ir.to_proto(copies[1]).SerializeToString()


def test_too_few_samples_are_refused_by_name() -> None:
    subject = dependent("gemm", constant=True)
    plan = planned(subject, feeds(subject, 3), [4, 5])
    assert not plan.weights
    assert "3 rows of samples for 5 unknowns" in plan.refused[0].reason
    assert "Gemm" in plan.refused[0].subject


def test_nan_in_an_activation_is_an_error() -> None:
    subject = model(
        "g (float[N,5] x) => (float[N,4] y) { a = MatMul(x, w1) l = Log(a) y = MatMul(l, w2) }",
        {"w1": (5, 6), "w2": (6, 4)},
    )
    with pytest.raises(DataError, match="NaN"):
        planned(subject, feeds(subject), [4])


def test_tied_weights_are_refused_by_name() -> None:
    text = "g (float[N,6] x) => (float[N,6] y) { a = MatMul(x, w1) b = MatMul(a, w2) c = MatMul(a, w2) y = Add(b, c) }"
    subject = model(text, {"w1": (6, 6), "w2": (6, 6)})
    plan = planned(subject, feeds(subject), [4])
    assert all("'w2' is used more than once" in refusal.reason for refusal in plan.refused)
    assert len(plan.refused) == 2


def test_channels_that_others_can_replace_go_first() -> None:
    subject = dependent("conv 3x3", constant=True)
    samples = load_samples(feeds(subject), subject)
    options = PruneChannels(sparsity=0.34, importance="reconstruction", compensate=True)
    plan = options.plan(subject, Context(subject, samples=samples))
    pruned = subject.clone()
    options.apply(pruned, plan)
    expected = outputs(subject, feeds(subject))
    np.testing.assert_allclose(outputs(pruned, feeds(subject)), expected, atol=1e-3 * np.abs(expected).max())


def test_samples_are_asked_for() -> None:
    subject = dependent("gemm", constant=True)
    with pytest.raises(DataError, match="needs samples"):
        apply(subject, [PruneChannels(compensate=True)])
