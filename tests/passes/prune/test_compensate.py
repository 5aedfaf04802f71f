"""Compensation: exact where removed channels are combinations of kept ones, against plain ONNX Runtime."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from corpus.oracle import assert_same, drawn_feeds, plain_run
from corpus.text import model
from corpus.topologies import TOPOLOGIES

from onnxcompress import apply
from onnxcompress.contract import Context
from onnxcompress.errors import DataError
from onnxcompress.graph.edit import set_constant
from onnxcompress.passes import PruneChannels, Shrink
from onnxcompress.passes.prune.compensate.least_squares import compensate
from onnxcompress.passes.prune.importance.reconstruction import reconstruction_scores
from onnxcompress.passes.prune.masks.masks import ChannelPlan
from onnxcompress.samples.noise import noise_samples, pink
from onnxcompress.samples.samples import load_samples
from onnxcompress.statistics.gram import ROWS

CONV = "g (float[N,3,8,8] x) => (float[N,4,h,w] y) { a = Conv(x, w1, b1) y = NODE }"
FLAT = "g (float[N,T,5] x) => (float[N,T,4] y) { a = MatMul(x, w1) y = NODE }"
GEMM = "g (float[N,5] x) => (float[N,4] y) { a = Gemm(x, w1, b1) y = NODE }"
SHAPES = {"cut": np.array([0, 0, 4, 3]), "flat": np.array([0, 0, 12])}
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


def planned(subject: ir.Model, data: Any, channels: list[int]) -> ChannelPlan:
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
    assert all(value.uses() for value in pruned.graph.initializers.values())
    shrunk, report = apply(pruned, [Shrink()], data=data)
    assert report.stages[-1].parameters < report.stages[0].parameters
    np.testing.assert_allclose(outputs(shrunk, data), outputs(pruned, data), atol=1e-5 * scale)


@pytest.mark.parametrize("case", CASES)
def test_what_a_mask_zeroed_stays_zero(case: str) -> None:
    """Among the weights that are left, those that make up for more than nothing; a mix of channels would fill zeros."""
    subject = dependent(case, constant=False)
    w2 = subject.graph.initializers["w2"].const_value.numpy().copy()
    w2[np.random.default_rng(7).random(w2.shape) < 0.2] = 0
    set_constant(subject.graph.initializers["w2"], w2)
    data = feeds(subject)
    plan = planned(subject, data, [4, 5])
    if case == "conv transpose":
        assert [refusal.reason for refusal in plan.refused] == [
            "not compensated: its zeros are a mask, which mixing its input channels would fill"
        ]
        return
    assert not plan.weights["w2"][w2 == 0].any()
    pruned, masked = subject.clone(), subject.clone()
    PruneChannels().apply(pruned, plan)
    PruneChannels().apply(masked, replace(plan, weights={}, biases={}))
    expected = outputs(subject, data)
    error, plain = (np.square(outputs(m, data) - expected).sum() for m in (pruned, masked))
    assert error < 0.7 * plain


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
    assert "3 rows of samples for 5 unknowns" in plan.refused[0].reason  # none of the three is held out
    assert "Gemm" in plan.refused[0].subject


def test_each_group_of_a_convolution_is_fitted_by_itself() -> None:
    """The last of the three channels of each group is a combination of the two others."""
    subject = dependent("conv 1x1", constant=True)
    weights = {v.name: v.const_value.numpy().copy() for v in subject.graph.initializers.values()}
    for name in ("w1", "b1"):
        weights[name][[2, 5]] = 0.5 * weights[name][[0, 3]] - weights[name][[1, 4]]
    weights["w2"] = np.random.default_rng(4).standard_normal((4, 3, 3, 3)).astype(np.float32)
    grouped = model(CONV.replace("NODE", "Conv<group=2>(a, w2, b2)"), weights)
    data = feeds(grouped)
    context = Context(grouped, samples=load_samples(data, grouped))
    member = next(g for g in context.groups.prunable if g.size == 3)
    fitted = compensate(grouped, context.groups, {member.name: [2]}, context.samples)
    plan = ChannelPlan(channels={member.name: [2]}, weights=fitted.weights, biases=fitted.biases)
    PruneChannels().apply(pruned := grouped.clone(), plan)
    assert not plan.weights["w2"][:, 2].any()
    expected = outputs(grouped, data)
    np.testing.assert_allclose(outputs(pruned, data), expected, atol=1e-4 * np.abs(expected).max())


def test_of_many_positions_some_are_drawn_whatever_the_batches() -> None:
    subject = dependent("conv 3x3 padded, strided", constant=False)
    data = {"x": np.random.default_rng(3).standard_normal((30, 3, 72, 72)).astype(np.float32)}
    parts = [{"x": data["x"][a:b]} for a, b in pairwise([0, 1, 8, 21, 30])]
    text = CONV.replace("8,8", "72,72").replace("NODE", CASES["conv 3x3 padded, strided"][1])
    weights = {v.name: v.const_value.numpy() for v in subject.graph.initializers.values()}
    large = model(text, weights)
    plan = planned(large, data, [4, 5])
    assert math.prod((30, 36, 36)) > ROWS
    np.testing.assert_array_equal(plan.weights["w2"], planned(large, parts, [4, 5]).weights["w2"])
    PruneChannels().apply(pruned := large.clone(), plan)
    expected = outputs(large, data)
    np.testing.assert_allclose(outputs(pruned, data), expected, atol=1e-4 * np.abs(expected).max())


def test_a_fit_to_few_samples_does_no_harm() -> None:
    """Where the channels that go share nothing with those that stay, 40 rows for 31 unknowns teach only noise."""
    random = np.random.default_rng(5)
    weights = {"w1": np.eye(40), "w2": random.standard_normal((40, 40))}
    text = "g (float[N,40] x) => (float[N,40] y) { a = MatMul(x, w1) y = MatMul(a, w2) }"
    subject = model(text, {name: array.astype(np.float32) for name, array in weights.items()})
    plan = planned(subject, {"x": random.standard_normal((40, 40)).astype(np.float32)}, list(range(10)))
    fresh = {"x": random.standard_normal((2000, 40)).astype(np.float32)}
    pruned, masked = subject.clone(), subject.clone()
    PruneChannels().apply(pruned, plan)
    PruneChannels().apply(masked, replace(plan, weights={}, biases={}))
    error, before = (((outputs(m, fresh) - outputs(subject, fresh)) ** 2).mean() for m in (pruned, masked))
    assert error < 1.1 * before


def test_channels_with_many_positions_are_eliminated_as_a_whole() -> None:
    """Each head's error is that of least squares on all others, whatever went before."""
    random = np.random.default_rng(6)
    rows = random.standard_normal((512, 50, 12)) @ (np.eye(12) + random.standard_normal((12, 12)) / 4)
    weight = random.standard_normal((12, 5))
    weights = {"w1": np.eye(12), "w2": weight}
    text = """g (float[N,T,12] x) => (float[N,T,5] y) {
        a = MatMul(x, w1) r = Reshape(a, cut) t = Tanh(r) z = Atanh(t) f = Reshape(z, flat) y = MatMul(f, w2) }"""
    rows = (rows / np.abs(rows).max() * 0.9).astype(np.float32)
    subject = model(text, {n: a.astype(np.float32) for n, a in weights.items()} | SHAPES)
    context = Context(subject, samples=load_samples({"x": rows}, subject))
    group = next(g for g in context.groups.prunable if g.size == 4)
    scores, _ = reconstruction_scores(context.groups, [group], context.samples)
    seen, gone = np.append(rows.reshape(-1, 12), np.ones((25600, 1)), 1).astype(np.float64), []
    wanted = seen[:, :12] @ weight
    for head in np.argsort(scores[group.name])[:3]:
        gone += range(3 * head, 3 * head + 3)
        rest = np.delete(seen, gone, 1)
        left = wanted - rest @ np.linalg.lstsq(rest, wanted, rcond=None)[0]
        np.testing.assert_allclose(scores[group.name][head], left.var(0).sum() / wanted.var(0).sum(), rtol=0.05)


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


