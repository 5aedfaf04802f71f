"""Help is read off the passes: every option of every pass says what it means."""

from __future__ import annotations

import pytest

from onnxcompress import registry
from onnxcompress.display.catalogue import SHARED, entry
from onnxcompress.passes.prune.importance.criteria import IMPORTANCE


@pytest.mark.parametrize("name", registry.names())
def test_every_option_says_what_it_means(name: str) -> None:
    options = entry(name).options
    assert [option.name for option in options if not option.text] == []
    places = [option.name in SHARED for option in options]
    assert places == sorted(places)


def test_every_criterion_has_a_line() -> None:
    option = next(option for option in entry("prune-channels").options if option.name == "importance")
    lines = option.text.splitlines()
    named = [line.removeprefix("- ").split(":")[0].split(",")[0] for line in lines if line.startswith("- ")]
    assert {"l2", "reconstruction", *named} == {"auto", "reconstruction", *IMPORTANCE}


def test_numbers_and_words_are_told_apart() -> None:
    allowed = {option.name: option.allowed for option in entry("prune-channels").options}
    assert allowed["sparsity"] == "int ≥0, or float ≥0, <1, or auto"
    assert allowed["overrides"] == "of sparsity, round_to, keep_at_least"
