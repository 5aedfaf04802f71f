"""The best weights on samples that do not train are kept, across faults, and a training that is worse says so."""

from __future__ import annotations

import dataclasses
import math
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from corpus.trainable import CNN, cnn, make, mlp, samples, weights_of

from onnxcompress import apply
from onnxcompress.demo.data import load_split
from onnxcompress.errors import OptionError, TrainingError
from onnxcompress.passes import Distill
from onnxcompress.training import CrossEntropy, Settings, process, train
from onnxcompress.training.held_out import hold_out
from onnxcompress.training.loop import rate
from onnxcompress.training.loop.data import Bucket
from onnxcompress.training.loop.judge import is_best, is_better
from onnxcompress.training.loop.rate import CANDIDATES, FIRST, climb, find_rate
from onnxcompress.training.loop.schedule import rate_factor
from onnxcompress.training.objective import build_evaluation, build_objective


def digits(count: int = 200) -> tuple[dict[str, np.ndarray], np.ndarray]:
    images, labels = load_split("train")
    return {"image": images[:count]}, labels[:count]


def accuracy(weights: dict[str, np.ndarray], x: np.ndarray, labels: np.ndarray) -> float:
    logits = np.maximum(x @ weights["w1"] + weights["b1"], 0) @ weights["w2"]
    return float((logits.argmax(1) == labels).mean())


def test_score_and_weights_are_those_of_the_held_out_samples() -> None:
    random = np.random.default_rng(0)
    x, labels = random.standard_normal((300, 6)).astype(np.float32), random.integers(0, 4, 300)
    settings = Settings(epochs=8, learning_rate=0.02, holdout=0.2)
    trained = train(mlp(), {"x": x}, CrossEntropy(labels), settings=settings)
    _, held = hold_out(300, 0.2, 0)
    assert trained.held == held.sum() == 60
    assert trained.curve[0][1] == pytest.approx(accuracy(weights_of(mlp()), x[held], labels[held]), abs=1e-6)
    assert trained.curve[trained.best][1] == pytest.approx(accuracy(trained.weights, x[held], labels[held]), abs=1e-6)
    assert len(trained.curve) == 9 and 1 <= trained.best <= 8


@pytest.mark.parametrize(
    ("curve", "kept", "best"),
    [
        ([(1, 0.5), (9, 0.1)], 0, True),  # the first epoch, whatever it is
        ([(1, 0.5), (0.9, 0.8), (0.8, 0.9)], 1, True),
        ([(1, 0.5), (0.9, 0.9), (0.8, 0.89)], 1, True),  # within a standard error: the loss decides
        ([(1, 0.5), (0.9, 0.9), (0.95, 0.91)], 1, False),
        ([(1, 0.5), (0.9, 0.9), (0.8, 0.7)], 1, False),
        ([(1, 0.9), (0.9, 0.91), (0.8, 0.89)], 1, False),  # below the start, which another epoch reached
        ([(1, -1), (0.9, -0.9), (0.8, -0.91)], 1, False),  # no share: no error is known
        ([(1, 0.5), (float("nan"), 0.9), (0.8, 0.1)], 1, True),
        ([(1, 0.5), (0.8, 0.6), (float("nan"), 0.9)], 1, False),
    ],
)
def test_what_is_best(curve: list[tuple[float, float]], kept: int, best: bool) -> None:
    assert is_best(curve, kept, 100) == best


@pytest.mark.parametrize(
    ("one", "better"),
    [
        ((0.9, 0.8), True),
        ((0.9, 0.79), False),  # below
        ((1.1, 0.82), False),  # by chance, while the loss grew
        ((1.1, 0.9), True),  # by more than a standard error
        ((1.0, 0.8), False),  # nothing changed
        ((float("nan"), 0.9), False),
    ],
)
def test_what_is_better_than_the_start(one: tuple[float, float], better: bool) -> None:
    assert is_better(one, (1.0, 0.8), 100) == better