def test_without_samples_weights_are_fitted_to_noise_and_it_is_said() -> None:
    subject = dependent("conv 3x3", constant=False)
    data = feeds(subject)
    pruned, report = apply(subject, [PruneChannels(compensate=True, sparsity=0.34, importance="random")])
    assert "fitted to noise" in report.steps[0].notes[0]
    masked, _ = apply(subject, [PruneChannels(sparsity=0.34, importance="random")])
    expected = outputs(subject, data)
    error, before = (((outputs(m, data) - expected) ** 2).mean() for m in (pruned, masked))
    assert error < 0.7 * before


def test_noise_has_the_spectrum_of_images() -> None:
    """Of amplitudes that go with 1/f, power falls by four for twice the frequency."""
    noise = pink(np.random.default_rng(0).standard_normal((400, 1, 64, 64)))
    power = (np.abs(np.fft.fft2(noise[:, 0])) ** 2).mean(0)
    np.testing.assert_allclose(power[0, [4, 8, 16]] / power[0, [8, 16, 32]], 4, rtol=0.35)
    np.testing.assert_allclose(power[4, 0] / power[0, 4], 1, rtol=0.35)


@pytest.mark.parametrize("inputs", ["float[N,5] x", "int64[N,T] x", "float[1,3,8,8] x"])
def test_noise_fits_any_input(inputs: str) -> None:
    subject = model(f"g ({inputs}) => ({inputs.replace(' x', ' y')}) {{ y = Identity(x) }}", {})
    samples = noise_samples(subject, 8, 0)
    assert sum(len(batch["x"]) for batch in samples.batches()) == 8


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_every_topology_is_fitted_and_shrinks_exactly(topology: str) -> None:
    """Groups that are read at places of their own, as the halves of a Split are, too."""
    subject = TOPOLOGIES[topology][0]()
    feeds = drawn_feeds(subject, batch=4)
    prune = PruneChannels(importance="reconstruction", sparsity=0.3, compensate=True)
    masked, _ = apply(subject, [prune], data=feeds)
    small, _ = apply(masked, [Shrink()])
    assert_same(plain_run(masked, feeds), plain_run(small, feeds))
