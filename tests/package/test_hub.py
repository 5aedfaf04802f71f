"""The hub's configuration beside models follows their graphs."""

from __future__ import annotations

import json

import numpy as np
import onnx_ir as ir
import pytest
from corpus.decoders import GROUPS, HEAD, HEADS, WIDTH, WORDS, grouped

from onnxcompress.graph import edit
from onnxcompress.package import hub
from onnxcompress.package.folder import save_folder


def with_dims(heads: dict[int, int]) -> ir.Model:
    """Return the decoder with other heads in the caches of some layers."""
    model = grouped()
    for value in (*model.graph.inputs, *model.graph.outputs):
        for layer, count in heads.items():
            if f".{layer}." in (value.name or ""):
                value.shape = ir.Shape([value.shape[0], count, value.shape[2], HEAD])
    return model


def without_attributes(model: ir.Model) -> ir.Model:
    """Return it as if attention were spelt out: no operator says how many heads there are."""
    for node in model.graph:
        if node.op_type == "GroupQueryAttention":
            node.op_type, node.domain = "Spelt", "out"
    return model


CONFIG = {"model_type": "llama", "num_attention_heads": HEADS, "num_key_value_heads": GROUPS, "hidden_size": WIDTH}


@pytest.mark.parametrize("names", [{}, {"head_dim": HEAD}])
def test_heads_follow_the_caches_and_as_many_queries_for_each(names):
    before, after = (without_attributes(with_dims({0: n, 1: n})) for n in (GROUPS, 3 * GROUPS))
    heads = {"num_key_value_heads": 3 * GROUPS, "num_attention_heads": 3 * HEADS, "head_dim": HEAD}
    assert hub.follow(CONFIG | names, before, after) == (CONFIG | heads, [])


def test_what_has_no_entry_is_said():
    before = with_dims({})
    after = with_dims({1: 3 * GROUPS})
    name = next(n for n, v in after.graph.initializers.items() if v.const_value.size > 8)
    before.graph.initializers[name].const_value = ir.tensor(np.ones((77, 2), np.float32), name=name)
    found, said = hub.follow(CONFIG | {"d_ff": 77}, before, after)
    assert found["d_ff"] == 77
    assert said == [
        f"config.json has one number of heads for all layers, and the caches have {GROUPS}, {3 * GROUPS}",
        "config.json still says that d_ff is 77, which no weight has any more",
    ]


def test_the_folder_gets_the_configuration_that_follows(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    ir.save(grouped(), source / "model.onnx")
    text = json.dumps(CONFIG | {"vocab_size": WORDS})
    (source / "config.json").write_text(text)
    model = ir.load(source / "model.onnx")
    save_folder({source / "model.onnx": model}, source, tmp_path / "same")
    assert (tmp_path / "same/config.json").read_text() == text
    head = next(n.inputs[1] for n in reversed(list(model.graph)) if n.outputs[0].name == "logits")
    edit.set_constant(head, np.array(head.const_value.numpy()[:, : WORDS - 3]))
    logits = next(v for v in model.graph.outputs if v.name == "logits")
    logits.shape = ir.Shape([*list(logits.shape)[:-1], WORDS - 3])
    save_folder({source / "model.onnx": model}, source, tmp_path / "out")
    assert json.loads((tmp_path / "out/config.json").read_text()) == CONFIG | {"vocab_size": WORDS - 3}
