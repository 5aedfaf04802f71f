"""Pruning while a model is trained: options, and what is pruned in real trainings."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from corpus.trainable import cnn, weights_of

from onnxcompress import apply
from onnxcompress.demo.data import load_split
from onnxcompress.errors import OptionError
from onnxcompress.passes import Cluster, Distill, Quantize, Shrink
from onnxcompress.passes.distill.qat.masters import find_masters
from onnxcompress.recipe import parse_pass, parse_recipe


def digits(count: int = 300) -> dict[str, np.ndarray]:
    images, labels = load_split("train")
    return {"image": images[:count], "labels": labels[:count]}


def pruned(model: Any, *more: Any, **options: Any) -> tuple[Any, Any]:
    step = Distill(**{"epochs": 3, "batch_size": 32, "learning_rate": 3e-3, "losses": {"cross-entropy": 1.0}} | options)
    return apply(model, [step, *more], data=digits())


def test_weights_are_zero_to_the_share_that_was_asked_for() -> None:
    end, report = pruned(cnn(), prune={"final": 0.8, "frequency": 2})
    after = weights_of(end)
    assert np.count_nonzero(after["w"] == 0) == round(0.8 * 72)
    assert np.count_nonzero(after["fc"] == 0) == round(0.8 * 1280)
    assert all(after[name].all() for name in ("scale", "fb"))
    assert any("became zero" in change.what for change in report.steps[0].done)


def test_blocks_and_groups_are_zero_as_a_whole() -> None:
    end, _ = pruned(cnn(), prune={"final": 0.5, "rows": 2, "columns": 4}, pattern="blocks")
    blocks = (weights_of(end)["fc"].T == 0).reshape(5, 2, 32, 4).transpose(0, 2, 1, 3).reshape(160, 8)
    assert (blocks.any(1) == blocks.all(1)).all() and blocks.all(1).sum() == 80
    end, report = pruned(cnn(), prune={"n": 1, "m": 4}, pattern="n_of_m")
    assert ((weights_of(end)["fc"].T.reshape(10, 32, 4) != 0).sum(2) == 1).all()
    assert {refusal.subject: refusal.reason for refusal in report.steps[0].refused}["w"].startswith("an output sums")


def test_shrink_removes_the_channels_that_training_zeroed() -> None:
    end, _ = pruned(cnn(), Shrink(), prune={"final": 0.5}, pattern="channels")
    assert weights_of(end)["w"].shape == (4, 1, 3, 3)
    assert weights_of(end)["fc"].shape == (64, 10)


def test_integers_are_pruned_while_they_are_trained() -> None:
    quantized, _ = apply(cnn(), [Quantize()], data=digits())
    end, _ = pruned(quantized, prune={"final": 0.75})
    steps = [m.steps for m in find_masters(end)[0].values() if m.steps.ndim > 1]
    assert len(steps) == 2
    assert all((s == 0).mean() >= 0.75 for s in steps)


def test_what_shares_few_values_is_not_pruned() -> None:
    clustered, _ = apply(cnn(), [Cluster(clusters=4)])
    end, report = pruned(clustered, prune={"final": 0.5})
    assert weights_of(end)["fc"].all()
    assert "shares few values" in {r.subject: r.reason for r in report.steps[0].refused}["fc"]


def test_the_table_is_written_in_toml_and_on_the_command_line() -> None:
    text = '[[pass]]\nname = "distill"\npattern = "blocks"\nprune = {initial = 0.2, final = 0.8, power = 1, rows = 2}'
    expected = {"initial": 0.2, "final": 0.8, "power": 1, "rows": 2}
    for step in (
        parse_recipe(text)[0],
        parse_pass("distill pattern=blocks prune.initial=0.2 prune.final=0.8 prune.power=1 prune.rows=2"),
    ):
        assert isinstance(step, Distill)
        assert (step.pattern, step.prune) == ("blocks", expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prune": {"finale": 0.5}}, r"prune: unknown 'finale'; did you mean 'final'"),
        ({"prune": {"initial": 0.5}}, r"prune: 'final' is missing"),
        ({"prune": {"final": 1.0}}, r"prune\.final = 1\.0: expected .*< 1"),
        ({"prune": {"final": 0.5, "frequency": 0}}, r"prune\.frequency = 0.*: expected .*>= 1"),
        ({"prune": {"final": 0.5, "rows": 1.5}}, r"prune\.rows = 1\.5: expected `int`"),
        ({"prune": {"n": 4, "m": 4}, "pattern": "n_of_m"}, r"prune\.n = 4: expected less than prune\.m = 4"),
        ({"prune": {"final": 0.8}, "pattern": "n_of_m"}, r"prune\.final = 0\.8: 2 of 4 leave at most 0\.5"),
        ({"pattern": "channels"}, r"pattern = 'channels': nothing is pruned; say how much, prune\.final"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Distill(**options)


def test_the_model_that_training_started_from_stays() -> None:
    model = cnn()
    before = ir.to_proto(model).SerializeToString()
    pruned(model, prune={"final": 0.5}, epochs=1)
    assert ir.to_proto(model).SerializeToString() == before
