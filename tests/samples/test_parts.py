"""Samples are dealt out in three: fitted to, searched by, unseen; spread evenly whatever their order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from command_line import call, make_data, make_model
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxcompress.errors import OptionError
from onnxcompress.graph.load import load
from onnxcompress.kinds import working_copy
from onnxcompress.samples.data import Data, located, parse_columns
from onnxcompress.samples.parts import MOST_FITTED, places, three_parts
from onnxcompress.samples.samples import load_samples
from onnxcompress.samples.split import three_parts as split_in_three

INPUTS = [ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["N", 1]))]


def numbered(count: int) -> dict[str, np.ndarray]:
    return {"x": np.arange(count, dtype=np.float32)[:, None], "labels": np.arange(count)}


@given(count=st.integers(50, 3000), pieces=st.integers(1, 5))
@settings(max_examples=20, deadline=None)
def test_three_parts_share_nothing_and_leave_nothing_out(count: int, pieces: int) -> None:
    whole = numbered(count)
    split = [{name: part[i] for name, part in whole.items()} for i in np.array_split(np.arange(count), pieces)]
    parts = load_samples(split, INPUTS).parts()
    assert parts is not None
    rows = [part.arrays()["x"][:, 0] for part in parts]
    assert sorted(np.concatenate(rows)) == whole["x"][:, 0].tolist()
    assert [list(part.labels) for part in parts] == [row.tolist() for row in rows]  # type: ignore[arg-type]
    sizes = [len(row) for row in rows]
    assert abs(sizes[1] - sizes[2]) <= 4 + 3 * np.sqrt(count) / 4
    assert abs(sizes[0] - min(count / 3, MOST_FITTED)) <= 4 + 3 * np.sqrt(count) / 4


@pytest.mark.parametrize("period", [2, 5, 8, 10, 34, 100])
@pytest.mark.parametrize("sort", [False, True])
def test_each_class_is_in_each_part(period: int, sort: bool) -> None:
    labels = np.arange(60 * period) % period
    labels = np.sort(labels) if sort else labels
    at = np.arange(len(labels))
    for part in three_parts(len(labels)):
        share = np.bincount(labels[part.holds(at)], minlength=period) / 60
        assert np.abs(share - (part.stop - part.start)).max() < 0.34, (part, share)


def test_places_are_spread_evenly() -> None:
    found = places(np.arange(50_000))
    assert 0 <= found.min() < found.max() < 1
    assert np.histogram(found, 20)[0] / 50_000 == pytest.approx(0.05, abs=0.003)


def test_too_few_serve_for_all_three() -> None:
    model = ir.Model(ir.Graph(INPUTS, [], nodes=[], opset_imports={"": 17}), ir_version=8)
    parts = split_in_three(model, numbered(49))
    assert not parts.apart
    assert parts.fit.count == parts.search.count == parts.unseen.count == 49
    parts = split_in_three(model, Data(numbered(3000)), numbered(100))
    assert parts.apart
    assert parts.unseen.count == 100
    assert parts.fit.count + parts.search.count == 3000
    assert abs(parts.fit.count - MOST_FITTED) < 40
    same = numbered(90)
    assert not split_in_three(model, Data(same), Data(same)).apart


def test_what_data_refuses() -> None:
    for wrong in ({"length": 0}, {"sample_rate": 1.5}, {"length": True}, {"columns": "a=b"}):
        with pytest.raises(OptionError, match=f"data: {next(iter(wrong))} = "):
            Data("x", **wrong)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="give its source"):
        Data(Data("x"))
    assert parse_columns("text = a, labels=b") == {"text": "a", "labels": "b"}
    with pytest.raises(OptionError, match="expected name=column pairs"):
        parse_columns("text")


def test_commands_say_how_data_is_read(tmp_path: Path) -> None:
    net, data = make_model(tmp_path / "net.onnx"), make_data(tmp_path / "d.npz")
    assert call("compare", net, net, "--data", data, "--length", "3").exit_code == 0
    refused = call("apply", net, "-p", "shrink", "--dry-run", "--columns", "a=b")
    assert refused.exit_code == 2
    assert "--columns says how --data is read: give --data too" in refused.output


def test_data_says_which_model_it_is_for(tmp_path: Path) -> None:
    model = load(make_model(tmp_path / "net.onnx"))
    assert located("photos/", model) == Data("photos/", model=str(tmp_path / "net.onnx"))
    assert located(Data("photos/", model="other.onnx"), model) == Data("photos/", model="other.onnx")
    assert located("photos/", working_copy(model)).model == str(tmp_path / "net.onnx")
    arrays = numbered(3)
    assert located(arrays, model) is arrays
    assert located(None, model) is None
