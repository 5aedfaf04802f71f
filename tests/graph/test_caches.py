"""Caches are known by their names or by who reads them, and extents that follow from others are computed."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest
from corpus.decoders import HEAD, grouped

from onnxcompress.graph import shapes
from onnxcompress.graph.caches import derived_sizes, evaluate, find_caches
from onnxcompress.samples.random_values import example_feed


def test_caches_come_back_under_the_name_that_says_the_same_of_the_present():
    found = find_caches(grouped().graph)
    assert [(c.past.name, c.present.name, c.grows, c.steady) for c in found if c.present is not None] == [
        (f"past_key_values.{i}.{kind}", f"present.{i}.{kind}", 2, False) for i in (0, 1) for kind in ("key", "value")
    ]


def test_caches_without_telling_names_are_known_by_the_attention_that_reads_them():
    model = grouped(layers=1)
    for number, value in enumerate((*model.graph.inputs[2:], *model.graph.outputs[1:])):
        value.name = f"v{number}"
    assert [(c.past.name, c.present and c.present.name) for c in find_caches(model.graph)] == [
        ("v0", "v2"),
        ("v1", "v3"),
    ]


def test_a_mask_is_as_long_as_the_past_and_the_tokens():
    model = grouped()
    assert derived_sizes(model.graph) == {"total": ("past", "sequence")}
    feed = example_feed(model)
    assert feed["attention_mask"].shape[1] == feed["input_ids"].shape[1] + feed["past_key_values.0.key"].shape[2]
    fitting = shapes.fitting_inputs(model)
    assert fitting["attention_mask"][1] == fitting["input_ids"][1] + fitting["past_key_values.0.key"][2]
    assert fitting["past_key_values.0.key"][3] == HEAD


def test_what_an_encoder_has_said_does_not_grow():
    text = """<ir_version: 10, opset_import: ["" : 21]>
    agraph (int64[N, T] input_ids, float[N, 2, S, 4] past_encoder, float[N, 2, P, 4] past_decoder)
        => (float[N, 2, Q, 4] present_decoder, float[N, 2, S, 4] present_encoder) {
        present_decoder = Concat<axis = 2>(past_decoder, past_decoder)
        present_encoder = Identity(past_encoder)
    }"""
    found = find_caches(ir.from_proto(onnx.parser.parse_model(text)).graph)
    assert [(cache.past.name, cache.steady) for cache in found] == [
        ("past_encoder", True),
        ("past_decoder", False),
    ]


@pytest.mark.parametrize(
    ("derived", "size"),
    [("past + seq", 7), ("2*seq - 1", 7), ("past//2", 1), (("past", "seq", "past"), 10), ("a + b", 4)],
)
def test_expressions_of_extents_are_computed(derived, size):
    assert evaluate(derived, {"past": 3, "seq": 4}, 2) == size
