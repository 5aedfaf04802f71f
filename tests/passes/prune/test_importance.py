"""Every criterion, and how scores compete, against numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from corpus.oracle import assert_same, drawn_feeds, plain_run
from corpus.text import model
from corpus.topologies import TOPOLOGIES, conv_chain, conv_chain_batch_norm, grouped, mlp, residual

from onnxcompress import apply
from onnxcompress.channels.groups import find_groups
from onnxcompress.channels.remove import remove
from onnxcompress.contract import Context
from onnxcompress.errors import DataError, OptionError, PassError
from onnxcompress.graph.cost import cost
from onnxcompress.passes import PruneChannels, Shrink
from onnxcompress.passes.prune.sparsity.budget import Meter
from onnxcompress.samples.samples import load_samples

Array = np.ndarray


def weights(subject: ir.Model) -> dict[str, Array]:
    return {t.name: onnx.numpy_helper.to_array(t) for t in ir.to_proto(subject).graph.initializer}


def values(subject: ir.Model, feeds: dict[str, Array], *tensors: str) -> list[Array]:
    proto = ir.to_proto(subject)
    for name in tensors:
        proto.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    found = plain_run(proto, feeds)
    return [found[name].astype(np.float64) for name in tensors]


def removed(subject: ir.Model, samples: dict[str, Array] | None = None, **options: object) -> dict[str, list[int]]:
    known = None if samples is None else load_samples(samples, subject)
    return PruneChannels(**options).plan(subject, Context(subject, samples=known)).channels  # type: ignore[arg-type]


def lowest(score: Array, count: int) -> list[int]:
    return sorted(np.argsort(score, kind="stable")[:count].tolist())


def over_rows(function: Callable[[Array], Array], array: Array, axis: int) -> Array:
    return np.array([function(row) for row in np.moveaxis(array.astype(np.float64), axis, 0)])


def test_batch_norm_scales_decide() -> None:
    subject = conv_chain_batch_norm()
    found = removed(subject, importance="bn_scale", sparsity=0.25)
    scales = weights(subject)
    assert found == {"w1": lowest(np.abs(scales["one_scale"]), 4), "w2": lowest(np.abs(scales["two_scale"]), 3)}


def test_a_group_without_batch_norm_is_refused() -> None:
    plan = PruneChannels(importance="bn_scale").plan(mlp(), Context(mlp()))
    assert plan.channels == {}
    reasons = {r.subject: r.reason for r in plan.refused}
    assert reasons["w1"] == reasons["w2"] == "no BatchNormalization scales its channels"


def test_filters_near_the_others_go() -> None:
    subject = conv_chain()
    w = weights(subject)["w1"].reshape(16, -1).astype(np.float64)
    distance = np.array([sum(np.linalg.norm(a - b) for b in w) for a in w])
    assert removed(subject, importance="fpgm", sparsity=0.25)["w1"] == lowest(distance, 4)


def test_the_gates_of_a_hidden_unit_are_one_filter() -> None:
    subject = model(
        """g (float[S,N,3] x) => (float[S,N,2] y) {
            h = LSTM<hidden_size=6>(x, w, r)
            q = Squeeze(h, axes)
            y = MatMul(q, v)
        }""",
        {"w": (1, 24, 3), "r": (1, 24, 6), "v": (6, 2), "axes": np.array([1])},
    )
    found = removed(subject, importance="fpgm", sparsity=0.5)
    score = np.zeros(6)
    for name in ("w", "r"):
        rows = weights(subject)[name][0].reshape(4, 6, -1).swapaxes(0, 1).reshape(6, -1).astype(np.float64)
        distance = np.array([sum(np.linalg.norm(a - b) for b in rows) for a in rows])
        score += distance / distance.mean()
    assert list(found.values()) == [lowest(score, 3)]


def test_mean_activation_share_of_zeros_and_wanda() -> None:
    subject = conv_chain()
    feeds = drawn_feeds(subject, batch=20)
    r, s, p = values(subject, feeds, "r", "s", "p")
    w2, w3 = (weights(subject)[n].astype(np.float64) for n in ("w2", "w3"))
    expected = {
        "activation": (r.mean((0, 2, 3)), p.mean((0, 2, 3))),  # where an operator reads it: after pooling
        "apoz": ((r > 0).mean((0, 2, 3)), (s > 0).mean((0, 2, 3))),  # where the Relu makes it
        "wanda": (
            over_rows(lambda row: np.abs(row).sum(), w2, 1) * over_rows(np.linalg.norm, r, 1),
            over_rows(lambda row: np.abs(row).sum(), w3, 1) * over_rows(np.linalg.norm, p, 1),
        ),
    }
    for importance, (one, two) in expected.items():
        found = removed(subject, feeds, importance=importance, sparsity=0.25)
        assert found == {"w1": lowest(one, 4), "w2": lowest(two, 3)}, importance


def test_reductions_over_the_members() -> None:
    subject = conv_chain()
    w1, w2 = weights(subject)["w1"], weights(subject)["w2"]
    out, into = over_rows(np.linalg.norm, w1, 0), over_rows(np.linalg.norm, w2, 1)
    parts = np.stack([out / out.mean(), into / into.mean()])
    for reduction, score in {"mean": parts.mean(0), "sum": parts.sum(0), "max": parts.max(0)}.items():
        assert removed(subject, reduction=reduction, sparsity=0.5)["w1"] == lowest(score, 8)


def group_scores(subject: ir.Model) -> dict[str, Array]:
    """The l2 scores of conv_chain's groups, each around 1."""
    w = weights(subject)
    pairs = {"w1": (("w1", 0), ("w2", 1)), "w2": (("w2", 0), ("w3", 1))}
    parts = {g: [over_rows(np.linalg.norm, w[name], axis) for name, axis in slots] for g, slots in pairs.items()}
    return {g: np.mean([part / part.mean() for part in found], axis=0) for g, found in parts.items()}


