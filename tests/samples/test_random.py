"""Made-up samples: of shapes that the model runs at, with tokens that it knows and masks that let all through."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.helper as make
import onnx_ir as ir
import pytest

from onnxcompress.graph.tables import Table, find_table
from onnxcompress.runtime.session import open_session
from onnxcompress.samples.roles import role
from onnxcompress.samples.samples import load_samples

FLOAT, INT = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64


def constant(name: str, shape: tuple[int, ...]) -> onnx.TensorProto:
    return onnx.numpy_helper.from_array(np.ones(shape, np.float32), name)


def built(nodes, inputs, outputs, constants) -> ir.Model:
    graph = make.make_graph(nodes, "g", inputs, outputs, constants)
    return ir.from_proto(make.make_model(graph, opset_imports=[make.make_opsetid("", 17)], ir_version=8))


def decoder() -> ir.Model:
    """What a decoder does with a cache: 29 positions, 11 words, a mask over cache and tokens."""
    nodes = [
        make.make_node("Gather", ["words", "input_ids"], ["word"]),
        make.make_node("Gather", ["places", "position_ids"], ["place"]),
        make.make_node("Add", ["word", "place"], ["sum"]),
        make.make_node("Concat", ["past_key_values.0.key", "sum"], ["all"], axis=1),
        make.make_node("Cast", ["attention_mask"], ["mask"], to=FLOAT),
        make.make_node("Unsqueeze", ["mask", "last"], ["column"]),
        make.make_node("Mul", ["all", "column"], ["y"]),
    ]
    inputs = [
        make.make_tensor_value_info("input_ids", INT, ["N", "T"]),
        make.make_tensor_value_info("attention_mask", INT, ["N", "past + T"]),
        make.make_tensor_value_info("position_ids", INT, ["N", "T"]),
        make.make_tensor_value_info("past_key_values.0.key", FLOAT, ["N", "past", 4]),
    ]
    last = onnx.numpy_helper.from_array(np.array([2]), "last")
    output = make.make_tensor_value_info("y", FLOAT, ["N", "all", 4])
    return built(nodes, inputs, [output], [constant("words", (11, 4)), constant("places", (29, 4)), last])


def test_a_decoder_gets_tokens_that_it_knows_behind_those_in_its_cache() -> None:
    model = decoder()
    feeds = load_samples("random", model).arrays()
    assert {name: array.shape for name, array in feeds.items()} == {
        "input_ids": (16, 16),
        "attention_mask": (16, 24),
        "position_ids": (16, 16),
        "past_key_values.0.key": (16, 8, 4),
    }
    assert np.unique(feeds["input_ids"]).tolist() == list(range(11))
    assert (feeds["attention_mask"] == 1).all()
    assert feeds["position_ids"][0].tolist() == list(range(8, 24))
    assert open_session(model).run(feeds)["y"].shape == (16, 24, 4)
    again = load_samples("random", model).arrays()
    assert all((again[name] == array).all() for name, array in feeds.items())
    other = load_samples("random", model, seed=1).arrays()
    assert (other["input_ids"] != feeds["input_ids"]).any()


def test_channels_and_positions_that_weights_ask_for() -> None:
    """As in a vision transformer whose exporter named all its axes."""
    nodes = [
        make.make_node("Conv", ["pixel_values", "w"], ["patches"], strides=[8, 8]),
        make.make_node("Reshape", ["patches", "shape"], ["rows"]),
        make.make_node("Add", ["rows", "places"], ["y"]),
    ]
    inputs = [make.make_tensor_value_info("pixel_values", FLOAT, ["N", "channels", "height", "width"])]
    output = make.make_tensor_value_info("y", FLOAT, ["N", 6, 16])
    constants = [constant("w", (6, 5, 8, 8)), constant("places", (1, 6, 16))]
    shape = onnx.numpy_helper.from_array(np.array([0, 6, -1]), "shape")
    model = built(nodes, inputs, [output], [*constants, shape])
    assert load_samples("random", model).arrays()["pixel_values"].shape == (16, 5, 32, 32)


def test_the_smallest_table_counts_behind_what_keeps_the_row() -> None:
    nodes = [
        make.make_node("Cast", ["ids"], ["cast"], to=onnx.TensorProto.INT32),
        make.make_node("Gather", ["small", "cast"], ["a"]),
        make.make_node("Gather", ["large", "ids"], ["b"]),
        make.make_node("Add", ["a", "b"], ["y"]),
    ]
    inputs = [make.make_tensor_value_info("ids", INT, ["N"])]
    output = make.make_tensor_value_info("y", FLOAT, ["N", 2])
    model = built(nodes, inputs, [output], [constant("small", (3, 2)), constant("large", (7, 2))])
    assert find_table(model.graph.inputs[0]) == Table("small", 3)
    assert set(load_samples("random", model).arrays()["ids"].tolist()) == {0, 1, 2}


@pytest.mark.parametrize(
    ("kind", "names"),
    {
        "past": [
            "past_key_values.0.key",
            "past_key_values.3.decoder.value",
            "past_0",
            "cache_k",
            "pkv.1",
            "key_cache_2",
        ],
        "cache switch": ["use_cache_branch"],
        "mask": ["attention_mask", "mask", "encoder_attention_mask", "pixel_mask", "padding_mask"],
        "positions": ["position_ids", "positions", "cache_position"],
        "types": ["token_type_ids", "segment_ids"],
        "ids": ["input_ids", "decoder_input_ids", "ids", "tokens"],
        "rate": ["sr", "sampling_rate"],
        "state": ["state", "h0", "c0", "h", "hidden_state", "lstm.h_in"],
        None: ["pixel_values", "x", "image", "input", "audio", "features", "timestep", "encoder_hidden_states"],
    }.items(),
)
def test_names_say_what_inputs_are_for(kind: str | None, names: list[str]) -> None:
    assert {name: role(name) for name in names} == dict.fromkeys(names, kind)
