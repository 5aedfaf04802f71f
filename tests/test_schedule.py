"""Rounds: passes that are repeated together, with numbers that grow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from command_line import call
from corpus.topologies import conv_chain, mlp
from hypothesis import given
from hypothesis import strategies as st

from onnxcompress import apply
from onnxcompress.errors import OptionError
from onnxcompress.passes import FoldConstants, MagnitudePrune, PruneChannels, Shrink
from onnxcompress.recipe import parse_recipe, read_steps
from onnxcompress.schedule import of_what_is_left, polynomial

GROWING = """
[[pass]]
name = "fold-constants"

[[pass]]
name = "magnitude-prune"
sparsity = {initial = 0.2, final = 0.8, power = 2}
rounds = 4

[[pass]]
name = "fold-constants"
rounds = 4

[[pass]]
name = "shrink"
"""


def weights(subject: ir.Model) -> dict[str, np.ndarray]:
    return {t.name: onnx.numpy_helper.to_array(t) for t in ir.to_proto(subject).graph.initializer}


def formula(initial: float, final: float, rounds: int, power: float) -> np.ndarray:
    return final + (initial - final) * (1 - np.linspace(0, 1, rounds)) ** power


@given(st.floats(0, 0.5), st.floats(0.5, 0.99), st.integers(2, 12), st.floats(0.5, 4))
def test_numbers_grow_by_the_polynomial(initial: float, final: float, rounds: int, power: float) -> None:
    expected = formula(initial, final, rounds, power)
    found = polynomial(initial, final, rounds, power)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    left = np.cumprod([1 - share for share in of_what_is_left(found)])
    np.testing.assert_allclose(left, 1 - expected, atol=1e-9)


def test_one_round_goes_all_the_way() -> None:
    assert polynomial(0.1, 0.7, 1) == [0.7]


def test_rounds_are_passes_one_after_the_other() -> None:
    found = parse_recipe(GROWING)
    sparsities = [step.sparsity for step in found if isinstance(step, MagnitudePrune)]
    np.testing.assert_allclose(sparsities, formula(0.2, 0.8, 4, 2), atol=1e-12)
    assert [step.name for step in found] == ["fold-constants", *["magnitude-prune", "fold-constants"] * 4, "shrink"]


def test_masks_only_grow() -> None:
    subject = mlp()
    passes = [step for step in parse_recipe(GROWING) if not isinstance(step, Shrink)]
    before = {name: np.zeros(array.shape, bool) for name, array in weights(subject).items()}
    for number, share in enumerate(formula(0.2, 0.8, 4, 2)):
        pruned, _ = apply(subject, passes[: 3 + 2 * number])
        for name in ("w1", "w2", "w3"):
            zero = weights(pruned)[name] == 0
            assert zero.sum() == int(share * zero.size)
            assert (before[name] <= zero).all()
            before[name] = zero


def test_shares_of_what_is_left_where_channels_are_removed() -> None:
    text = """
        [[pass]]
        name = "prune-channels"
        sparsity = {initial = 0.25, final = 0.75, power = 1, relative = true}
        include = ["w1"]
        rounds = 3
        [[pass]]
        name = "shrink"
        rounds = 3
    """
    passes = parse_recipe(text)
    sizes = [weights(apply(conv_chain(), passes[: 2 * k])[0])["w1"].shape[0] for k in (1, 2, 3)]
    assert sizes == [12, 8, 4]


def test_the_command_line_says_the_same() -> None:
    steps = [
        "fold-constants",
        "magnitude-prune sparsity.initial=0.2 sparsity.final=0.8 sparsity.power=2 rounds=4",
        "fold-constants rounds=4",
        "shrink",
    ]
    assert read_steps([("step", text) for text in steps]) == parse_recipe(GROWING)


def test_what_a_term_overrides_grows_too() -> None:
    text = "prune-channels overrides.stem.weight.sparsity.initial=2 overrides.stem.weight.sparsity.final=8 rounds=3"
    found = read_steps([("step", text + " overrides.stem.weight.sparsity.power=1")])
    assert found == [PruneChannels(overrides={"stem.weight": {"sparsity": count}}) for count in (2, 5, 8)]


def test_other_rounds_are_another_block(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text("[[pass]]\nname = 'shrink'\nrounds = 2\n")
    given = [("recipe", str(tmp_path / "r.toml")), ("step", "shrink rounds=2"), ("step", "fold-constants rounds=1")]
    assert read_steps(given) == [Shrink(), Shrink(), Shrink(), Shrink(), FoldConstants()]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("rounds = 0", "recipe: pass 1: rounds = 0: expected `int` >= 1"),
        ("rounds = 'two'", "recipe: pass 1: rounds = 'two': expected `int`, got `str`"),
        ("sparsity = {initial = 0, final = 0.5}", "pass 1: sparsity grows from round to round; say how many"),
        ("rounds = 2\nsparsity = {initial = 0.1}", "missing required field `final`"),
        ("rounds = 2\nsparsity = {initial = 0.1, finale = 0.5}", "unknown 'finale'; did you mean 'final'?"),
        ("rounds = 2\nsparsity = {initial = 0.1, final = 0.5, power = 0}", "expected `float` > 0.0"),
        ("rounds = 2\nsparsity = {initial = 0.1, final = 1.0}", "pass 1, round 2: magnitude-prune: sparsity = 1.0"),
        ("rounds = 2\nsparsity = {initial = 1, final = 2, relative = true}", "expected numbers in [0, 1)"),
    ],
)
def test_what_is_wrong_is_said(options: str, message: str) -> None:
    with pytest.raises(OptionError) as error:
        parse_recipe(f"[[pass]]\nname = 'magnitude-prune'\n{options}")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prune-channels overrides.w1=0.5", "expected overrides.TERM.OPTION=VALUE, got 'overrides.w1=0.5'"),
        ("prune-channels overrides.w1.final=0.5", "expected overrides.TERM.OPTION=VALUE"),
        ("magnitude-prune sparsity=0.5 sparsity.final=0.5", "'sparsity' is given twice"),
        ("magnitude-prune name=shrink", "the name of the pass is its first word"),
    ],
)
def test_what_is_wrong_on_the_command_line_is_said(text: str, message: str) -> None:
    with pytest.raises(OptionError) as error:
        read_steps([("step", text)])
    assert message in str(error.value)


def test_from_the_command_line(tmp_path: Path) -> None:
    ir.save(mlp(), tmp_path / "m.onnx")
    steps = ["-p", "magnitude-prune sparsity.initial=10 sparsity.final=40 sparsity.power=1 rounds=4"]
    result = call("apply", tmp_path / "m.onnx", "-o", tmp_path / "o.onnx", *steps)
    assert result.exit_code == 0, result.stderr
    assert (weights(ir.load(tmp_path / "o.onnx"))["w1"] == 0).sum() == 40
