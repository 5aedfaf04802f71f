"""Every pruning pass selects alike: by names of weights, of the nodes that use them, and by operators."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from corpus.topologies import behind, conv_chain, residual

from onnxcompress import apply
from onnxcompress.contract import Context, Pass
from onnxcompress.errors import OptionError, PassError
from onnxcompress.passes import (
    ActivationPrune,
    ApplyMask,
    Cluster,
    MagnitudePrune,
    PruneBlocks,
    PruneChannels,
    PruneNOfM,
    PruneSlices,
    RandomPrune,
)
from onnxcompress.passes.prune.masks.masks import MaskPlan

OF_WEIGHTS: dict[type[Pass], dict[str, Any]] = {
    Cluster: {"clusters": 3},
    MagnitudePrune: {"sparsity": 0.5},
    PruneBlocks: {},
    PruneNOfM: {"n": 1, "m": 2},
    PruneSlices: {},
    RandomPrune: {},
}
OF_GROUPS: dict[type[Pass], dict[str, Any]] = {ActivationPrune: {"sparsity": 0.5}, PruneChannels: {}}
DATA = {"x": np.random.default_rng(0).standard_normal((8, 3, 8, 8)).astype(np.float32)}


def changed(subject: ir.Model, step: Pass) -> tuple[set[str], dict[str, str]]:
    """Return the weights that a pass changed, and what it refused."""
    result, report = apply(subject, [step], data=DATA)
    before, after = (
        {t.name: onnx.numpy_helper.to_array(t) for t in ir.to_proto(m).graph.initializer} for m in (subject, result)
    )
    weights = {name for name in before if name[0] == "w" and not np.array_equal(before[name], after[name])}
    return weights, {refusal.subject: refusal.reason for refusal in report.steps[0].refused}


@pytest.mark.parametrize("kind", OF_WEIGHTS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        ({"include": ("w2",)}, "w2"),
        ({"include": ("c",)}, "w2"),
        ({"include": ("type:Conv",)}, "w1 w2"),
        ({"exclude": ("type:Con*",)}, "w3"),
        ({"include": ("w[12]",), "exclude": ("a",)}, "w2"),
    ],
    ids=str,
)
def test_weights(kind: type[Pass], terms: dict[str, Any], expected: str) -> None:
    found, refused = changed(conv_chain(), kind(**OF_WEIGHTS[kind], **terms))
    assert found == set(expected.split())
    assert set(refused) == {"w1", "w2", "w3"} - found
    assert set(refused.values()) <= {"not named by include", "excluded by 'type:Con*'", "excluded by 'a'"}


@pytest.mark.parametrize("kind", OF_GROUPS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        ({"include": ("w2",)}, "w2 w3"),
        ({"include": ("c",)}, "w2 w3"),
        ({"include": ("b1",)}, "w1 w2"),
        ({"include": ("type:Conv",)}, "w1 w2 w3"),
        ({"exclude": ("a",)}, "w2 w3"),
        ({"exclude": ("w2",)}, ""),  # it reads the first group's channels, and makes those of the second
        ({"exclude": ("type:Gemm",)}, "w1 w2"),
    ],
    ids=str,
)
def test_groups(kind: type[Pass], terms: dict[str, Any], expected: str) -> None:
    assert changed(conv_chain(), kind(**OF_GROUPS[kind], **terms))[0] == set(expected.split())


@pytest.mark.parametrize("kind", [*OF_WEIGHTS, *OF_GROUPS], ids=lambda kind: kind.__name__)
def test_what_there_is_nothing_to_do_to_is_said(kind: type[Pass]) -> None:
    step = kind(include=("w1", "r"), **(OF_WEIGHTS | OF_GROUPS)[kind])
    reason = f"include names it, and there is nothing that {step.name} could do to it"
    assert changed(conv_chain(), step)[1]["r"] == reason


@pytest.mark.parametrize("kind", [*OF_WEIGHTS, *OF_GROUPS], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("option", ["include", "exclude", "overrides"])
def test_what_matches_nothing_is_an_error(kind: type[Pass], option: str) -> None:
    own = {kind.overridable[0]: 0.5 if "sparsity" in kind.overridable[0] else 2}  # type: ignore[attr-defined]
    own = {"threshold": 0.5} if "threshold" in kind.overridable else own  # type: ignore[attr-defined]
    own = {"block": (2, 2)} if "block" in kind.overridable else own  # type: ignore[attr-defined]
    own = {"n": 1} if "n" in kind.overridable else own  # type: ignore[attr-defined]
    given = {"type:Gem": own} if option == "overrides" else ("type:Gem",)
    with pytest.raises(PassError, match=f"{option}: 'type:Gem' matches nothing in the model; did you mean 'type:Gemm'"):
        apply(conv_chain(), [kind(**(OF_WEIGHTS | OF_GROUPS)[kind], **{option: given})], data=DATA)


def test_a_weight_that_is_moved_goes_by_the_node_that_multiplies() -> None:
    node = next(node for node in behind().graph if node.op_type in ("MatMul", "Conv", "Gemm"))
    term = str(node.outputs[0].name)
    plan = MagnitudePrune(include=(term,)).plan(behind(), Context(behind()))
    assert list(plan.masks) == ["w0"]


def zeros(plan: MaskPlan) -> dict[str, int]:
    return {name: int((~mask.keep()).sum()) for name, mask in plan.masks.items()}


def test_overrides_of_single_weights() -> None:
    subject = conv_chain()

    def planned(step: Pass) -> MaskPlan:
        plan = step.plan(subject, Context(subject))
        assert isinstance(plan, MaskPlan)
        return plan

    own = {"type:Conv": {"sparsity": 7}, "w2": {"sparsity": 0.25}}
    expected = {"w1": 7, "w2": 12 * 16 * 9 // 4, "w3": 30}
    assert zeros(planned(MagnitudePrune(sparsity=0.5, overrides=own))) == expected
    assert zeros(planned(RandomPrune(sparsity=0.5, overrides=own))) == expected
    slices = planned(PruneSlices(sparsity=2, overrides={"w1": {"axis": "in", "norm": 1.5}, "w3": {"axis": 1}}))
    assert zeros(slices) == {"w1": 2 * 16 * 9, "w2": 2 * 16 * 9, "w3": 2 * 5}
    blocks = planned(PruneBlocks(block=(4, 1), sparsity=1, overrides={"w2": {"block": (6, 2)}, "w1": {"sparsity": 3}}))
    assert zeros(blocks)["w1"] == 12
    assert zeros(blocks)["w2"] == 12
    rows = planned(PruneNOfM(overrides={"w2": {"n": 1}, "w3": {"n": 2, "m": 3}}))
    assert zeros(rows) == {"w2": 12 * 16 * 9 * 3 // 4, "w3": 5 * 12 // 3}


def test_a_threshold_of_its_own_takes_the_place_of_a_sparsity() -> None:
    subject = conv_chain()
    weight = subject.graph.initializers["w1"].const_value
    assert weight is not None
    array = np.abs(weight.numpy())
    for options in ({}, {"normalise": "model"}):
        step = MagnitudePrune(sparsity=0.5, overrides={"w1": {"threshold": 0.2}}, **options)  # type: ignore[arg-type]
        plan = step.plan(subject, Context(subject))
        largest = max(
            float(np.abs(v.const_value.numpy()).max())
            for name, v in subject.graph.initializers.items()
            if v.const_value is not None and name in (("w1", "w2", "w3") if options else ("w1",))
        )
        assert np.array_equal(plan.masks["w1"].keep(), array / largest >= 0.2)
    rest = 12 * 16 * 9 + 60
    assert zeros(plan)["w2"] + zeros(plan)["w3"] == rest // 2  # the others compete among themselves


def test_overrides_of_clusters() -> None:
    step = Cluster(clusters=4, overrides={"w2": {"clusters": 2, "granularity": "channel"}, "w3": {"clusters": 3}})
    small, _ = apply(conv_chain(), [step])
    after = {t.name: onnx.numpy_helper.to_array(t) for t in ir.to_proto(small).graph.initializer}
    assert len(np.unique(after["w1"])) == 4
    assert {len(np.unique(row)) for row in after["w2"]} == {2}
    assert len(np.unique(after["w3"])) == 3


def test_overrides_of_groups() -> None:
    subject = conv_chain(16, 12)
    own = {"w1": {"sparsity": 3, "round_to": 4}, "c": {"keep_at_least": 11}}
    plan = PruneChannels(sparsity=0.5, overrides=own).plan(subject, Context(subject))
    assert {name: len(gone) for name, gone in plan.channels.items()} == {"w2": 1}  # 3 of 16 leave no multiple of 4
    plan = PruneChannels(sparsity=0.5, ranking="global", overrides=own).plan(subject, Context(subject))
    assert {name: len(gone) for name, gone in plan.channels.items()} == {"w2": 1}


def test_masks_are_selected(tmp_path: Path) -> None:
    path = tmp_path / "masks.npz"
    np.savez(path, w1=np.zeros((16, 3, 3, 3)), w2=np.zeros((12, 16, 3, 3)), b1=np.zeros(16))
    for terms, expected in (
        ({"include": ("a",)}, {"w1", "b1"}),
        ({"exclude": ("type:Gemm", "w1")}, {"w2", "b1"}),
    ):
        plan = ApplyMask(masks=str(path), **terms).plan(conv_chain(), Context(conv_chain()))  # type: ignore[arg-type]
        assert set(plan.masks) == expected
        assert {refusal.subject for refusal in plan.refused} == {"w1", "w2", "b1"} - expected


def test_of_a_residual_stream_any_layer_stands_for_it() -> None:
    subject = residual()
    names = {group.name for group in Context(subject).groups.prunable}
    for term in ("w0", "w2", "stem"):
        plan = PruneChannels(include=(term,)).plan(subject, Context(subject))
        assert list(plan.channels) == ["w0"]
    assert names > {"w0"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PruneNOfM(overrides={"w1": {"n": 4}}), "prune-n-of-m: n = 4: expected less than m = 4"),
        (lambda: Cluster(overrides={"w1": {"sparsity": 4}}), "overrides.w1.sparsity: it cannot be overridden"),
        (lambda: MagnitudePrune(overrides={"w1": {"normalise": "model"}}), "overrides.w1.normalise: it cannot"),
    ],
)
def test_overrides_are_checked_when_the_pass_is_made(make: Any, message: str) -> None:
    with pytest.raises(OptionError) as error:
        make()
    assert message in str(error.value)
