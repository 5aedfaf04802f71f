"""From a budget to a model, on a network that is trained in closed form."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from command_line import call

import onnxcompress
from onnxcompress.errors import OptionError
from onnxcompress.recipe import parse_pass
from onnxcompress.search import space, trial
from onnxcompress.search.job import Job, Part, Source

NET = """
<ir_version: 10, opset_import: ["" : 21]>
net (float[N, 16] x) => (float[N, 4] y) {
    first = Gemm (x, w1, b1)
    positive = Relu (first)
    second = Gemm (positive, w2, b2)
    bounded = Relu (second)
    y = MatMul (bounded, w3)
}
"""
WIDTH = 48


def constants(random):
    shapes = {"w1": (16, WIDTH), "b1": (WIDTH,), "w2": (WIDTH, WIDTH), "b2": (WIDTH,), "w3": (WIDTH, 4)}
    return {name: random.standard_normal(shape).astype(np.float32) / 4 for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A network, and 600 samples with the answers that it gives them."""
    folder, random = tmp_path_factory.mktemp("given"), np.random.default_rng(0)
    proto, arrays = onnx.parser.parse_model(NET), constants(random)
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in arrays.items())
    onnx.save(proto, folder / "m.onnx")
    x = random.standard_normal((600, 16)).astype(np.float32)
    hidden = np.maximum(np.maximum(x @ arrays["w1"] + arrays["b1"], 0) @ arrays["w2"] + arrays["b2"], 0)
    np.savez(folder / "d.npz", x=x, labels=(hidden @ arrays["w3"]).argmax(1))
    return folder


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    """No test asserts a latency, so a few rounds will do; one round in which nothing gains ends a search."""
    monkeypatch.setattr("onnxcompress.search.trial.TIMED_SECONDS", 0.0)
    monkeypatch.setattr("onnxcompress.search.rounds.FINAL_SECONDS", 0.0)
    monkeypatch.setattr("onnxcompress.search.rounds.PATIENCE", 1)
    names = ("int8", "8-bit weights", "8-bit weights, unfitted")
    rungs = tuple({"precision": name} for name in names)
    monkeypatch.setattr(
        "onnxcompress.search.space.LADDERS", {"size": rungs, "latency": rungs, "macs": ({"prune": 0.4},)}
    )
    few = tuple(each for each in space.PRECISIONS if each.name in names)
    monkeypatch.setattr("onnxcompress.search.space.PRECISIONS", few)


SIZE = {"objective": "size", "speedup": 0.001, "budget": "100s"}
"""For the size, however long a run takes: what a clock says decides nothing."""


def test_the_smallest_that_keeps_the_answers_is_written_and_its_plans_give_it_again(tmp_path, given):
    out, plans, report = tmp_path / "o.onnx", tmp_path / "plans", tmp_path / "r.json"
    options = ("--for", "size", "--speedup", "0.001", "--max-drop", "10%", "--keep", "2", "--plans", plans)
    said = call("compress", given / "m.onnx", "-o", out, "--data", given / "d.npz", *options, "--report", report)
    assert said.exit_code == 0, said.stderr
    lines = said.stderr.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["What it is", "Will try", "Leaves out"]
    assert "classifier" in lines[0]
    assert "201 samples are fitted to" in lines[1]

    found = json.loads(report.read_text())
    winner = next(trial for trial in found["trials"] if trial["state"] == "winner")
    assert found["verdict"]["state"] == "held"
    assert (found["objective"], found["unseen"]) == ("size", True)
    assert out.stat().st_size == found["stages"][-1]["bytes"] <= winner["bytes"] + 16
    assert out.stat().st_size < (given / "m.onnx").stat().st_size / 2
    other = tmp_path / "o-2.onnx"
    assert any(abs(other.stat().st_size - trial["bytes"]) <= 16 for trial in found["trials"] if trial != winner)

    again = tmp_path / "again.onnx"
    assert call("apply", given / "m.onnx", "--replay", plans, "-o", again).exit_code == 0
    assert again.read_bytes() == out.read_bytes()
    recipe = onnxcompress.read_recipe(plans / "recipe.toml")
    assert [each.name for each in recipe] == [step["name"] for step in found["steps"]]


