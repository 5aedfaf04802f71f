"""What help and documentation say is true, and says it in one vocabulary."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from command_line import call

from onnxcompress.cli import app
from onnxcompress.display.catalogue import catalogue, entry
from onnxcompress.display.options import markdown
from onnxcompress.graph import opset
from onnxcompress.passes.prune import prune_channels
from onnxcompress.passes.prune.compensate import least_squares
from onnxcompress.passes.quantize import convert_float, quantize
from onnxcompress.passes.quantize.half.apply import LARGEST
from onnxcompress.passes.quantize.shared import scales, units
from onnxcompress.passes.quantize.weight_only.formats import SHORTEST_BLOCK
from onnxcompress.statistics import calibration, channel_histogram, histogram
from onnxcompress.targets import target_names

DOCS = Path(__file__).parents[1] / "docs"
ENTRIES = catalogue()
WORDS = {"tokenizer", "optimizer", "quantize"}
"""Names that ONNX and the trainers' APIs have given; all else is British."""
REPLACED = re.compile(r"compensating|lossless|\bwide\b|ranges|scales|per_channel|block_ops|method")


def power_of_ten(number: float) -> str:
    digits, exponent = f"{number:.0e}".split("e")
    return f"{digits}·10{str(int(exponent)).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))}"


COUNTED = {1.0: "one", 8.0: "eight"}
FRAGILE = ", ".join(convert_float.FRAGILE)
QUOTES = [
    ("quantize", f"{100 * calibration.MASS:.5g} % of the values"),
    ("quantize", f"an opset below {opset.PER_CHANNEL} is raised to {opset.PER_CHANNEL}"),
    ("quantize", f"16 bits need opset {opset.BLOCKS}, 8-bit floats (then also of the weights) opset {opset.FLOAT16}"),
    ("quantize", f"symmetric int8 in [{scales.SYMMETRIC.low}, {scales.SYMMETRIC.high}]"),
    ("quantize-dynamic", f"an opset below {opset.PER_CHANNEL} is raised to {opset.PER_CHANNEL}"),
    ("quantize-dynamic", f"Weights in [{scales.SEVEN_BITS.low}, {scales.SEVEN_BITS.high}]"),
    ("quantize-weights", f"raised to opset {opset.PER_CHANNEL}, with 4 bits or blocks in DequantizeLinear to opset "),
    ("quantize-weights", f"DequantizeLinear to opset {opset.BLOCKS}"),
    ("quantize-weights", f"needs blocks of {SHORTEST_BLOCK}, {2 * SHORTEST_BLOCK}, {4 * SHORTEST_BLOCK}, …"),
    ("convert-float", f"({LARGEST['float16']:g} in float16)"),
    ("convert-float", f"Constants beyond {convert_float.INFINITY:.0e} stand for infinity".replace("+", "")),
    ("convert-float", " and ".join(FRAGILE.rsplit(", ", 1)) + " stay in float32"),
    ("prune-channels", f"on up to {least_squares.RECOVERY_SAMPLES} samples"),
    ("recovery.md", f"up to {least_squares.RECOVERY_SAMPLES} samples are looked at"),
    ("recovery.md", f"weights are fitted to {prune_channels.NOISE} made-up ones"),
    ("quantize.md", f"a node whose constant exceeds {LARGEST['float16']:g}"),
    ("quantize.md", f"Constants beyond {convert_float.INFINITY:.0e} stand for infinity".replace("+", "")),
    ("quantize.md", f"raised to {opset.PER_CHANNEL}, the first whose scales have an axis"),
    (
        "quantize.md",
        f"all of a weight below {power_of_ten(127 * scales.SMALLEST)} or above {power_of_ten(units.LARGEST)}",
    ),
    ("quantize.md", f"less than {power_of_ten(quantize.NARROWEST)} or more than {power_of_ten(quantize.WIDEST)}"),
    ("quantize.md", f"count up to {histogram.POSITIONS:,} values of each sample's tensor"),
    ("quantize.md", f"pass over the samples for {channel_histogram.MOST_CHANNELS:,} channels"),
]
"""Where a constant is quoted, and how."""


@pytest.mark.parametrize(("where", "words"), QUOTES, ids=lambda value: value[:40])
def test_numbers_in_the_text_are_those_of_the_code(where: str, words: str) -> None:
    if where.endswith(".md"):
        text = (DOCS / where).read_text()
    else:
        found = entry(where)
        text = " ".join((found.text, *(option.text for option in found.options)))
    assert words in " ".join(text.split())


def test_the_table_of_options_is_up_to_date() -> None:
    """``onnxcompress passes --markdown > docs/options.md`` writes it."""
    assert (DOCS / "options.md").read_text() == call("passes", "--markdown").stdout == markdown(ENTRIES)


def test_every_option_says_what_it_means() -> None:
    assert [(e.name, o.name) for e in ENTRIES for o in e.options if not o.text] == []


def test_options_are_british_but_for_names_that_others_gave() -> None:
    names = {word for e in ENTRIES for o in e.options for word in o.name.split("_")} - WORDS
    assert {name for name in names if re.search(r"(?<!^s)[iy]z(e|ation)|color|center|behavior|gray", name)} == set()


def test_one_word_for_one_thing() -> None:
    options = [(e.name, o) for e in ENTRIES for o in e.options]
    assert {o.name for _, o in options if REPLACED.fullmatch(o.name)} == set()
    allowed: dict[str, set[str]] = {}
    for _, option in options:
        allowed.setdefault(option.name, set()).update(option.allowed.split(", "))
    assert allowed["rounding"] == {"nearest", "gptq", "quantease"}
    assert allowed["granularity"] == {"tensor", "channel", "block"}
    assert allowed["calibration"] == {"minmax", "moving_average", "percentile", "entropy", "mse"}


def test_importance_is_explained_in_full() -> None:
    (option,) = (option for option in entry("prune-channels").options if option.name == "importance")
    names = {name for name in option.allowed.replace("or float", "").split(", ") if re.fullmatch(r"[a-z_]\w+", name)}
    assert {"taylor", "fisher"} <= names
    assert {name for name in names if name not in option.text} == set()


def test_no_help_sends_anybody_to_a_module() -> None:
    texts = {e.name: " ".join((e.text, *(o.text for o in e.options))) for e in ENTRIES}
    commands = [command.callback.__name__ for command in app.registered_commands if command.callback is not None]
    assert len(commands) >= 8
    texts |= {name: call(name.replace("_", "-"), "--help").stdout for name in commands}
    found = {name: re.findall(r"\bonnxcompress\.\w+|\w+/\w+\.py\b", text) for name, text in texts.items()}
    assert {name: paths for name, paths in found.items() if paths} == {}


def test_lint_lists_the_targets() -> None:
    shown = call("lint", "--help").stdout
    assert [name for name in target_names() if name not in shown] == []
