"""Target files: those that ship, and those of users."""

from __future__ import annotations

import re
from importlib.resources import files

import onnx
import pytest

from onnxcompress.errors import OptionError
from onnxcompress.targets import load_target, quantize_options, target_names

NAMES = target_names()
TYPES = {name.lower() for name in dict(onnx.TensorProto.DataType.items())}


def shipped(name):
    return (files("onnxcompress.targets") / f"{name}.toml").read_text(encoding="utf-8")


def test_the_engines_people_use_are_there():
    assert {"onnxruntime-cpu", "onnxruntime-cpu-avx2", "onnxruntime-gpu", "tensorrt", "openvino", "qnn"} < set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_shipped_targets_name_real_types_and_operators(name):
    target = load_target(name)
    assert target.name == name
    assert {*target.activations.dtypes, *target.weights.dtypes} <= TYPES
    named = {*target.operators.integer, *target.operators.moves, *target.operators.fused, *target.operators.rejected}
    assert [op for op in named if not onnx.defs.has(op)] == []
    assert 1 <= target.opset.min <= target.opset.max <= onnx.defs.onnx_opset_version() + 1
    for activation, weight in target.pairs:
        assert activation in target.activations.dtypes
        assert weight in target.weights.dtypes


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_loads_by_its_path(name, tmp_path):
    path = tmp_path / "own.toml"
    path.write_text(shipped(name), encoding="utf-8")
    assert load_target(path).operators == load_target(name).operators


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("[bias]", "[bias]\ncolour = 1"), "unknown field `colour` - at `$.bias`"),
        (('format = "float"', 'format = "int7"'), "Invalid enum value 'int7' - at `$.bias.format`"),
        (("min = 9", ""), "missing required field `min` - at `$.opset`"),
        (("title =", "tilte ="), "unknown field `tilte`"),
        (("title =", "= title"), "not TOML"),
    ],
)
def test_a_wrong_field_is_named_with_its_file(change, message, tmp_path):
    path = tmp_path / "own.toml"
    path.write_text(shipped("tensorrt").replace(*change, 1), encoding="utf-8")
    with pytest.raises(OptionError, match=f"own.toml: .*{re.escape(message)}"):
        load_target(path)


def test_an_unknown_name_gets_a_hint():
    with pytest.raises(OptionError, match="target 'tensort': unknown; did you mean 'tensorrt'"):
        load_target("tensort")
    with pytest.raises(OptionError, match=r"nowhere.toml: no such target file"):
        load_target("nowhere.toml")


def test_options_for_quantize():
    """As the engines' own guides say."""
    chosen = {name: quantize_options(load_target(name)) for name in NAMES}
    assert chosen["tensorrt"]["symmetric"]
    assert chosen["tensorrt"]["bias"] == "float"
    assert (chosen["tensorrt"]["activations"], chosen["tensorrt"]["weights"]) == ("int8", "int8")
    assert not chosen["onnxruntime-cpu"]["symmetric"]
    assert (chosen["onnxruntime-cpu"]["activations"], chosen["onnxruntime-cpu"]["weights"]) == ("uint8", "int8")
    assert [name for name, options in chosen.items() if options["reduce_range"]] == ["onnxruntime-cpu-avx2"]
    assert [name for name, options in chosen.items() if options["power_of_two"]] == ["npu-power-of-two"]
    assert chosen["npu-power-of-two"]["granularity"] == "tensor"
