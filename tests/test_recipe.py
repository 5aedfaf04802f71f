"""Recipes: TOML in and out, and one clear error for everything that can be wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from corpus.topologies import conv_chain

from onnxcompress import apply, read_recipe
from onnxcompress.errors import OptionError, PassError
from onnxcompress.passes import MagnitudePrune, PruneChannels, Shrink
from onnxcompress.recipe import parse_pass, parse_recipe, write_recipe


def test_round_trip() -> None:
    passes = [PruneChannels(sparsity=0.25, importance="l1"), MagnitudePrune(sparsity=0.1), Shrink()]
    assert parse_recipe(write_recipe(passes)) == passes


def test_defaults_and_order() -> None:
    text = '[[pass]]\nname = "shrink"\n[[pass]]\nname = "prune-channels"\n'
    assert parse_recipe(text) == [Shrink(), PruneChannels()]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[pass]]\nname = 'shrik'", "recipe: pass 1: unknown pass 'shrik'; did you mean 'shrink'?"),
        ("[[pass]]\nname = 'prune-channels'\nsparsty = 0.5", "unknown option 'sparsty'; did you mean 'sparsity'?"),
        (
            "[[pass]]\nname = 'prune-channels'\nsparsity = 'half'",
            "sparsity = 'half': expected a number",
        ),
        ("[[pass]]\nname = 'prune-channels'\nsparsity = 1.5", "sparsity = 1.5: expected `float` < 1.0"),
        (
            "[[pass]]\nname = 'prune-channels'\nimportance = 'l3'",
            "importance = 'l3': expected a number, or one of auto, l1, l2, random",
        ),
        ("[[pass]]\nname = 'shrink'\n[[pass]]\nname = 3", "recipe: pass 2: name = 3: expected a pass's name"),
        ("[[pas]]\nname = 'shrink'", "recipe: unknown key 'pas'; did you mean 'pass'?"),
        ("pass = 3", "recipe: expected one [[pass]] table or more"),
        ("", "recipe: expected one [[pass]] table or more"),
        ("[[pass]\n", "recipe: not TOML: "),
        ("[[pass]]\nsurgeon = 'a.py:f'\nmore = 1", "surgeon: takes no other key, got more"),
    ],
)
def test_errors_name_the_field_and_what_is_allowed(text: str, message: str) -> None:
    with pytest.raises(OptionError) as error:
        parse_recipe(text)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text(write_recipe([Shrink()]))
    assert read_recipe(path) == [Shrink()]
    with pytest.raises(OptionError, match=r"none\.toml: no such recipe"):
        read_recipe(tmp_path / "none.toml")
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(OptionError, match=r"r\.toml: cannot be read"):
        read_recipe(path)


def test_command_line_form() -> None:
    assert parse_pass("prune-channels sparsity=0.25 importance=l1 round_to=8") == PruneChannels(
        sparsity=0.25, importance="l1", round_to=8
    )
    assert parse_pass("magnitude-prune sparsity=null threshold=0.1") == MagnitudePrune(threshold=0.1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prune-channels sparsity", "expected key=value, got 'sparsity'"),
        ("prune-channels sparsity=much", "sparsity = 'much': expected a number, or one of auto"),
        ("", "expected NAME key=value"),
        ("shrink 'x", "No closing quotation"),
    ],
)
def test_command_line_form_errors(text: str, message: str) -> None:
    with pytest.raises(OptionError) as error:
        parse_pass(text)
    assert message in str(error.value)


USER_FILE = """
def softmax(graph):
    last = graph.nodes[-1]
    import onnx_graphsurgeon as gs
    out = gs.Variable("probabilities", dtype=last.outputs[0].dtype, shape=last.outputs[0].shape)
    old = graph.outputs[0]
    inner = gs.Variable("inner", dtype=old.dtype, shape=old.shape)
    last.outputs = [inner]
    graph.nodes.append(gs.Node("Softmax", inputs=[inner], outputs=[old]))
    return graph

def forgets(graph):
    pass

def fails(graph):
    raise ValueError("no such node")
"""


def test_a_surgeon_function_is_a_step(tmp_path: Path) -> None:
    (tmp_path / "edits.py").write_text(USER_FILE)
    passes = parse_recipe(f"[[pass]]\nsurgeon = '{tmp_path}/edits.py:softmax'\n[[pass]]\nname = 'shrink'")
    model, report = apply(conv_chain(), passes)
    assert [node.op_type for node in model.graph][-1] == "Softmax"
    assert report.steps[0].done[0].what.endswith("edits.py:softmax")
    assert parse_recipe(write_recipe(passes)) == passes


@pytest.mark.parametrize(
    ("function", "message"),
    [("forgets", "expected it to return a gs.Graph, got NoneType"), ("fails", "ValueError: no such node")],
)
def test_a_surgeon_function_that_fails_is_one_line(tmp_path: Path, function: str, message: str) -> None:
    (tmp_path / "edits.py").write_text(USER_FILE)
    passes = parse_recipe(f"[[pass]]\nsurgeon = '{tmp_path}/edits.py:{function}'")
    with pytest.raises(PassError) as error:
        apply(conv_chain(), passes)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_tables_of_words_and_numbers_have_names_of_things_as_keys() -> None:
    """Tensors may hold dots, and be called like what makes a number grow."""
    tables = {"losses": {"kl": 0.5, "fitnets": 0.25}, "features": {"a.b/c.0": "x.y", "final": "power"}}
    text = "distill losses.kl=0.5 losses.fitnets=0.25 features.a.b/c.0=x.y features.final=power"
    step = parse_pass(text)
    assert {name: step.options()[name] for name in tables} == tables
    assert parse_recipe(write_recipe([step])) == [step]
    rounds = parse_recipe("[[pass]]\nname = 'distill'\nrounds = 2\nlosses = {kl = 1}\noutputs = {initial = 'classes'}")
    assert [each.options()["outputs"] for each in rounds] == [{"initial": "classes"}] * 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("distill losses=kl", "distill: losses = 'kl': it is a table; write losses.NAME=VALUE"),
        ("distill losses.kl=much", "distill: losses = {'kl': 'much'}: expected `float`"),
        ("distill losses.kld=1", "distill: losses: unknown 'kld'; did you mean 'kl'?"),
        ("distill losses.kl=-1", "distill: losses.kl = -1.0: expected a number above 0"),
        ("distill losses.kl=nan", "distill: losses.kl = nan: expected a number above 0"),
        ("distill outputs.y=clases", "distill: outputs: unknown 'clases'; did you mean 'classes'?"),
        ("distill losses.fitnets=1", "distill: losses: 'fitnets' compares inner tensors; say which, with features."),
        ("distill losses.kl=1 features.a=b", "distill: features: no loss compares them; give losses one of fitnets,"),
        ("distill output_weights.y=0", "distill: output_weights.y = 0.0: expected a number above 0"),
    ],
)
def test_tables_that_are_wrong(text: str, message: str) -> None:
    with pytest.raises(OptionError, match=f"^{re.escape(message)}"):
        parse_pass(text)