def test_the_evaluation_sees_batch_norm_as_it_is_used() -> None:
    inputs, labels = digits(64)
    model = cnn()
    loss = CrossEntropy(labels)
    objective = build_objective(model, loss, samples=inputs)
    proto = build_evaluation(model, loss, objective, samples=inputs)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    values = weights_of(model) | {"mean": np.full(8, 0.1, np.float32), "var": np.full(8, 2, np.float32)}
    fed = {one.name: (values | inputs | {"onnxcompress.labels": labels})[one.name] for one in session.get_inputs()}
    assert {"mean", "var"} <= set(fed)
    found = dict(zip((one.name for one in session.get_outputs()), session.run(None, fed), strict=True))
    used = make(CNN, **values)
    plain = onnxruntime.InferenceSession(ir.to_proto(used).SerializeToString(), providers=["CPUExecutionProvider"])
    p = plain.run(None, inputs)[0]
    assert found["onnxcompress.score"] == pytest.approx((p.argmax(1) == labels).mean())
    assert found["onnxcompress.loss"] == pytest.approx(-np.log(p[np.arange(64), labels]).mean(), rel=1e-4)


def test_frozen_statistics_stay_and_the_rest_trains() -> None:
    inputs, labels = digits(64)
    settings = Settings(epochs=1, batch_norm="frozen")
    trained = train(cnn(), inputs, CrossEntropy(labels), settings=settings)
    assert not {"mean", "var"} & set(trained.weights)
    assert {"scale", "bias", "w", "fc"} <= set(trained.weights)
    assert not np.array_equal(trained.weights["scale"], weights_of(cnn())["scale"])


def test_a_training_that_is_worse_leaves_the_model_and_fails() -> None:
    """It starts as its own teacher, and the rate is one that destroys."""
    teacher = mlp()
    x = np.random.default_rng(3).standard_normal((300, 6)).astype(np.float32)
    options = {"epochs": 1, "learning_rate": 1.0, "optimizer": "sgd", "warmup": 0.0}
    result, report = apply(teacher, [Distill(**options)], data={"x": x})
    for name, array in weights_of(result).items():
        np.testing.assert_array_equal(array, weights_of(teacher)[name])
    assert len(report.unmet) == 1
    assert report.unmet[0].startswith("distill: training made it no better: score 1 (loss ")
    assert "keep_anyway=true" in report.unmet[0]
    assert report.steps[0].done == []
    kept, report = apply(teacher, [Distill(**options, keep_anyway=True)], data={"x": x})
    assert report.unmet == [] and not np.array_equal(weights_of(kept)["w2"], weights_of(teacher)["w2"])
    assert any(note.startswith("training made it no better") for note in report.steps[0].notes)
    curve = report.steps[0].curve
    assert len(curve) == 2 and curve[0].score == 1 and curve[0].trained is None and curve[1].trained > 0
    assert '"curve"' in report.to_json()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_next_to_no_samples(count: int) -> None:
    student, (inputs, _, _) = mlp(), samples(count)
    _, report = apply(student, [Distill(epochs=2, learning_rate=1e-3, keep_anyway=True)], data=inputs)
    said = [note for note in report.steps[0].notes if "judge" in note]
    expected = {
        1: "one sample alone: it trains and judges",
        2: "all 2 samples train and judge",
        3: "2 samples trained, 1 that did not judged",
    }
    assert said and said[0].startswith(expected[count])


def test_patience_ends_training_and_says_so() -> None:
    inputs, labels, _ = samples(120)
    settings = Settings(epochs=60, learning_rate=0.05, holdout=0.3, patience=2, schedule="constant")
    trained = train(mlp(), inputs, CrossEntropy(labels), settings=settings)
    assert len(trained.losses) == trained.best + 2 < 60
    assert f"none of the last 2 was better than epoch {trained.best}" in trained.stopped


def test_the_learning_rate_is_the_one_that_did_best() -> None:
    inputs, labels = digits(200)
    settings = Settings(epochs=2, learning_rate="auto", holdout=0.2)
    trained = train(cnn(), inputs, CrossEntropy(labels), settings=settings)
    assert trained.settings.learning_rate == min(trained.tried, key=lambda each: each[1])[0]
    assert len(trained.tried) >= 3 and {rate for rate, _ in trained.tried} >= {3e-4, 1e-3}


@pytest.mark.parametrize("best", range(len(CANDIDATES)))
def test_rates_are_tried_until_they_get_worse(best: int) -> None:
    """A rate that destroys has no loss that is a number."""
    tried: list[int] = []

    def lose(place: int) -> float:
        tried.append(place)
        return math.inf if place > best + 1 else float(abs(place - best))

    found = climb(lose)
    assert min(found, key=lambda place: found[place]) == best
    assert len(tried) == len(set(tried)) <= abs(best - FIRST) + 3


