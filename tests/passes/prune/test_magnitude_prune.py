"""The classic recipe: |W|, normalise, threshold, zero, remove; against numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from corpus.oracle import assert_same, drawn_feeds, plain_run
from corpus.text import model
from corpus.topologies import behind, conv_chain, inner_graph, mlp
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxcompress import apply
from onnxcompress.contract import Changes, Context
from onnxcompress.errors import OptionError, PassError
from onnxcompress.passes import MagnitudePrune, Shrink
from onnxcompress.passes.prune.masks.masks import Mask, MaskPlan


def pruned(subject: ir.Model, prune: MagnitudePrune) -> tuple[ir.Model, Changes]:
    copy = subject.clone()
    return copy, prune.apply(copy, prune.plan(subject, Context(subject)))


def weights(subject: ir.Model) -> dict[str, np.ndarray]:
    return {t.name: onnx.numpy_helper.to_array(t) for t in ir.to_proto(subject).graph.initializer}


@given(threshold=st.floats(0, 1), seed=st.integers(0, 50))
def test_threshold_is_absolute_normalise_threshold_zero(threshold: float, seed: int) -> None:
    subject = model("g (float[N,4] x) => (float[N,6] y) { y = MatMul(x, w) }", {"w": (4, 6)}, seed=seed)
    found = weights(pruned(subject, MagnitudePrune(threshold=threshold))[0])["w"]
    w = weights(subject)["w"]
    assert np.array_equal(found, np.where(np.abs(w) / np.abs(w).max() < threshold, np.float32(0), w))


def test_normalised_by_channel() -> None:
    subject = conv_chain()
    found = weights(pruned(subject, MagnitudePrune(threshold=0.5, normalise="channel"))[0])
    w = weights(subject)["w2"]
    top = np.abs(w).max(axis=(1, 2, 3), keepdims=True)
    assert np.array_equal(found["w2"], np.where(np.abs(w) / top < 0.5, np.float32(0), w))


def test_normalised_over_the_model() -> None:
    subject = conv_chain()
    found, before = weights(pruned(subject, MagnitudePrune(threshold=0.2, normalise="model"))[0]), weights(subject)
    top = max(np.abs(before[name]).max() for name in ("w1", "w2", "w3"))
    for name in ("w1", "w2", "w3"):
        assert np.array_equal(found[name], np.where(np.abs(before[name]) / top < 0.2, np.float32(0), before[name]))
    assert np.array_equal(found["b1"], before["b1"])


@given(sparsity=st.floats(0, 0.99), values=hnp.arrays(np.float32, (5, 7), elements=st.sampled_from([0.0, 1, -1, 2])))
def test_sparsity_is_exact_even_among_equals(sparsity: float, values: np.ndarray) -> None:
    subject = model("g (float[N,5] x) => (float[N,7] y) { y = MatMul(x, w) }", {"w": values})
    plan = MagnitudePrune(sparsity=sparsity).plan(subject, Context(subject))
    zeroed = sum(int((~mask.keep()).sum()) for mask in plan.masks.values())
    assert zeroed == int(sparsity * 35)


def test_sparsity_over_the_model_takes_the_smallest_of_all() -> None:
    subject = conv_chain()
    found, before = weights(pruned(subject, MagnitudePrune(sparsity=0.6, normalise="model"))[0]), weights(subject)
    every = np.concatenate([np.abs(before[n]).ravel() for n in ("w1", "w2", "w3")])
    cut = np.sort(every)[int(0.6 * every.size)]
    for name in ("w1", "w2", "w3"):
        assert np.array_equal(found[name] == 0, np.abs(before[name]) < cut)


def test_followed_by_shrink_removes_what_it_zeroed() -> None:
    """A filter whose weights are all small disappears, with its bias and the weights that read it."""
    w1 = np.random.default_rng(0).uniform(0.6, 1, (4, 3, 1, 1)).astype(np.float32)
    w1[1] *= 0.01
    subject = model(
        """g (float[N,3,4,4] x) => (float[N,5,4,4] y) {
            a = Conv(x, w1, b1)
            r = Relu(a)
            y = Conv(r, w2)
        }""",
        {"w1": w1, "b1": np.float32([1, 2, 3, 4]), "w2": np.ones((5, 4, 1, 1), np.float32)},
    )
    masked, _ = pruned(subject, MagnitudePrune(threshold=0.5))
    small, report = apply(subject, [MagnitudePrune(threshold=0.5), Shrink()])
    shapes = {name: array.shape for name, array in weights(small).items()}
    assert shapes["w1"] == (3, 3, 1, 1)
    assert shapes["w2"] == (5, 3, 1, 1)
    assert report.steps[1].done[0].what == "1 of 4 channels removed"
    feeds = drawn_feeds(subject)
    assert_same(plain_run(masked, feeds), plain_run(small, feeds))  # the dead channel's bias, 2, is folded into y


def test_weights_behind_moves_and_in_inner_graphs_are_reached() -> None:
    names = set(MagnitudePrune().plan(behind(), Context(behind())).masks)
    assert names == {"w0", "w1", "w2"}
    assert set(MagnitudePrune().plan(inner_graph(), Context(inner_graph())).masks) == {"w0", "w1", "w2"}


def test_nan_weights_are_refused_by_name() -> None:
    subject = model("g (float[N,2] x) => (float[N,2] y) { y = MatMul(x, w) }", {"w": np.float32([[1, np.nan], [0, 2]])})
    plan = MagnitudePrune().plan(subject, Context(subject))
    assert plan.masks == {}
    assert [(r.subject, r.reason) for r in plan.refused] == [("w", "it holds NaN or Inf")]


def test_nothing_to_prune_says_so() -> None:
    subject = model("g (float[N,2] x) => (float[N,2] y) { y = Relu(x) }", {})
    plan = MagnitudePrune().plan(subject, Context(subject))
    assert [r.reason for r in plan.refused] == ["no operator multiplies by a constant float weight"]


def test_the_plan_replays_to_the_same_bytes() -> None:
    subject = mlp()
    plan = MagnitudePrune(sparsity=0.4).plan(subject, Context(subject))
    again = MaskPlan.from_json(plan.to_json())
    one, other = subject.clone(), subject.clone()
    MagnitudePrune().apply(one, plan)
    MagnitudePrune().apply(other, again)
    assert ir.to_proto(one).SerializeToString() == ir.to_proto(other).SerializeToString()


@given(hnp.arrays(bool, hnp.array_shapes(max_dims=4, max_side=5)))
def test_masks_pack_and_unpack(keep: np.ndarray) -> None:
    assert np.array_equal(Mask.of(keep).keep(), keep)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 1.5}, "magnitude-prune: threshold = 1.5: expected `float` <= 1.0"),
        ({"sparsity": 1.0}, "magnitude-prune: sparsity = 1.0: expected `float` < 1.0"),
        ({"sparsity": -0.1}, "magnitude-prune: sparsity = -0.1: expected `float` >= 0.0"),
        ({"normalise": "tensr"}, "normalise = 'tensr': expected one of tensor, channel, model; did you mean 'tensor'"),
        ({"threshold": "high"}, "magnitude-prune: threshold = 'high': expected `float`, got `str`"),
    ],
)
def test_options_are_checked_when_the_pass_is_made(options: dict, message: str) -> None:
    with pytest.raises(OptionError) as error:
        MagnitudePrune(**options)
    assert message in str(error.value)


def test_scores_of_the_callers_rank_in_place_of_magnitudes(tmp_path: Path) -> None:
    subject = conv_chain()
    scores = {name: np.random.default_rng(3).standard_normal(weights(subject)[name].shape) for name in ("w1", "w2")}
    np.savez(tmp_path / "s.npz", **scores)
    found, changes = pruned(subject, MagnitudePrune(sparsity=0.3, scores=str(tmp_path / "s.npz")))
    before, after = weights(subject), weights(found)
    for name, score in scores.items():
        lowest = np.argsort(np.abs(score), axis=None)[: int(0.3 * score.size)]
        expected = before[name].copy()
        expected.ravel()[lowest] = 0
        assert np.array_equal(after[name], expected)
    assert np.array_equal(after["w3"], before["w3"])
    assert {r.subject: r.reason for r in changes.refused} == {"w3": f"'{tmp_path / 's.npz'}' has no scores for it"}


def test_scores_that_do_not_fit(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", w1=np.ones((2, 2)))
    with pytest.raises(PassError, match=r"magnitude-prune: scores = '.*s.npz': 'w1': its shape is \(2, 2\)"):
        pruned(conv_chain(), MagnitudePrune(scores=str(tmp_path / "s.npz")))
