"""`Quantize(max_drop=...)`: which measures are tried, in which order, and which one is taken."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from corpus.oracle import plain_run
from corpus.text import model
from rich.console import Console

from onnxcompress import apply
from onnxcompress.contract import Context
from onnxcompress.errors import PassError
from onnxcompress.passes import Quantize
from onnxcompress.passes.quantize import prepare
from onnxcompress.passes.quantize.plan import QuantizePlan
from onnxcompress.runtime.samples import load_samples

Feeds = dict[str, np.ndarray]

NET = """g (float[N,8,1,1] x) => (float[N,4] y) {
    a = Conv(x, w1) r = Relu(a) b = Conv(r, w2) s = Relu(b) c = Conv(s, w3) t = Relu(c)
    f = Flatten(t) y = Gemm(f, w4, b4) }"""
RUNGS = [
    "rounded to nearest",
    "ranges by percentile",
    "ranges by mse",
    "equalised",
    "biases corrected",
    "rounding compensated",
]


def net(spread: float = 1.0) -> ir.Model:
    """Layer `b` reads a channel `spread` times as large as the others, and needs less of it."""
    random = np.random.default_rng(5)
    w1, w2 = (random.normal(size=(8, 8, 1, 1)).astype(np.float32) for _ in range(2))
    w1[0] *= spread
    w2[:, 0] *= spread == 1
    return model(NET, {"w1": w1, "w2": w2, "w3": (8, 8, 1, 1), "w4": (8, 4), "b4": (4,)})


def rows(seed: int = 0, count: int = 128) -> Feeds:
    return {"x": np.random.default_rng(seed).normal(size=(count, 8, 1, 1)).astype(np.float32)}


def climbed(subject: ir.Model, feeds: Feeds | None = None, **options: Any) -> QuantizePlan:
    context = Context(subject, samples=load_samples(feeds or rows(), subject), metric="cosine")
    return Quantize(**options).plan(subject, context)


def names(plan: QuantizePlan) -> list[str]:
    return [note.split(":")[0] for note in plan.notes]


def test_it_stops_at_the_first_rung_that_holds() -> None:
    plan = climbed(net(), max_drop=0.5)
    assert names(plan) == RUNGS[:1]
    assert all(weight.integers is None for weight in plan.weights)


def test_on_a_target_without_16_bits_layers_go_straight_to_float() -> None:
    plan = climbed(net(), max_drop=0.0)
    assert names(plan)[:6] == RUNGS
    assert [" ".join(name.split()[:6]) for name in names(plan)[6:8]] == [
        "1 of 4 layers in float",
        "2 of 4 layers in float",
    ]
    assert plan.notes[8:] == ("no rung loses at most 0; the best one is taken",)
    assert plan.wide == ()


def test_on_a_target_with_16_bits_those_come_before_float() -> None:
    plan = climbed(net(), max_drop=0.0, target="qnn")
    assert names(plan)[:6] == RUNGS
    tried = [(name.split()[0], name.split(" layers ")[1].split(" (")[0]) for name in names(plan)[6:-1]]
    wide = "with activations of 16 bits"
    assert tried == [("1", wide), ("2", wide), ("4", wide), ("1", "in float"), ("2", "in float")]


def test_the_layer_with_the_bad_range_is_the_one_in_16_bits() -> None:
    subject = net(spread=300)
    loss = {}
    for wide in ((), ("b",)):
        step = Quantize(target="qnn", correct=False, rounding="nearest", wide=wide)
        copy = subject.clone()
        step.apply(copy, step.plan(copy, Context(copy, samples=load_samples(rows(), copy))))
        y, z = (plain_run(m, rows(7))["y"].astype(np.float64) for m in (subject, copy))
        loss[wide] = 1 - float(np.mean((y * z).sum(1) / np.linalg.norm(y, axis=1) / np.linalg.norm(z, axis=1)))
    assert loss["b",] < loss[()] / 10
    plan = climbed(subject, max_drop=loss[()] / 10, target="qnn")
    assert plan.wide == ("b",)
    assert {"a", "b", "c", "y"} <= set(plan.nodes), "nothing is left in float"


def test_ranges_that_the_user_chose_are_kept() -> None:
    plan = climbed(net(), max_drop=0.0, ranges="entropy")
    assert names(plan)[:4] == ["rounded to nearest", *RUNGS[3:]]


def test_ranges_by_percentile_stay_where_they_help() -> None:
    """One value is 80 times as large as any other, which a percentile of 99.999 cuts off among 262,144."""
    subject = model("g (float[N,1024] x) => (float[N,4] y) { y = Gemm(x, w) }", {"w": (1024, 4)})
    feeds = {"x": np.random.default_rng(0).normal(size=(512, 1024)).astype(np.float32)}
    feeds["x"][0, 0] = 400
    (activation,) = climbed(subject, feeds, max_drop=0.0).activations
    assert activation.scale < 15 / 255
    (activation,) = climbed(subject, feeds, max_drop=1.0).activations
    assert activation.scale > 400 / 255


def test_where_a_model_cannot_be_raised_16_bits_are_not_possible(monkeypatch: pytest.MonkeyPatch) -> None:
    raised = prepare.raise_opset

    def fails(subject: ir.Model, to: int) -> bool:
        if to == 21:
            raise PassError("onnx's version converter fails")
        return raised(subject, to)

    monkeypatch.setattr(prepare, "raise_opset", fails)
    plan = climbed(net(), max_drop=0.0, target="qnn")
    assert plan.notes[6] == "layers with activations of 16 bits: not possible, onnx's version converter fails"
    assert "1 of 4 layers in float" in plan.notes[7]
    with pytest.raises(PassError, match="version converter"):
        climbed(net(), max_drop=0.0, target="qnn", wide=("b",))


def test_the_text_report_lists_the_rungs() -> None:
    _, report = apply(net(), [Quantize(max_drop=0.0, target="qnn")], data=rows(), metric="cosine")  # type: ignore[arg-type]
    console = Console(width=200)
    with console.capture() as captured:
        console.print(report.to_table())
    lines = [line.split() for line in captured.get().splitlines()]
    found = [" ".join(line).removeprefix("quantize ") for line in lines]
    for note in (change.what for change in report.steps[0].done if change.subject == "model"):
        assert note in found
    for rung in RUNGS:
        assert sum(line.startswith(f"{rung}: cosine 0.9") for line in found) == 1
