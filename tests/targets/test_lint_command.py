"""`onnxcompress lint`: what it prints, and its exit status."""

from __future__ import annotations

import json
from importlib.resources import files

import pytest
from command_line import call, make_model

from onnxcompress.targets import target_names


@pytest.fixture
def model(tmp_path):
    return make_model(tmp_path / "m.onnx")


def test_a_float_model_is_taken_and_left_in_float(model):
    result = call("lint", model, "--target", "onnxruntime-cpu")
    assert result.exit_code == 0
    assert "0 rejected, 2 left in float" in result.stdout
    assert "hidden (MatMul)" in result.stdout


def test_a_rejected_model_ends_with_status_1(model, tmp_path):
    strict = tmp_path / "strict.toml"
    known = call("lint", model, "--target", "qnn", "--json")
    assert json.loads(known.stdout)["clean"]
    text = (files("onnxcompress.targets") / "qnn.toml").read_text(encoding="utf-8")
    strict.write_text(text.replace('rejected = ["Loop"', 'rejected = ["Relu", "Loop"'), encoding="utf-8")
    result = call("lint", model, "--target", strict, "--json")
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert not document["clean"]
    assert document["findings"][0] == {
        "rule": "operator",
        "effect": "rejected",
        "node": "positive (Relu)",
        "reason": "it has no Relu",
    }


def test_an_unknown_target_names_those_there_are(model):
    result = call("lint", model, "--target", "tensort")
    assert result.exit_code == 2
    assert "did you mean 'tensorrt'?" in result.stderr
    assert all(name in result.stderr for name in target_names())