def test_global_ranking_takes_the_lowest_of_all() -> None:
    subject = conv_chain()
    scores = group_scores(subject)
    cut = np.sort(np.concatenate([*scores.values()]))[int(0.3 * 28)]
    expected = {name: np.flatnonzero(score < cut).tolist() for name, score in scores.items()}
    found = removed(subject, ranking="global", sparsity=0.3)
    assert found == expected != removed(subject, sparsity=0.3)


def test_lamp_competes_over_the_model() -> None:
    subject = conv_chain()
    lamp = {}
    for name, score in group_scores(subject).items():
        square = score**2
        lamp[name] = np.array([x / square[square >= x].sum() for x in square])
    cut = np.sort(np.concatenate([*lamp.values()]))[14]
    expected = {name: np.flatnonzero(score < cut).tolist() for name, score in lamp.items()}
    assert removed(subject, importance="lamp", ranking="global", sparsity=0.5) == expected


def weak_second() -> ir.Model:
    """Three hidden layers of the same kind but for the activation of the third."""
    return model(
        """g (float[N,6] x) => (float[N,2] y) {
            a = MatMul(x, w1)
            b = Relu(a)
            c = MatMul(b, w2)
            d = Relu(c)
            e = MatMul(d, w3)
            f = Tanh(e)
            y = MatMul(f, w4)
        }""",
        {"w1": (6, 8), "w2": (8, 8), "w3": (8, 8), "w4": (8, 2)},
    )


def test_isomorphic_groups_compete_with_their_kind() -> None:
    counts = {n: len(c) for n, c in removed(weak_second(), ranking="isomorphic", sparsity=0.5, importance="l1").items()}
    assert counts["w3"] == 4  # alone of its kind
    assert counts["w1"] + counts["w2"] == 8


@pytest.mark.parametrize("ranking", ["local", "global", "isomorphic"])
def test_so_many_stay(ranking: str) -> None:
    subject = conv_chain()
    found = removed(subject, ranking=ranking, sparsity=0.99, keep_at_least=5)
    assert {name: len(channels) for name, channels in found.items()} == {"w1": 11, "w2": 7}


