"""Finds passes by entry point: those that ship with the project and those of third parties, in the same way."""

from __future__ import annotations

import dataclasses
import typing
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from .contract import Pass, check_option
from .errors import OptionError, did_you_mean

GROUP = "onnxcompress.passes"


@cache
def names() -> dict[str, EntryPoint]:
    """Return every registered pass name, sorted, with its entry point; imports none of them."""
    return {point.name: point for point in sorted(entry_points(group=GROUP), key=lambda p: p.name)}


def find(name: str) -> type[Pass]:
    """Return the pass class called `name`, or raise `OptionError` with the nearest spelling."""
    known = names()
    if name not in known:
        raise OptionError(f"unknown pass '{name}'{did_you_mean(name, list(known))} (passes: {', '.join(known)})")
    try:
        kind = known[name].load()
    except Exception as error:
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        raise OptionError(f"pass '{name}': {known[name].value} cannot be imported: {what}") from error
    if not (isinstance(kind, type) and issubclass(kind, Pass)):
        raise OptionError(f"pass '{name}': entry point {known[name].value} is not a Pass subclass")
    return kind


def plain_tables(name: str) -> frozenset[str]:
    """Return the options of a pass that are tables of numbers or words; none of a pass that is not known.

    Their keys are names of things, which may hold dots and be called like anything.
    """
    if name not in names():
        return frozenset()
    hints = typing.get_type_hints(find(name), include_extras=True)
    return frozenset(field for field, hint in hints.items() if _is_plain_table(hint))


def _is_plain_table(hint: Any) -> bool:
    return typing.get_origin(hint) is dict and typing.get_args(hint)[1] in (bool, float, int, str)


def make(name: str, options: dict[str, Any], *, strict: bool = True) -> Pass:
    """Make the pass `name` with `options`; with ``strict=False`` option values may be text."""
    kind = find(name)
    hints = typing.get_type_hints(kind, include_extras=True)
    fields = [field.name for field in dataclasses.fields(kind)]
    for key in options:
        if key not in fields:
            allowed = ", ".join(fields) or "none"
            raise OptionError(f"{name}: unknown option '{key}'{did_you_mean(key, fields)} (options: {allowed})")
    if not strict:
        options = {k: _read(name, k, v, hints) for k, v in options.items()}
    checked = {k: check_option(name, k, v, hints[k], strict=strict) for k, v in options.items()}
    required = [f.name for f in dataclasses.fields(kind) if f.default is f.default_factory is dataclasses.MISSING]
    for key in required:
        if key not in checked:
            raise OptionError(f"{name}: option '{key}' is required")
    return kind(**checked)


def _read(name: str, field: str, value: Any, hints: dict[str, Any]) -> Any:
    """Read what the command line writes: a list as ``a,b,c``, a table of options by what each of these takes."""
    if isinstance(value, dict) and not _is_plain_table(hints[field]):
        return {
            term: {
                key: check_option(name, f"{field}.{term}.{key}", _read(name, key, text, hints), hint, strict=False)
                if (hint := hints.get(key))
                else text
                for key, text in options.items()
            }
            for term, options in value.items()
        }
    if not isinstance(value, dict) and _is_plain_table(hints[field]):
        raise OptionError(f"{name}: {field} = {value!r}: it is a table; write {field}.NAME=VALUE")
    return [part for part in value.split(",") if part] if typing.get_origin(hints[field]) is tuple else value
