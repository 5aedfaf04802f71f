"""A recipe to and from TOML: an ordered list of passes.

.. code-block:: toml

    [[pass]]
    name = "prune-channels"
    sparsity = 0.5

    [[pass]]
    name = "shrink"

    [[pass]]
    surgeon = "my_edits.py:function"
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import registry
from .contract import Pass
from .errors import OptionError, did_you_mean
from .surgery import SurgeonStep
from .toml import parse_toml, read_toml


def read_recipe(path: str | Path) -> list[Pass]:
    """Read a recipe file.

    Raises
    ------
    OptionError
        Names the file, the number of the pass and the field, and what is allowed.
    """
    return parse_recipe(read_toml(path, "recipe"), str(path))


def parse_recipe(text: str, where: str = "recipe") -> list[Pass]:
    """Turn a recipe's TOML text into passes; `where` begins every error."""
    content = parse_toml(text, where)
    for key in content:
        if key != "pass":
            raise OptionError(
                f"{where}: unknown key '{key}'{did_you_mean(key, ['pass'])} (a recipe is a list of [[pass]])"
            )
    steps = content.get("pass", [])
    if not isinstance(steps, list) or not steps or not all(isinstance(step, dict) for step in steps):
        raise OptionError(f"{where}: expected one [[pass]] table or more")
    return [_make(step, f"{where}: pass {number}") for number, step in enumerate(steps, 1)]


def _make(step: dict[str, Any], where: str) -> Pass:
    options = dict(step)
    name = options.pop("name", None)
    try:
        if "surgeon" in options and name is None:
            if len(options) > 1:
                raise OptionError(f"surgeon: takes no other key, got {', '.join(k for k in options if k != 'surgeon')}")
            return SurgeonStep(function=options["surgeon"])
        if not isinstance(name, str):
            raise OptionError(f"name = {name!r}: expected a pass's name (or surgeon = 'file.py:function')")
        return registry.make(name, options)
    except OptionError as error:
        raise OptionError(f"{where}: {error}") from None


def write_recipe(passes: Sequence[Pass]) -> str:
    """Turn passes into a recipe's TOML text; options at None are left out, since None is always the default."""
    import tomli_w

    steps = []
    for step in passes:
        if isinstance(step, SurgeonStep):
            steps.append({"surgeon": step.function})
        else:
            steps.append({"name": step.name, **{k: v for k, v in step.options().items() if v is not None}})
    return tomli_w.dumps({"pass": steps})


def parse_pass(text: str) -> Pass:
    """Make a pass out of ``"NAME key=value ..."``, as the command line's ``-p`` takes it."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise OptionError(f"-p {text!r}: {error}") from None
    if not words:
        raise OptionError(f"-p {text!r}: expected NAME key=value ...")
    name, *rest = words
    options: dict[str, Any] = {}
    for item in rest:
        key, equals, value = item.partition("=")
        if not equals:
            raise OptionError(f"-p {text!r}: expected key=value, got '{item}'")
        table, _, inner = key.partition(".")
        if inner:  # as TOML's dotted keys; a term may have dots of its own
            term, _, option = inner.rpartition(".")
            if not term:
                raise OptionError(f"-p {text!r}: expected {table}.TERM.OPTION=VALUE, got '{item}'")
            options.setdefault(table, {}).setdefault(term, {})[option] = value
        else:
            options[key] = value
    return registry.make(name, options, strict=False)
