"""`Quantize(max_drop=...)`: which measures are tried, in which order, and which one is taken."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
import pytest
from corpus.oracle import plain_run
from corpus.text import model
from rich.console import Console

from onnxcompress import apply
from onnxcompress.contract import Context
from onnxcompress.errors import PassError
from onnxcompress.evaluation.compare import compare_models
from onnxcompress.passes import Quantize
from onnxcompress.passes.quantize.max_drop.attempts import Attempt
from onnxcompress.passes.quantize.max_drop.exclude import _excluded, _least_number, float_first
from onnxcompress.passes.quantize.prepare import prepare
from onnxcompress.passes.quantize.static.plan import QuantizePlan
from onnxcompress.samples.samples import load_samples

Feeds = dict[str, np.ndarray]

NET = """g (float[N,8,1,1] x) => (float[N,4] y) {
    a = Conv(x, w1) r = Relu(a) b = Conv(r, w2) s = Relu(b) c = Conv(s, w3) t = Relu(c)
    f = Flatten(t) y = Gemm(f, w4, b4) }"""
W2 = {"w1": (8, 16), "w2": (16, 4)}
FREE = ["as it comes", "ranges by percentile", "ranges by mse", "equalised"]


def net(spread: float = 1.0) -> ir.Model:
    """Layer `b` reads a channel `spread` times as large as the others, and needs less of it."""
    random = np.random.default_rng(5)
    w1, w2 = (random.normal(size=(8, 8, 1, 1)).astype(np.float32) for _ in range(2))
    w1[0] *= spread
    w2[:, 0] *= spread == 1
    return model(NET, {"w1": w1, "w2": w2, "w3": (8, 8, 1, 1), "w4": (8, 4), "b4": (4,)})


def rows(seed: int = 0, count: int = 128) -> Feeds:
    return {"x": np.random.default_rng(seed).normal(size=(count, 8, 1, 1)).astype(np.float32)}


def held(subject: ir.Model, feeds: Feeds | None = None, **options: Any) -> QuantizePlan:
    context = Context(subject, samples=load_samples(feeds or rows(), subject), metric="cosine")
    return Quantize(**options).plan(subject, context)


def attempts(plan: QuantizePlan) -> list[str]:
    """Return what is said of the attempts, which comes before what is said of this machine's CPU."""
    return [note for note in plan.notes if "VNNI" not in note]


def names(plan: QuantizePlan) -> list[str]:
    return [note.split(":")[0] for note in attempts(plan)]


def test_it_begins_with_all_that_costs_nothing_and_stops_where_that_holds() -> None:
    plan = held(net(), max_drop=0.5)
    assert names(plan) == FREE[:1]
    assert all(weight.integers is not None for weight in plan.weights), "rounded by gptq"
    plain = Quantize().plan(net(), Context(net(), samples=load_samples(rows(), net())))
    for ours, theirs in zip(plan.weights, plain.weights, strict=True):
        np.testing.assert_array_equal(ours.integers, theirs.integers)
    assert plan.chosen == {}


def test_on_a_target_without_16_bits_layers_go_straight_to_float() -> None:
    plan = held(net(), max_drop=0.0)
    assert names(plan)[:4] == FREE
    assert [" ".join(name.split()[:6]) for name in names(plan)[4:7]] == [
        "1 of 4 layers in float",
        "2 of 4 layers in float",
        "3 of 4 layers in float",
    ]
    assert attempts(plan)[7:] == ["no attempt is sure to lose at most 0; the best one is taken"]
    assert plan.int16 == ()


def test_on_a_target_with_16_bits_those_come_before_float() -> None:
    plan = held(net(), max_drop=0.0, target="qnn")
    assert names(plan)[:4] == FREE
    tried = [(name.split()[0], name.split(" layers ")[1].split(" (")[0]) for name in names(plan)[4:-1]]
    wide = "with activations of 16 bits"
    assert tried == [("1", wide), ("2", wide), ("4", wide), ("1", "in float"), ("2", "in float"), ("3", "in float")]


def test_the_layer_with_the_bad_range_is_the_one_in_16_bits() -> None:
    subject = net(spread=300)
    loss = {}
    for wide in ((), ("b",)):
        overrides = {name: {"activations": "uint16"} for name in wide}
        step = Quantize(target="qnn", correct=False, rounding="nearest", overrides=overrides)
        copy = subject.clone()
        step.apply(copy, step.plan(copy, Context(copy, samples=load_samples(rows(), copy))))
        y, z = (plain_run(m, rows(7))["y"].astype(np.float64) for m in (subject, copy))
        loss[wide] = 1 - float(np.mean((y * z).sum(1) / np.linalg.norm(y, axis=1) / np.linalg.norm(z, axis=1)))
    assert loss["b",] < loss[()] / 10
    plan = held(subject, max_drop=loss[()] / 10, target="qnn")
    assert plan.int16 == ("b",)
    assert {"a", "b", "c", "y"} <= set(plan.nodes), "nothing is left in float"


def test_ranges_that_the_user_chose_are_kept() -> None:
    plan = held(net(), max_drop=0.0, calibration="entropy")
    assert names(plan)[:2] == [FREE[0], FREE[3]]


def test_ranges_by_percentile_stay_where_they_help() -> None:
    """One value is 80 times as large as any other, which a percentile of 99.999 cuts off among 262,144."""
    subject = model("g (float[N,1024] x) => (float[N,4] y) { y = Gemm(x, w) }", {"w": (1024, 4)})
    feeds = {"x": np.random.default_rng(0).normal(size=(512, 1024)).astype(np.float32)}
    feeds["x"][0, 0] = 400
    (activation,) = held(subject, feeds, max_drop=0.0).activations
    assert activation.scale < 15 / 255
    (activation,) = held(subject, feeds, max_drop=1.0).activations
    assert activation.scale > 400 / 255


