"""Which nodes an option means: the same names and the same error in every pass."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from corpus.text import model

from onnxcompress import apply, registry
from onnxcompress.errors import PassError
from onnxcompress.selection import SelectivePass, node_subjects

PAIR = "g (float[N,16] x) => (float[N,8] y) { [first] a = MatMul(x, w1) b = Relu(a) y = MatMul(b, w2) }"
WEIGHTS = {"w1": (16, 64), "w2": (64, 8)}
DATA = {"x": np.random.default_rng(0).standard_normal((32, 16)).astype(np.float32)}
FIELDS = {name: {f.name for f in dataclasses.fields(registry.find(name))} for name in registry.names()}
EXCLUDING = [name for name, fields in FIELDS.items() if "exclude" in fields]
NEEDED: dict[str, dict[str, Any]] = {"apply-mask": {"masks": "none.npz"}}


@pytest.mark.parametrize("name", EXCLUDING)
def test_an_exclude_that_matches_nothing_is_an_error(name: str) -> None:
    step = registry.find(name)(exclude=("nope*",), **NEEDED.get(name, {}))
    with pytest.raises(PassError, match=rf"{name}: exclude: 'nope\*' matches nothing in the model; there are"):
        apply(model(PAIR, WEIGHTS), [step], data=DATA)


@pytest.mark.parametrize("name", ["quantize", "quantize-dynamic", "quantize-weights", "convert-float"])
@pytest.mark.parametrize("pattern", ["first", "a", "f*t"])
def test_a_node_goes_by_its_name_and_by_its_output(name: str, pattern: str) -> None:
    options = {"minimum_size": 1} if name == "quantize-weights" else {}
    result, report = apply(model(PAIR, WEIGHTS), [registry.find(name)(exclude=(pattern,), **options)], data=DATA)
    assert any(f"excluded by '{pattern}'" in refusal.reason for refusal in report.steps[0].refused)
    kept = [v.const_value for v in result.graph.initializers.values() if tuple(v.shape or ()) == (16, 64)]
    assert [tensor.dtype.name for tensor in kept if tensor is not None] == ["FLOAT"]


def test_what_a_pass_cannot_touch_is_said() -> None:
    subject = model(PAIR, WEIGHTS)
    step = SelectivePass(include=("first", "b"), exclude=("b",))
    products = {node: known for node, known in node_subjects(subject.graph).items() if node.op_type == "MatMul"}
    found = step.select(subject, products)
    assert [node.name or node.outputs[0].name for node in found.why_not] == ["y"]
    reason = "include names it, and there is nothing that selective-pass could do to it"
    assert [(refusal.subject, refusal.reason) for refusal in found.idle] == [("b", reason)]