def test_a_model_that_is_quantized_stays_as_it_is(tmp_path, given):
    small, out = tmp_path / "q.onnx", tmp_path / "o.onnx"
    onnxcompress.apply(
        given / "m.onnx",
        [parse_pass("quantize-weights minimum_size=1")],
        output=small,
        overwrite=True,
    )
    said = call("compress", small, "-o", out, "--data", given / "d.npz")
    assert said.exit_code == 1
    assert said.stderr.splitlines()[-1].startswith("Nothing helps: it is quantized already; give the float model")
    assert out.read_bytes() == small.read_bytes()


def test_where_nothing_helps_the_original_is_written_and_what_came_nearest_is_named(tmp_path, given):
    out = tmp_path / "o.onnx"
    _, report = onnxcompress.compress(
        given / "m.onnx", data=given / "d.npz", output=out, max_drop=0, objective="macs", budget="60s"
    )
    assert report.verdict.state == "nothing helps"
    assert "multiply-accumulates" in report.verdict.sentence
    assert out.read_bytes() == (given / "m.onnx").read_bytes()


def test_a_limit_that_cannot_be_kept_is_told_of(given):
    _, report = onnxcompress.compress(given / "m.onnx", data=given / "d.npz", target_size="1kB", max_drop="5%", **SIZE)
    assert report.verdict.state == "not held"
    assert "at most 1.00 kB asked" in report.verdict.sentence


def test_without_samples_only_what_needs_none_is_done_and_nothing_is_shown(given):
    said: list[str] = []
    _, report = onnxcompress.compress(given / "m.onnx", say=said.append, **SIZE)
    assert report.verdict.state == "not shown"
    assert "random" in said[1]
    assert {step.name for step in report.steps} <= {"quantize-weights", "shorten-names", "convert-float"}
    assert report.stages[-1].bytes < report.stages[0].bytes * 0.6


def test_a_study_is_gone_on_with_and_another_is_refused(tmp_path, given):
    study, data = tmp_path / "s.log", given / "d.npz"
    first = onnxcompress.compress(given / "m.onnx", data=data, study=study, max_drop="5%", **SIZE)[1]
    with pytest.raises(OptionError, match="exists already; give --resume"):
        onnxcompress.compress(given / "m.onnx", data=data, study=study, **SIZE)
    second = onnxcompress.compress(given / "m.onnx", data=data, study=study, resume=True, max_drop="5%", **SIZE)[1]
    assert [t.recipe for t in second.trials][: len(first.trials)] == [t.recipe for t in first.trials]
    with pytest.raises(OptionError, match="another model, other samples or another objective"):
        onnxcompress.compress(given / "m.onnx", data=data, study=study, resume=True, objective="macs")
    with pytest.raises(OptionError, match="nothing to go on with; name the file"):
        onnxcompress.compress(given / "m.onnx", data=data, resume=True)
    with pytest.raises(OptionError, match="it is not there"):
        onnxcompress.compress(given / "m.onnx", data=data, study=tmp_path / "none", resume=True)
    study.write_text("no study")
    with pytest.raises(OptionError, match="holds no study"):
        onnxcompress.compress(given / "m.onnx", data=data, study=study, resume=True, **SIZE)