def test_where_a_model_cannot_be_raised_16_bits_are_not_possible(monkeypatch: pytest.MonkeyPatch) -> None:
    raised = prepare.raise_opset

    def fails(subject: ir.Model, to: int) -> bool:
        if to == 21:
            raise PassError("onnx's version converter fails")
        return raised(subject, to)

    monkeypatch.setattr(prepare, "raise_opset", fails)
    plan = held(net(), max_drop=0.0, target="qnn")
    assert attempts(plan)[4] == "layers with activations of 16 bits: not possible, onnx's version converter fails"
    assert "1 of 4 layers in float" in attempts(plan)[5]
    with pytest.raises(PassError, match="version converter"):
        held(net(), max_drop=0.0, target="qnn", overrides={"b": {"activations": "uint16"}})


def test_the_text_report_lists_the_attempts() -> None:
    _, report = apply(net(), [Quantize(max_drop=0.0, target="qnn")], data=rows(), metric="cosine")  # type: ignore[arg-type]
    console = Console(width=200)
    with console.capture() as captured:
        console.print(report.to_table())
    lines = [line.split() for line in captured.get().splitlines()]
    found = [" ".join(line).removeprefix("quantize ") for line in lines]
    assert set(report.steps[0].notes) <= set(found)
    for measure in FREE:
        assert sum(line.startswith(f"{measure}: cosine 0.9") for line in found) == 1


def test_layers_next_to_each_other_go_to_float_together() -> None:
    """What one layer gives and the next one reads stays as it is only where both are in float."""
    subject = net()
    plan = Quantize(correct=False, rounding="nearest").plan(
        subject, Context(subject, samples=load_samples(rows(), subject))
    )
    work = subject.clone()
    assert float_first(work, plan, {"a": 0.1, "b": 1.0, "c": 0.1, "y": 0.9}) == ["a", "b", "c", "y"]
    assert float_first(work, plan, {"a": 0.05, "b": 0.1, "c": 0.1, "y": 0.9}) == ["c", "y", "b", "a"]
    assert float_first(work, plan, {"a": 0.9, "b": 0.1, "c": 0.1, "y": 0.1}) == ["a", "b", "c", "y"]


@pytest.mark.parametrize(
    ("enough", "tried"), [(1, [1]), (6, [1, 2, 4, 8, 6, 5]), (7, [1, 2, 4, 8, 6, 7]), (11, [1, 2, 4, 8, 11, 9, 10])]
)
def test_the_least_number_of_layers_that_holds_is_looked_for(enough: int, tried: list[int]) -> None:
    class Fake:
        seen: ClassVar[list[int]] = []

        def try_with(self, what: str, base: Quantize, options: dict[str, Any], *, costly: bool) -> bool:
            assert costly
            self.seen.append(len(options["exclude"]))
            assert what.startswith(f"{self.seen[-1]} of 12 layers in float (l0")
            return self.seen[-1] >= enough

    fake = Fake()
    fake.seen.clear()
    order = [f"l{index}" for index in range(12)]
    assert _least_number(fake, Quantize(), _excluded, "in float", order, 11)  # type: ignore[arg-type]
    assert fake.seen == tried


def test_a_lucky_model_does_not_hold() -> None:
    """As many decisions got right as wrong: no loss, but its standard error is one."""
    subject = model("g (float[N,8] x) => (float[N,4] y) { h = Gemm(x, w1) r = Relu(h) y = Gemm(r, w2) }", W2)
    feeds = {"x": np.random.default_rng(0).normal(size=(400, 8)).astype(np.float32)}
    scores = plain_run(subject, feeds)["y"]
    second = np.argsort(scores, axis=1)[:, -2]
    labels = np.where(np.arange(400) % 2, scores.argmax(1), second)  # right and wrong alike, wherever it is close
    samples = load_samples({**feeds, "labels": labels}, subject)
    plan = Quantize(max_drop=0.0).plan(subject, Context(subject, samples=samples, metric="top1"))
    first = attempts(plan)[0]
    lost, error = (float(part) for part in first.split("lost ")[1].split(" on ")[0].split(" ± "))
    assert abs(lost) <= 2 * error
    assert error > 0
    assert len(attempts(plan)) > 1


def test_the_report_shows_the_options_that_were_used() -> None:
    _, report = apply(net(), [Quantize(max_drop=0.0)], data=rows(), metric="cosine")  # type: ignore[arg-type]
    shown = report.steps[0].options
    again = Quantize(**{name: value for name, value in shown.items() if name != "max_drop"})
    assert set(shown["exclude"]) < {"a", "b", "c", "y"}
    assert shown["exclude"]
    assert again.exclude == tuple(shown["exclude"])
    assert shown["max_drop"] == 0.0


def test_noise_decides_between_losses_that_samples_cannot_tell_apart() -> None:
    subject = net()
    found = compare_models(subject, subject, load_samples(rows(), subject), "cosine")

    def attempt(loss: float, error: float, sqnr: float) -> Attempt:
        return Attempt(replace(found, drop=loss, drop_error=error, sqnr=sqnr), Quantize(), QuantizePlan())

    assert attempt(0.02, 0.02, 25).beats(attempt(0.01, 0.02, 20))
    assert not attempt(0.01, 0.02, 20).beats(attempt(0.02, 0.02, 25))
    assert attempt(0.01, 0.001, 20).beats(attempt(0.02, 0.001, 25))
    assert attempt(0.01, 0.0, 20).beats(attempt(0.02, 0.0, 25))
