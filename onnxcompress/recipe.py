"""A recipe to and from TOML: an ordered list of passes.

.. code-block:: toml

    [[pass]]
    name = "prune-channels"
    sparsity = 0.5

    [[pass]]
    name = "shrink"

    [[pass]]
    surgeon = "my_edits.py:function"

Passes in a row with the same ``rounds`` are repeated together, with numbers that grow; see `onnxcompress.schedule`.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from . import registry
from .contract import Pass
from .errors import OptionError, did_you_mean
from .schedule import GROWTH, Written, expand
from .surgery import SurgeonStep
from .toml import parse_toml, read_toml

SURGEON = "surgeon="
"""What -p begins with where the step is a function of the user's own."""


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
    written = [Written(step, f"{where}: pass {number}") for number, step in enumerate(steps, 1)]
    return [make_step(step.table, step.where) for step in expand(written)]


def make_step(step: dict[str, Any], where: str) -> Pass:
    """Turn one table of a recipe into a pass; `where` begins every error."""
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


def step_table(step: Pass) -> dict[str, Any]:
    """Turn a pass into a table of a recipe; options at None are left out, since None is always the default."""
    if isinstance(step, SurgeonStep):
        return {"surgeon": step.function}
    return {"name": step.name, **{k: v for k, v in step.options().items() if v is not None}}


def write_recipe(passes: Sequence[Pass]) -> str:
    """Turn passes into a recipe's TOML text."""
    import tomli_w

    return tomli_w.dumps({"pass": [step_table(step) for step in passes]})


def read_steps(steps: Iterable[tuple[str, str]]) -> list[Pass]:
    """Read what the command line gives in order: ``("recipe", path)`` and ``("step", "NAME key=value ...")``."""
    passes: list[Pass] = []
    for kind, block in groupby(steps, key=itemgetter(0)):
        texts = [text for _, text in block]
        if kind == "recipe":
            passes += [step for path in texts for step in read_recipe(path)]
        else:
            written = expand([Written(_parse(text), f"-p {text!r}", strict=False) for text in texts])
            passes += [_make_from_text(step.table) for step in written]
    return passes


def parse_pass(text: str) -> Pass:
    """Make a pass out of ``"NAME key=value ..."``, as the command line's ``-p`` takes it."""
    return _make_from_text(_parse(text))


def _make_from_text(table: dict[str, Any]) -> Pass:
    if "surgeon" in table and "name" not in table:
        return make_step(table, "-p")
    options = dict(table)
    return registry.make(options.pop("name"), options, strict=False)


def _parse(text: str) -> dict[str, Any]:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise OptionError(f"-p {text!r}: {error}") from None
    if not words:
        raise OptionError(f"-p {text!r}: expected NAME key=value ...")
    if words[0].partition("=")[0] == "surgeon":
        if len(words) > 1 or not words[0].startswith(SURGEON):
            raise OptionError(f"-p {text!r}: expected surgeon=file.py:function, and nothing else")
        return {"surgeon": words[0].removeprefix(SURGEON)}
    options: dict[str, Any] = {}
    plain = registry.plain_tables(words[0])
    for item in words[1:]:
        key, equals, value = item.partition("=")
        if not equals:
            raise OptionError(f"-p {text!r}: expected key=value, got '{item}'")
        *path, last = _path(key, plain)
        if not all(path):
            raise OptionError(f"-p {text!r}: expected {path[0]}.TERM.OPTION=VALUE, got '{item}'")
        inner = options
        for part in path:
            inner = inner.setdefault(part, {})
            if not isinstance(inner, dict):
                raise OptionError(f"-p {text!r}: '{part}' is given twice, as one value and as a table")
        inner[last] = value
    if "name" in options:
        raise OptionError(f"-p {text!r}: the name of the pass is its first word, and 'name' no option")
    return {"name": words[0], **options}


def _path(key: str, plain: Collection[str] = ()) -> list[str]:
    """Take a dotted key apart: option, option.growth, option.term.option or option.term.option.growth.

    What is behind the name of a `plain` table is one name.

    >>> _path("sparsity.final"), _path("overrides.stem.weight.sparsity"), _path("losses.a.b", ["losses"])
    (['sparsity', 'final'], ['overrides', 'stem.weight', 'sparsity'], ['losses', 'a.b'])
    """
    table, _, inner = key.partition(".")
    if not inner:
        return [table]
    if table in plain:
        return [table, inner]
    rest, _, last = inner.rpartition(".")
    if last in GROWTH and not rest:
        return [table, last]
    if last in GROWTH:
        term, _, option = rest.rpartition(".")
        return [table, term, option, last]
    return [table, rest, last]
