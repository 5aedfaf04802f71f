"""Channel pruning by norms and by activations, against numpy."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from corpus.oracle import assert_same, drawn_feeds, plain_run
from corpus.text import model
from corpus.topologies import conv_chain, grouped, mlp

from onnxcompress import apply
from onnxcompress.contract import Context
from onnxcompress.errors import DataError, OptionError
from onnxcompress.passes import ActivationPrune, PruneChannels, Shrink
from onnxcompress.passes.prune.masks.masks import ChannelPlan
from onnxcompress.samples.samples import load_samples


def weight(subject: ir.Model, name: str) -> np.ndarray:
    return next(onnx.numpy_helper.to_array(t) for t in ir.to_proto(subject).graph.initializer if t.name == name)


@pytest.mark.parametrize(("importance", "order"), [("l1", 1), ("l2", 2)])
def test_the_smallest_norms_go(importance: str, order: int) -> None:
    subject = conv_chain()
    plan = PruneChannels(sparsity=0.25, importance=importance).plan(subject, Context(subject))  # type: ignore[arg-type]
    out = np.linalg.norm(weight(subject, "w1").reshape(16, -1), order, axis=1)
    into = np.linalg.norm(weight(subject, "w2").swapaxes(0, 1).reshape(16, -1), order, axis=1)
    score = out / out.mean() + into / into.mean()
    assert plan.channels["w1"] == sorted(np.argsort(score)[:4].tolist())


def test_random_follows_the_seed() -> None:
    subject = mlp()
    prune = PruneChannels(importance="random")
    plans = [prune.plan(subject, Context(subject, seed=seed)).channels for seed in (1, 1, 2)]
    assert plans[0] == plans[1] != plans[2]


def test_round_to_keeps_multiples() -> None:
    subject = conv_chain()  # groups of 16 and 12
    plan = PruneChannels(sparsity=0.4, round_to=8).plan(subject, Context(subject))
    assert {name: len(c) for name, c in plan.channels.items()} == {"w2": 4}  # 10 of 16 would stay: rounded up to 16
    plan = PruneChannels(sparsity=0.5, round_to=8).plan(subject, Context(subject))
    assert {name: len(c) for name, c in plan.channels.items()} == {"w1": 8, "w2": 4}


def test_factors_of_a_product_are_not_both_pruned() -> None:
    subject = grouped()
    plan = PruneChannels(sparsity=0.5).plan(subject, Context(subject))
    assert list(plan.channels) == ["w0"]
    assert any("products with those of 'w0'" in refusal.reason for refusal in plan.refused)


def test_channel_plans_are_plain_data() -> None:
    subject = conv_chain()
    plan = PruneChannels().plan(subject, Context(subject))
    again = ChannelPlan.from_json(plan.to_json())
    assert again == plan
    copies = [subject.clone(), subject.clone()]
    for copy, p in zip(copies, (plan, again), strict=True):
        PruneChannels().apply(copy, p)
    assert ir.to_proto(copies[0]).SerializeToString() == ir.to_proto(copies[1]).SerializeToString()


def test_the_input_model_is_never_changed() -> None:
    subject = conv_chain()
    before = ir.to_proto(subject).SerializeToString()
    apply(subject, [PruneChannels(), Shrink()])
    assert ir.to_proto(subject).SerializeToString() == before


def activation_means(subject: ir.Model, feeds: dict[str, np.ndarray], tensor: str) -> np.ndarray:
    """Mean |activation| by channel, with plain ONNX Runtime and numpy."""
    proto = ir.to_proto(subject)
    proto.graph.output.append(onnx.helper.make_tensor_value_info(tensor, onnx.TensorProto.FLOAT, None))
    return np.abs(plain_run(proto, feeds)[tensor]).mean(axis=(0, 2, 3))


def test_activations_are_normalised_and_cut_at_the_threshold() -> None:
    subject = conv_chain()
    feeds = drawn_feeds(subject, batch=20)
    samples = load_samples(feeds, subject)
    plan = ActivationPrune(threshold=0.5).plan(subject, Context(subject, samples=samples))
    mean = activation_means(subject, feeds, "r")
    assert plan.channels["w1"] == np.flatnonzero(mean / mean.max() < 0.5).tolist()


def test_activation_sparsity_takes_the_weakest() -> None:
    subject = conv_chain()
    feeds = drawn_feeds(subject, batch=20)
    context = Context(subject, samples=load_samples(feeds, subject))
    plan = ActivationPrune(sparsity=0.25).plan(subject, context)
    assert plan.channels["w1"] == sorted(np.argsort(activation_means(subject, feeds, "r"))[:4].tolist())


def test_activation_pruned_and_shrunk_equals_masked() -> None:
    subject = conv_chain()
    feeds = drawn_feeds(subject, batch=20)
    prune = ActivationPrune(threshold=0.6)
    masked, _ = apply(subject, [prune], data=feeds)
    small, report = apply(subject, [prune, Shrink()], data=feeds)
    assert report.stages[-1].parameters < report.stages[0].parameters
    assert_same(plain_run(masked, feeds), plain_run(small, feeds))


def test_all_below_the_threshold_keeps_the_strongest() -> None:
    subject = conv_chain()
    feeds = drawn_feeds(subject, batch=4)
    plan = ActivationPrune(threshold=1.0).plan(subject, Context(subject, samples=load_samples(feeds, subject)))
    assert len(plan.channels["w1"]) == 15


def test_activation_prune_needs_samples() -> None:
    with pytest.raises(DataError, match="activation-prune needs samples"):
        apply(conv_chain(), [ActivationPrune()])


@pytest.mark.parametrize("sparsity", [1.0, -0.5, 7.0, -1])
def test_sparsity_out_of_range(sparsity: float) -> None:
    with pytest.raises(OptionError, match="prune-channels: sparsity = "):
        PruneChannels(sparsity=sparsity)


def test_a_plan_for_another_model_is_refused() -> None:
    from onnxcompress.errors import PassError

    with pytest.raises(PassError, match="group 'elsewhere': the model has no prunable group of that name"):
        PruneChannels().apply(mlp(), ChannelPlan(channels={"elsewhere": [0]}))
    with pytest.raises(PassError, match="group 'w1': channels must be in 0…19"):
        PruneChannels().apply(mlp(), ChannelPlan(channels={"w1": [99]}))


def test_everything_frozen_is_said(tmp_path: object) -> None:
    subject = model("g (float[N,4] x) => (float[N,4] y) { y = MatMul(x, w) }", {"w": (4, 4)})
    _, report = apply(subject, [PruneChannels()])
    assert report.steps[0].done == []
    refused = {r.subject: r.reason for r in report.steps[0].refused}
    assert refused["model"] == "no channels here are both made and summed over by operators that can be pruned"