def test_excluded_groups_are_left_and_said() -> None:
    subject = conv_chain()
    plan = PruneChannels(exclude=("b1",)).plan(subject, Context(subject))  # a bias of the group names it too
    assert list(plan.channels) == ["w2"]
    assert ("w1", "excluded by 'b1'") in [(r.subject, r.reason) for r in plan.refused]


def test_what_is_excluded_does_not_stand_in_the_way_of_its_factors() -> None:
    subject = grouped()
    assert list(removed(subject, exclude=("w0",))) == ["w1"]


@pytest.mark.parametrize("ranking", ["local", "global"])
def test_groups_with_a_share_of_their_own(ranking: str) -> None:
    found = removed(
        conv_chain(),
        ranking=ranking,
        sparsity=0.5,
        overrides={"type:Conv": {"sparsity": 0.5}, "w1": {"sparsity": 0.125}},
    )
    assert {name: len(channels) for name, channels in found.items()} == {"w1": 2, "w2": 6}


@pytest.mark.parametrize("field", ["include", "exclude", "overrides"])
def test_a_term_that_matches_nothing(field: str) -> None:
    def given(term: str) -> dict[str, Any]:
        return {field: {term: {"sparsity": 0.5}} if field == "overrides" else (term,)}

    with pytest.raises(PassError, match=rf"prune-channels: {field}: 'w22' matches nothing in the model; did you mean"):
        removed(conv_chain(), **given("w22"))
    with pytest.raises(PassError, match=r"'layer9\*' matches nothing in the model; there are a, b1, b3, c"):
        removed(conv_chain(), **given("layer9*"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"w1": {"sparsity": 1.0}}, "overrides.w1.sparsity = 1.0: expected `float` < 1.0"),
        ({"w1": {"sparsity": "half"}}, "overrides.w1.sparsity = 'half': expected a number"),
        ({"w1": {"sparsity": "auto"}}, "overrides: sparsity = 'auto': expected a number"),
        ({"w1": {"ranking": "global"}}, "overrides.w1.ranking: it cannot be overridden; expected one of sparsity"),
    ],
)
def test_overrides_are_read_when_the_pass_is_made(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as error:
        PruneChannels(overrides=overrides)
    assert str(error.value).startswith(f"prune-channels: {message}")


@pytest.mark.parametrize("importance", ["activation", "apoz", "wanda"])
def test_measured_criteria_need_samples(importance: str) -> None:
    with pytest.raises(DataError, match="prune-channels needs samples"):
        apply(conv_chain(), [PruneChannels(importance=importance)])  # type: ignore[arg-type]
    assert not PruneChannels().needs.samples
    assert not PruneChannels.needs.samples  # what the catalogue lists


@pytest.mark.parametrize(
    "importance", ["l1", "bn_scale", "lamp", "fpgm", "activation", "apoz", "wanda", "reconstruction"]
)
@pytest.mark.parametrize("topology", ["conv chain, batch norm", "depthwise", "attention", "flatten to gemm", "grouped"])
def test_every_criterion_shrinks_what_it_prunes(topology: str, importance: str) -> None:
    subject = TOPOLOGIES[topology][0]()
    feeds = drawn_feeds(subject, batch=4)
    prune = PruneChannels(importance=importance, ranking="global", sparsity=0.3)  # type: ignore[arg-type]
    masked, _ = apply(subject, [prune], data=feeds)
    small, report = apply(subject, [prune, Shrink()], data=feeds)
    if importance != "bn_scale" or "batch norm" in topology:
        assert report.stages[-1].parameters < report.stages[0].parameters
    assert_same(plain_run(masked, feeds), plain_run(small, feeds))


READ = {"parameters": lambda c: c.parameters, "macs": lambda c: c.macs}


@pytest.mark.parametrize("budget", READ)
@pytest.mark.parametrize("topology", [name for name in TOPOLOGIES if name != "inner graph"])
def test_what_is_counted_is_what_is_left(topology: str, budget: str) -> None:
    subject = TOPOLOGIES[topology][0]()
    groups = Context(subject).groups
    channels = removed(subject, sparsity=0.4)
    counted = Meter(groups, budget).left(channels)  # type: ignore[arg-type]
    assert Meter(groups, budget).total == READ[budget](cost(subject))  # type: ignore[arg-type]
    copy = subject.clone()
    remove(copy, find_groups(copy), channels)
    left = READ[budget](cost(copy))
    if any(node.op_type == "LayerNormalization" for node in copy.graph):  # its parameters stay wide, with zeros
        assert counted <= left
    else:
        assert counted == left


@pytest.mark.parametrize("budget", READ)
@pytest.mark.parametrize("ranking", ["local", "global", "isomorphic"])
@pytest.mark.parametrize("subject", [conv_chain, conv_chain_batch_norm, mlp, residual], ids=lambda f: f.__name__)
def test_the_smallest_share_that_meets_the_budget(subject: Callable[[], ir.Model], ranking: str, budget: str) -> None:
    """Against trying every share; one channel fewer would not do."""
    original = subject()
    options = {"ranking": ranking, "importance": "l1"}
    small, _ = apply(original, [PruneChannels(sparsity=0.4, budget=budget, **options), Shrink()])  # type: ignore[arg-type]
    assert READ[budget](cost(small)) <= 0.6 * READ[budget](cost(original))
    meter = Meter(Context(original).groups, budget)  # type: ignore[arg-type]
    tried = [removed(original, sparsity=k / 1000, **options) for k in range(0, 1000, 4)]
    first = next(channels for channels in tried if meter.left(channels) <= 0.6 * meter.total)
    found = removed(original, sparsity=0.4, budget=budget, **options)
    assert {name: channels for name, channels in found.items() if channels} == first


def test_bytes_are_those_of_the_constants() -> None:
    original = conv_chain()
    small, _ = apply(original, [PruneChannels(sparsity=0.5, budget="bytes", ranking="global"), Shrink()])
    before, after = (sum(w.nbytes for w in weights(m).values()) for m in (original, small))
    assert 0.4 * before < after <= 0.5 * before


def test_a_budget_out_of_reach_is_said() -> None:
    plan = PruneChannels(sparsity=0.9, budget="macs", keep_at_least=8).plan(conv_chain(), Context(conv_chain()))
    assert {name: len(c) for name, c in plan.channels.items()} == {"w1": 8, "w2": 4}
    reason = next(r.reason for r in plan.refused if r.subject == "model")
    full, left = 64 * 16 * 27 + 16 * 12 * 144 + 60, 64 * 8 * 27 + 16 * 8 * 72 + 40
    assert reason == f"at most {1 - left / full:.1%} of its macs can go, and 90.0% were asked for"


def test_steps_score_again_what_is_left() -> None:
    """Norms over what makes and what reads a channel: each weight that goes takes part of its readers' norms along."""
    subject = mlp()
    first = removed(subject, sparsity=0.25)
    copy = subject.clone()
    PruneChannels(sparsity=0.25).apply(copy, PruneChannels(sparsity=0.25).plan(subject, Context(subject)))
    again = PruneChannels().ranker(Context(copy))[0].scores
    expected = {}
    for name, score in again.items():
        rest = [c for c in np.argsort(score, kind="stable") if c not in first[name]]
        expected[name] = sorted([*first[name], *rest[: int(0.5 * len(score)) - len(first[name])]])
    assert removed(subject, sparsity=0.5, steps=2) == expected
    assert expected != removed(subject, sparsity=0.5)


@pytest.mark.parametrize(
    "options", [{}, {"budget": "macs", "ranking": "local"}, {"ranking": "global"}, {"importance": "random"}]
)
def test_steps_end_at_the_same_size(options: dict[str, object]) -> None:
    subject = residual()
    once, often = (removed(subject, sparsity=0.4, steps=n, **options) for n in (1, 3))
    if options.get("ranking") == "global":
        assert sum(map(len, often.values())) == sum(map(len, once.values()))
    else:
        assert {n: len(c) for n, c in often.items()} == {n: len(c) for n, c in once.items()}