def test_ctrl_c_gives_the_best_so_far(tmp_path, given):
    out = tmp_path / "o.onnx"

    def interrupt(what, done, total):
        if what.startswith("3 tried"):
            raise KeyboardInterrupt

    data = given / "d.npz"
    _, report = onnxcompress.compress(
        given / "m.onnx", data=data, output=out, progress=interrupt, max_drop="5%", **SIZE
    )
    assert len(report.trials) == 3
    assert any("interrupted" in note for note in report.notes)
    assert out.stat().st_size == report.stages[-1].bytes


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--max-drop", "-1%"), "max_drop = '-1%': expected a share of 0 or more"),
        (("--target-size", "0"), "target_size = '0': expected more than 0 bytes"),
        (("--for", "speed"), "for = 'speed': expected one of latency, size, zipped, macs, memory"),
        (("--budget", "0"), "budget = 0: expected a time such as 5m"),
        (("--target", "toaster"), "toaster"),
        (("--metric", "sqnr"), "metric 'sqnr' has no drop to limit"),
    ],
)
def test_what_cannot_be_asked_is_one_line(tmp_path, given, options, said):
    done = call("compress", given / "m.onnx", "-o", tmp_path / "o.onnx", "--data", given / "d.npz", *options)
    assert done.exit_code == 2
    assert said in done.stderr.splitlines()[-1]
    assert not (tmp_path / "o.onnx").exists()


def test_the_layers_that_hurt_most_are_spared(given):
    tester = trial.Tester(onnxcompress.load(given / "m.onnx"), Source(str(given / "d.npz")))
    text = "quantize-weights dtype=uint4 minimum_size=1"
    jobs = [Job(number, (Part(text, spare),), stop_above=1.0, timed=False) for number, spare in enumerate((0.0, 0.34))]
    whole, spared = map(tester.run, jobs)
    assert (whole.failed, spared.failed) == ("", "")
    assert spared.bytes > whole.bytes
    assert spared.sqnr > whole.sqnr


def test_samples_of_one_class_show_nothing(tmp_path, given):
    x = np.random.default_rng(0).standard_normal((80, 16)).astype(np.float32)
    np.savez(tmp_path / "one.npz", x=x, labels=np.full(80, 3))
    done = call("compress", given / "m.onnx", "-o", tmp_path / "o.onnx", "--data", tmp_path / "one.npz")
    assert done.exit_code == 2
    assert "one.npz: all 80 samples have the label 3, so that they cannot show what is lost" in done.stderr


def test_a_recipe_that_breaks_does_not_end_the_search(given, monkeypatch):
    def broken(self, model, context):
        raise ZeroDivisionError("by accident")

    monkeypatch.setattr("onnxcompress.passes.quantize.Quantize.plan", broken)
    _, report = onnxcompress.compress(given / "m.onnx", data=given / "d.npz", max_drop="10%", **SIZE)
    notes = {trial.note for trial in report.trials if trial.state == "failed"}
    assert notes == {"internal error: ZeroDivisionError: by accident"}
    assert report.stages[-1].bytes < report.stages[0].bytes * 0.6


class Elsewhere:
    """Workers that are told to be in another process."""

    near, saturating = False, False

    def __init__(self):
        self.notes, self.items = [], 0

    def map(self, make, given, items):
        work = make(*given)
        for item in items:
            self.items += 1
            yield work(item)


@pytest.mark.slow
def test_workers_elsewhere_find_the_same(given):
    found = [
        onnxcompress.compress(given / "m.onnx", data=given / "d.npz", workers=workers, max_drop="5%", **SIZE)
        for workers in (None, Elsewhere())
    ]
    near, far = ([(trial.recipe, trial.bytes, trial.drop) for trial in report.trials] for _, report in found)
    assert near == far


@pytest.mark.slow
def test_digits_become_faster(tmp_path):
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = (digits.images / 16).astype(np.float32)[:, None]
    np.savez(tmp_path / "d.npz", image=images, labels=digits.target)
    out = tmp_path / "o.onnx"
    model = Path(onnxcompress.__file__).parents[1] / "models" / "digits.onnx"
    said = call("compress", model, "-o", out, "--data", tmp_path / "d.npz", "--max-drop", "3%", "--budget", "60s")
    assert said.exit_code == 0, said.stderr
    assert out.stat().st_size < model.stat().st_size / 2
