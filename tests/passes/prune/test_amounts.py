"""Counts and norms of any order, against what torch.nn.utils.prune computes, written anew in numpy."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from corpus.oracle import assert_same, drawn_feeds, plain_run
from corpus.text import model
from corpus.topologies import TOPOLOGIES, conv_chain, mlp, split_concat
from hypothesis import given
from hypothesis import strategies as st

from onnxcompress import apply
from onnxcompress.channels.groups import find_groups
from onnxcompress.contract import Context, Pass
from onnxcompress.errors import OptionError
from onnxcompress.passes import (
    ActivationPrune,
    MagnitudePrune,
    PruneBlocks,
    PruneChannels,
    PruneSlices,
    RandomPrune,
    Shrink,
)
from onnxcompress.passes.prune.importance.norms import norms
from onnxcompress.passes.prune.masks.masks import ChannelPlan, MaskPlan
from onnxcompress.passes.prune.sparsity.budget import Meter
from onnxcompress.samples.samples import load_samples

Array = np.ndarray
ORDERS = (0.5, 1, 2, 3.5, 7, np.inf, -np.inf, -1, 0)


def weights(subject: ir.Model) -> dict[str, Array]:
    return {t.name: onnx.numpy_helper.to_array(t) for t in ir.to_proto(subject).graph.initializer}


def planned(subject: ir.Model, step: Pass) -> MaskPlan:
    plan = step.plan(subject, Context(subject))
    assert isinstance(plan, MaskPlan)
    return plan


def reasons(plan: MaskPlan | ChannelPlan) -> dict[str, str]:
    return {refusal.subject: refusal.reason for refusal in plan.refused}


def torch_l1_unstructured(array: Array, amount: int) -> Array:
    """``mask.view(-1)[topk(abs(t).view(-1), k=amount, largest=False).indices] = 0``."""
    keep = np.ones(array.size, bool)
    keep[sorted(range(array.size), key=lambda i: abs(array.ravel()[i]))[:amount]] = False
    return keep.reshape(array.shape)


def torch_ln_structured(array: Array, amount: int, order: float, dim: int) -> Array:
    """The slices along `dim` whose norm over all other axes is smallest."""
    scores = [float(np.linalg.norm(part.astype(np.float64).ravel(), order)) for part in np.moveaxis(array, dim, 0)]
    keep = np.ones(len(scores), bool)
    keep[np.argsort(scores, kind="stable")[:amount]] = False
    return np.broadcast_to(keep.reshape([-1 if d == dim % array.ndim else 1 for d in range(array.ndim)]), array.shape)


@given(st.integers(0, 45))
def test_so_many_weights_go(amount: int) -> None:
    subject = conv_chain()
    plan = planned(subject, MagnitudePrune(sparsity=amount))
    for name in ("w1", "w2", "w3"):
        array = weights(subject)[name]
        found = plan.masks[name].keep() if name in plan.masks else np.ones(array.shape, bool)
        assert np.array_equal(found, torch_l1_unstructured(array, amount))


def test_so_many_weights_of_the_whole_model_go() -> None:
    subject = mlp()
    plan = planned(subject, MagnitudePrune(sparsity=100, normalise="model"))
    every = [weights(subject)[name] for name in ("w1", "w2", "w3")]
    expected = torch_l1_unstructured(np.concatenate([array.ravel() for array in every]), 100)
    found = [plan.masks[name].keep().ravel() for name in ("w1", "w2", "w3")]
    assert np.array_equal(np.concatenate(found), expected)


def test_shares_are_rounded_down_where_torch_rounds() -> None:
    subject = model("g (float[N,7] x) => (float[N,1] y) { y = MatMul(x, w) }", {"w": (7, 1)})
    gone = [(~planned(subject, MagnitudePrune(sparsity=share)).masks["w"].keep()).sum() for share in (0.5, 3)]
    assert gone == [3, 3]
    assert round(0.5 * 7) == 4


def test_all_of_a_weight_may_go_and_no_more() -> None:
    subject = conv_chain()
    size = weights(subject)["w3"].size
    assert not planned(subject, MagnitudePrune(sparsity=size)).masks["w3"].keep().any()
    for step in (MagnitudePrune(sparsity=size + 1), RandomPrune(sparsity=size + 1)):
        plan = planned(subject, step)
        assert reasons(plan)["w3"] == f"{size + 1} weights were to go, and it has {size}"
        assert "w3" not in plan.masks
        assert "w2" in plan.masks
    together = planned(subject, MagnitudePrune(sparsity=10**6, normalise="model"))
    assert reasons(together)["model"].startswith("1000000 weights that compete were to go")


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_so_many_slices_by_any_norm_along_any_axis(order: float, dim: int) -> None:
    subject = conv_chain()
    plan = planned(subject, PruneSlices(sparsity=2, norm=order, axis=dim))
    for name in ("w1", "w2", "w3"):
        array = weights(subject)[name]
        assert np.array_equal(plan.masks[name].keep(), torch_ln_structured(array, 2, order, dim))


@given(st.integers(0, 50), st.sampled_from(ORDERS), st.sampled_from([1.0, 1e-30, 1e30]))
def test_norms_are_those_of_numpy(seed: int, order: float, scale: float) -> None:
    rows = np.random.default_rng(seed).standard_normal((4, 6))
    expected = np.linalg.norm(rows, order, axis=1)
    found = norms(rows * scale, order) / (1 if order == 0 else scale)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_high_orders_neither_overflow_nor_vanish() -> None:
    np.testing.assert_allclose(norms(np.array([[1e-3, 2e-3], [5.0, 1e3]]), 400), [2e-3, 1e3])
    assert norms(np.zeros((2, 3)), -2).tolist() == norms(np.zeros((2, 3)), 3).tolist() == [0, 0]


def test_slices_and_blocks_that_are_not_there() -> None:
    subject = conv_chain()
    assert reasons(planned(subject, PruneSlices(axis=2)))["w3"] == "it has 2 axes, and no 2"
    assert reasons(planned(subject, PruneSlices(sparsity=13)))["w2"] == "13 slices were to go, and it has 12"
    assert reasons(planned(subject, PruneBlocks(sparsity=25)))["w3"] == "25 blocks were to go, and it has 24"
    blocks = planned(subject, PruneBlocks(sparsity=5)).masks["w2"].keep().reshape(3, 4, 144)
    assert (~blocks.any(axis=1)).sum() == 5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PruneSlices(norm=float("nan")), "prune-slices: norm = nan: expected the order of a norm"),
        (lambda: RandomPrune(sparsity=-1), "random-prune: sparsity = -1: expected `int` >= 0"),
        (lambda: PruneChannels(importance=0.0), "prune-channels: importance = 0.0: expected `float` > 0.0"),
        (lambda: PruneChannels(sparsity=3, budget="latency"), "of the latency only a share can go"),
        (lambda: PruneSlices(overrides={"w": {"norm": float("nan")}}), "prune-slices: norm = nan"),
    ],
)
def test_options_are_checked(make: object, message: str) -> None:
    with pytest.raises(OptionError) as error:
        make()  # type: ignore[operator]
    assert message in str(error.value)


@pytest.mark.parametrize("order", [1, 2, 3.5, np.inf])
def test_channels_by_any_norm(order: float) -> None:
    subject = conv_chain()
    out = np.linalg.norm(weights(subject)["w1"].reshape(16, -1).astype(np.float64), order, axis=1)
    into = np.linalg.norm(weights(subject)["w2"].swapaxes(0, 1).reshape(16, -1).astype(np.float64), order, axis=1)
    score = out / out.mean() + into / into.mean()
    plan = PruneChannels(sparsity=5, importance=order).plan(subject, Context(subject))
    assert plan.channels["w1"] == sorted(np.argsort(score)[:5].tolist())
    assert len(plan.channels["w2"]) == 5


def test_so_many_channels_of_what_competes() -> None:
    subject = conv_chain()
    for ranking, count in (("local", 2 * 7), ("global", 7)):
        plan = PruneChannels(sparsity=7, ranking=ranking).plan(subject, Context(subject))  # type: ignore[arg-type]
        assert sum(map(len, plan.channels.values())) == count
    plan = PruneChannels(sparsity=12).plan(subject, Context(subject))
    assert list(plan.channels) == ["w1"]
    assert reasons(plan)["w2"] == "12 channels were to go, and it has 11"
    plan = PruneChannels(sparsity=27, ranking="global").plan(subject, Context(subject))
    assert plan.channels == {}
    assert reasons(plan)["w1 and 1 more"] == "27 channels were to go, and it has 26"


def test_so_many_parameters() -> None:
    subject = conv_chain()
    context = Context(subject)
    plan = PruneChannels(sparsity=500, budget="parameters").plan(subject, context)
    meter = Meter(context.groups, "parameters")
    assert meter.total - meter.left(plan.channels) >= 500
    for name in plan.channels:  # it is the smallest share that does
        fewer = {other: gone[1:] if other == name else gone for other, gone in plan.channels.items()}
        fewer = {other: gone[1:] for other, gone in fewer.items()}
        assert meter.total - meter.left(fewer) < 500


@given(st.integers(0, 14))
def test_so_many_channels_are_dealt_out_to_strata(count: int) -> None:
    subject = split_concat()
    groups = find_groups(subject).prunable
    plan = PruneChannels(sparsity=count).plan(subject, Context(subject))
    for group in groups:
        strata = np.unique(group.strata)
        if count <= group.size - len(strata):
            gone = plan.channels.get(group.name, [])
            assert len(gone) == count
            shares = [(group.strata[gone] == stratum).sum() / (group.strata == stratum).sum() for stratum in strata]
            sizes = [(group.strata == stratum).sum() for stratum in strata]
            assert max(shares) - min(shares) <= 1.5 / min(sizes)


def test_steps_reach_the_count() -> None:
    subject = conv_chain()
    plan = PruneChannels(sparsity=7, steps=3).plan(subject, Context(subject))
    assert {name: len(gone) for name, gone in plan.channels.items()} == {"w1": 7, "w2": 7}


def test_so_many_channels_by_activation() -> None:
    subject = conv_chain()
    data = {"x": np.random.default_rng(0).standard_normal((8, 3, 8, 8)).astype(np.float32)}
    step = ActivationPrune(sparsity=3, overrides={"w2": {"threshold": 1.0}})
    plan = step.plan(subject, Context(subject, samples=load_samples(data, subject)))
    assert len(plan.channels["w1"]) == 3
    assert len(plan.channels["w2"]) == 11  # a threshold of its own takes the place of the sparsity
    assert reasons(dataclasses.replace(plan)) == {"w3": "it reaches graph output 'y'"}


COUNTED = (PruneChannels(sparsity=1), PruneChannels(sparsity=2, ranking="global", importance=3))


@pytest.mark.parametrize("step", COUNTED, ids=str)
@pytest.mark.parametrize("topology", ["residual", "grouped", "split concat", "gru", "attention"])
def test_pruned_equals_masked(topology: str, step: PruneChannels) -> None:
    if topology not in TOPOLOGIES:
        pytest.skip(f"no {topology}")
    subject = TOPOLOGIES[topology][0]()
    feeds = drawn_feeds(subject)
    masked, report = apply(subject, [step])
    small, _ = apply(subject, [step, Shrink()])
    assert report.steps[0].done
    assert_same(plain_run(masked, feeds), plain_run(small, feeds))
