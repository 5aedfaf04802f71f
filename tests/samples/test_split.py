"""One sample in five is kept from the passes, and judges."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from command_line import call, make_data, make_model
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxcompress import apply, sensitivity
from onnxcompress.passes import ConvertFloat, PruneChannels, Quantize, Shrink
from onnxcompress.samples.samples import load_samples

INPUTS = [ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["N", 4]))]


@given(count=st.integers(50, 400), pieces=st.integers(1, 9))
@settings(max_examples=30, deadline=None)
def test_one_in_five_is_kept_wherever_pieces_end(count: int, pieces: int) -> None:
    x = np.arange(count * 4, dtype=np.float32).reshape(count, 4)
    parts = [{"x": part, "labels": part[:, 0].astype(int)} for part in np.array_split(x, pieces)]
    whole = load_samples({"x": x, "labels": x[:, 0].astype(int)}, INPUTS)
    fit, judge = whole.split()  # type: ignore[misc]
    rows = [part.arrays()["x"] for part in (fit, judge)]
    kept = rows[1][:, 0].astype(int) // 4
    assert sorted(np.concatenate(rows)[:, 0]) == x[:, 0].tolist()
    assert np.unique(kept // 5, return_counts=True)[1].max() == 1, "one of each five in a row"
    assert len(kept) >= count // 5
    assert (fit.count, judge.count) == (len(rows[0]), len(rows[1]))
    np.testing.assert_array_equal(judge.labels, rows[1][:, 0])
    again = load_samples(parts, INPUTS).split()
    for part, expected in zip(again, rows, strict=True):  # type: ignore[arg-type]
        np.testing.assert_array_equal(part.arrays()["x"], expected)
    np.testing.assert_array_equal(fit.halves()[1].arrays()["x"], rows[0][len(rows[0]) // 2 :])
    assert fit.head(3).description == fit.description == f"four in five of {whole.description}"


def test_labels_that_go_round_are_all_kept() -> None:
    """Taking every fifth would see one class of five only."""
    labels = np.arange(1000) % 5
    _, judge = load_samples({"x": np.zeros((1000, 4), np.float32), "labels": labels}, INPUTS).split()  # type: ignore[misc]
    assert np.bincount(judge.labels, minlength=5).min() > 20  # type: ignore[arg-type]


def test_too_few_samples_are_not_split() -> None:
    assert load_samples({"x": np.zeros((49, 4), np.float32)}, INPUTS).split() is None


def test_what_is_kept_fills_a_fixed_batch() -> None:
    fixed = [ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([16, 4]))]
    assert load_samples({"x": np.zeros((79, 4), np.float32)}, fixed).split() is None
    fit, judge = load_samples({"x": np.zeros((80, 4), np.float32)}, fixed).split()  # type: ignore[misc]
    assert [len(batch["x"]) for part in (fit, judge) for batch in part.batches()] == [16] * 5


def test_a_function_is_asked_only_as_far_as_is_needed() -> None:
    given = []

    def endless() -> Iterator[dict[str, np.ndarray]]:
        for number in range(1000):
            given.append(number)
            yield {"x": np.full((10, 4), number, np.float32)}

    samples = load_samples(endless, INPUTS)
    given.clear()
    assert samples.split() is not None
    assert given == [0, 1, 2, 3, 4]


def drawn(count: int, seed: int = 0) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    return {"x": random.standard_normal((count, 4), np.float32), "labels": random.integers(0, 3, count)}


@pytest.fixture
def net(tmp_path: Path) -> Path:
    return make_model(tmp_path / "m.onnx")


def test_evidence_says_who_was_fitted_to_what(net: Path) -> None:
    cases: list[tuple[list[Any], int, dict[str, Any], tuple[int, list[str], bool]]] = [
        ([PruneChannels(), Shrink()], 100, {}, (100, [], True)),
        ([PruneChannels(), Quantize()], 100, {}, (20, ["quantize"], True)),
        ([Quantize()], 49, {}, (49, ["quantize"], False)),
        ([Quantize()], 100, {"evaluate_on": drawn(30, 1)}, (30, ["quantize"], True)),
        (
            [PruneChannels(importance="activation"), ConvertFloat()],
            60,
            {},
            (12, ["prune-channels", "convert-float"], True),
        ),
    ]
    for passes, count, options, expected in cases:
        _, report = apply(net, passes, data=drawn(count), **options)
        assert (report.samples, report.fitted, report.unseen) == expected
    data = drawn(100)
    _, report = apply(net, [Quantize()], data=data, evaluate_on=data)
    assert (report.samples, report.unseen) == (100, False)


def test_passes_see_only_what_does_not_judge(net: Path) -> None:
    """A value beyond all others among those that judge is not in the range that was calibrated."""
    data = drawn(50)
    samples = load_samples(data, INPUTS)
    judged = samples.split()[1].arrays()["x"]  # type: ignore[index]
    data["x"][(data["x"] == judged[3]).all(1)] *= 1000
    _, report = apply(net, [Quantize(correct=False, rounding="nearest")], data=data)
    plan: Any = report.plans[0].plan
    assert max(a.scale for a in plan.activations) < 1


def test_the_terminal_the_page_and_the_json_say_it(tmp_path: Path, net: Path) -> None:
    data = make_data(tmp_path / "d.npz", **drawn(60))
    arguments = ["apply", net, "-p", "quantize", "--data", data]
    shown = call(*arguments, "-o", tmp_path / "a.onnx", "--report", tmp_path / "r.html")
    text = (
        "top1 measured on 12 samples (one in five of d.npz) that no pass saw; fitted to others (four in five of d.npz)"
    )
    assert text.replace(" ", "") in shown.stdout.replace("\n", "").replace(" ", "")
    assert text in (tmp_path / "r.html").read_text()
    other = make_data(tmp_path / "e.npz", **drawn(9))
    printed = call(*arguments, "-o", tmp_path / "b.onnx", "--evaluate-on", other, "--json")
    assert (printed.exit_code, printed.stderr) == (0, "")
    found = json.loads(printed.stdout)
    assert {key: found[key] for key in ("data", "samples", "fitted", "fitted_to", "unseen")} == {
        "data": "e.npz", "samples": 9, "fitted": ["quantize"], "fitted_to": "d.npz", "unseen": True
    }  # fmt: skip
    same = call(*arguments, "-o", tmp_path / "c.onnx", "--evaluate-on", data, "--json")
    assert json.loads(same.stdout)["unseen"] is False
    assert (
        "no pass was fitted to samples"
        in call("apply", net, "-p", "shrink", "--data", data, "-o", tmp_path / "d.onnx").stdout
    )


def test_sensitivity_keeps_one_in_five_for_passes_that_are_fitted(tmp_path: Path, net: Path) -> None:
    found = sensitivity(net, drawn(100), Quantize())
    assert (found.count, found.fitted, found.unseen) == (20, ("quantize",), True)
    found = sensitivity(net, drawn(100), PruneChannels())
    assert (found.count, found.fitted, found.unseen) == (100, (), True)
    found = sensitivity(net, drawn(100), Quantize(), evaluate_on=drawn(30, 1))
    assert (found.count, found.unseen) == (30, True)
    data = make_data(tmp_path / "d.npz", **drawn(60))
    result = call("sensitivity", net, "-p", "quantize", "--data", data)
    assert "12 samples (one in five of d.npz) that no pass saw" in " ".join(result.stdout.split())