@pytest.mark.parametrize(("a_step", "rates"), [(0.01, 3), (0.2, 3), (3.0, 1)])
def test_trials_take_a_share_of_the_time(a_step: float, rates: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a trial has no time for a few steps there is one; the more steps, the lower the loss of any rate."""
    now, taken, sizes = [0.0], [0], set()
    monkeypatch.setattr("onnxcompress.training.loop.clock.time.monotonic", lambda: now[0])
    monkeypatch.setattr(rate.State, "start", lambda *_: None)
    monkeypatch.setattr(rate, "make_hooks", lambda *_: [])
    job = {"batch_size": 16, "fixed": None, "settings": {"seconds": 100.0, "epochs": 1000, "seed": 0}}

    def step(_state: object, picked: Any, *_: object) -> float:
        now[0], taken[0] = now[0] + a_step, taken[0] + 1
        sizes.add(len(picked))
        return 1.0

    def measure(_state: object, most: float) -> tuple[float, float]:
        assert most == 16
        now[0] += 0.5
        return 1 / taken[0], 0.0

    given = SimpleNamespace(buckets=[Bucket({}, np.arange(64), np.arange(32))], changed=lambda _, picked, __: picked)
    tried = find_rate(
        job, Path(), given, SimpleNamespace(take=step), SimpleNamespace(samples=32, measure=measure), judging=1.0
    )  # type: ignore[arg-type]
    assert len(tried) == rates and sizes == {4}
    assert now[0] <= (15 if rates > 1 else 15 / 3 + a_step + 0.5) + 3 * a_step


def test_an_epoch_ends_when_the_time_is_over_and_is_judged() -> None:
    inputs, labels = digits(200)
    settings = Settings(epochs=100_000, batch_size=1, learning_rate="auto", holdout=0.2, seconds=0.5)
    trained = train(cnn(), inputs, CrossEntropy(labels), settings=settings)
    assert trained.stopped == f"in epoch {len(trained.losses)}: its time was over"
    assert len(trained.curve) == len(trained.losses) + 1 and trained.best and len(trained.tried) <= 3


def test_warm_up_rises_and_then_falls() -> None:
    factors = [rate_factor("linear", t, 0.2) for t in (0.1, 0.2, 0.6, 1.0)]
    assert factors == pytest.approx([0.5, 1, 0.5, 0])


def test_defaults_follow_the_number_of_samples() -> None:
    auto = Settings(epochs="auto", batch_size="auto")
    few, some, many = (auto.resolved(n, None) for n in (100, 1600, 100_000))
    assert [(s.batch_size, s.epochs) for s in (few, some, many)] == [(16, 60), (32, 50), (64, 10)]
    text = [auto.resolved(n, None, 128) for n in (100, 400, 10_000)]
    assert [(s.batch_size, s.epochs) for s in text] == [(8, 31), (8, 10), (8, 10)]
    assert auto.resolved(100, None, 5000).batch_size == 1
    assert auto.resolved(100, 3).batch_size == 15 and auto.resolved(100, 40).batch_size == 40


def test_a_number_that_is_none_ends_training_with_the_last_good_weights(tmp_path: Path) -> None:
    """A function that changes the samples fails in the second epoch."""
    inputs, labels, _ = samples(60)
    augment = tmp_path / "changes.py"
    augment.write_text(
        "count = 0\n"
        "def zero(feeds, random):\n"
        "    global count\n"
        "    count += 1\n"
        "    return {'x': feeds['x'] + (float('nan') if count == 8 else 0)}\n"
    )
    settings = Settings(epochs=5, batch_size=8, holdout=0.2, augment=(f"{augment}:zero",))
    trained = train(mlp(), inputs, CrossEntropy(labels), settings=settings)
    assert len(trained.losses) == trained.best == 1
    assert trained.stopped.startswith("the loss is nan at step 8 of 25")
    assert all(np.isfinite(array).all() for array in trained.weights.values())


@pytest.mark.parametrize("killed_in", [1, 3])
def test_a_killed_worker_goes_on_bit_for_bit(tmp_path: Path, monkeypatch, killed_in: int) -> None:
    """With everything that is remembered: rates tried, curve, best weights, moments, samples changed at random."""
    inputs, labels = digits(200)
    settings = Settings(
        epochs=4, learning_rate="auto", holdout=0.2, warmup=0.1, batch_size=40, augment=("crop", "flip"), seed=3
    )
    whole = train(cnn(), inputs, CrossEntropy(labels), settings=settings)
    started = []
    real = process.subprocess.Popen
    monkeypatch.setattr(
        process.subprocess, "Popen", lambda *args, **options: started.append(real(*args, **options)) or started[-1]
    )

    def kill(what: str, _done: int, _total: int) -> None:
        if f"epoch {killed_in} of 4" in what:
            os.killpg(started[-1].pid, signal.SIGKILL)

    with pytest.raises(TrainingError, match="ended with code -9"):
        train(cnn(), inputs, CrossEntropy(labels), settings=settings, checkpoint=tmp_path, progress=kill)
    said = []
    resumed = train(
        cnn(),
        inputs,
        CrossEntropy(labels),
        settings=settings,
        checkpoint=tmp_path,
        progress=lambda what, *_: said.append(what),
    )
    assert not any("trying" in what for what in said)
    assert (resumed.curve, resumed.best, resumed.tried, resumed.losses) == (
        whole.curve,
        whole.best,
        whole.tried,
        whole.losses,
    )
    for name, array in whole.weights.items():
        np.testing.assert_array_equal(resumed.weights[name], array)


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files")
def test_a_full_disk_is_one_sentence(monkeypatch) -> None:
    import resource

    inputs, labels, _ = samples(2000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(
            Exception, match=r"the training's files cannot be written: File too large; make room there, or"
        ):
            train(mlp(), inputs, CrossEntropy(labels), settings=Settings(epochs=1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    ("reason", "script"),
    [
        ("No interpreter found for Python", "echo 'error: No interpreter found for Python >=3.10, <3.13' >&2; exit 2"),
        (
            "Network connectivity is disabled",
            "echo '  x Failed' >&2; echo 'error: Network connectivity is disabled' >&2; exit 1",
        ),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="a shell script takes uv's place")
def test_what_uv_cannot_set_up_is_said_and_the_other_engine_trains(tmp_path, monkeypatch, reason, script) -> None:
    fake = tmp_path / "uv"
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(0o755)
    monkeypatch.setattr(process, "find_uv", lambda: str(fake))
    inputs, labels, _ = samples()
    trained = train(mlp(), inputs, CrossEntropy(labels), settings=Settings(epochs=1))
    assert trained.settings.engine == "onnxruntime"
    assert reason in trained.notes[0] and "\n" not in trained.notes[0]
    only = Settings(epochs=1, engine="onnxruntime-training")
    with pytest.raises(TrainingError, match=f"{reason}.*engine=onnxruntime trains without it"):
        train(mlp(), inputs, CrossEntropy(labels), settings=only)


def test_a_rehearsal_tells_what_it_would_take_and_trains_nothing() -> None:
    inputs, _, _ = samples(200)
    _, report = apply(mlp(), [Distill()], data=inputs, rehearsal=True)
    step = report.steps[0]
    assert step.done == [] and step.curve == [] and report.unmet == []
    assert any(note == "it would train 3 tensors: w1, b1, w2" for note in step.notes)
    told = next(note for note in step.notes if "steps (" in note)
    assert told.startswith("420 steps (60 epochs in batches of 16; 110 samples train, 50 judge)")
    assert " ms for one: about " in told and "B of memory" in told


@pytest.mark.parametrize(
    ("name", "message"),
    [("mixupp", "did you mean 'mixup'"), ("nowhere.py:f", "no such file"), ("module:f", "or file.py:function")],
)
def test_changes_that_are_not_known_are_named(name: str, message: str) -> None:
    inputs, labels, _ = samples()
    with pytest.raises(OptionError, match=message):
        train(mlp(), inputs, CrossEntropy(labels), settings=dataclasses.replace(Settings(), augment=(name,)))


def test_the_lock_names_public_places_alone() -> None:
    text = process.WORKER.with_suffix(".py.lock").read_text()
    places = {part.split("/")[2] for part in text.split('"') if part.startswith("http")}
    assert places == {"pypi.org", "files.pythonhosted.org"}
    assert "onnxruntime-training-cpu" in text and "sha256:" in text
