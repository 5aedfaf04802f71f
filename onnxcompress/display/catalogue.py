"""What passes there are, and their options: read off the classes, so that it cannot go stale."""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from dataclasses import dataclass
from inspect import cleandoc
from typing import Any, Literal

import msgspec

from .. import registry
from ..contract import Pass
from ..errors import OptionError
from ..selection import OverridablePass
from . import units

BOUNDS = {"ge": "≥{:g}", "gt": ">{:g}", "le": "≤{:g}", "lt": "<{:g}"}
"""Bounds of `msgspec.Meta`, and how they read."""

SHARED = tuple(field.name for field in dataclasses.fields(OverridablePass))
"""Options that many passes have; they come last."""


@dataclass(frozen=True)
class Option:
    """An option of a pass.

    Attributes
    ----------
    name : str
    type, allowed : str
        such as "float" and "≥0, ≤1"; `allowed` is empty where every value of the type is.
    default : str
        As the command line takes it; "required" where there is none.
    text : str
        What it means.
    """

    name: str
    type: str
    allowed: str
    default: str
    text: str


@dataclass(frozen=True)
class Entry:
    """A pass.

    Attributes
    ----------
    name, summary, text : str
        Its name, the first line of its docstring, and the docstring without the sections about parameters.
    needs : tuple of str
        "samples", "training".
    options : tuple of Option
    """

    name: str
    summary: str
    text: str
    needs: tuple[str, ...]
    options: tuple[Option, ...]


def catalogue() -> list[Entry]:
    """Return all registered passes; one that cannot be imported says so in its summary."""
    return [_entry_or_reason(name) for name in registry.names()]


def _entry_or_reason(name: str) -> Entry:
    try:
        return entry(name)
    except OptionError as error:
        return Entry(name, str(error), "", (), ())


def entry(name: str) -> Entry:
    """Return one pass with its options, or raise `OptionError` with the nearest spelling."""
    kind = registry.find(name)
    text = cleandoc(kind.__doc__ or "")
    body = _without_sections(text)
    needs = tuple(field.name for field in dataclasses.fields(kind.needs) if getattr(kind.needs, field.name))
    return Entry(name, body.partition("\n\n")[0], body, needs, _options(kind, text))


def _options(kind: type[Pass], text: str) -> tuple[Option, ...]:
    """Return a pass's own options, then those that passes share."""
    hints = typing.get_type_hints(kind, include_extras=True)
    inherited = [cleandoc(base.__doc__ or "") for base in reversed(kind.__mro__) if issubclass(base, Pass)]
    meanings = {name: meaning for doc in (*inherited, text) for name, meaning in _meanings(doc).items()}
    options = []
    for field in sorted(dataclasses.fields(kind), key=lambda field: field.name in SHARED):
        shown, allowed = _shown(hints[field.name])
        if field.name == "overrides" and issubclass(kind, OverridablePass):
            allowed = f"of {', '.join(kind.overridable)}"
        options.append(Option(field.name, shown, allowed, _default(field), meanings.get(field.name, "")))
    return tuple(options)


def _shown(hint: Any) -> tuple[str, str]:
    """Return the type and what is allowed, as people read them."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        shown, allowed = _shown(args[0])
        bounds = [b for extra in args[1:] if isinstance(extra, msgspec.Meta) for b in _bounds(extra)]
        return shown, ", ".join([*([allowed] if allowed else []), *bounds])
    if origin is Literal:
        return type(args[0]).__name__, ", ".join(str(arg) for arg in args)
    if origin in (typing.Union, types.UnionType):
        parts = [_shown(arg) for arg in args if arg is not type(None)]
        several = len({shown for shown, _ in parts}) > 1
        limits = [
            f"{shown} {allowed}" if several and shown != "str" else allowed for shown, allowed in parts if allowed
        ]
        return " or ".join(dict.fromkeys(shown for shown, _ in parts)), ", or ".join(limits)
    if origin in (tuple, list):
        shown, allowed = _shown(args[0])
        return f"list of {shown}", allowed
    if origin is dict:
        return "table", ""
    return getattr(hint, "__name__", str(hint)), "true, false" if hint is bool else ""


def _bounds(meta: msgspec.Meta) -> list[str]:
    return [form.format(getattr(meta, name)) for name, form in BOUNDS.items() if getattr(meta, name) is not None]


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default_factory is not dataclasses.MISSING:
        return units.as_typed(field.default_factory())
    return "required" if field.default is dataclasses.MISSING else units.as_typed(field.default)


def _without_sections(text: str) -> str:
    """Leave out the sections on attributes and parameters: they become the options' own texts."""
    kept = re.sub(r"^(Attributes|Parameters)\n-+\n(?:(?![^\n]+\n-{3,}\n).*\n?)*", "", text, flags=re.M).strip()
    kept = re.sub(r"^(\w+)\n-{3,}\n", r"\1: ", kept, flags=re.M)
    kept = re.sub(r"\[(\d+)\]_", r"[\1]", kept).replace(".. [", "[").replace("``", "`")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in kept.split("\n\n"))


def _meanings(text: str) -> dict[str, str]:
    """Read ``name : type`` and what is indented below it out of a numpy-style docstring; items keep their lines."""
    found: dict[str, str] = {}
    for names, meaning in re.findall(r"^(\w[\w, ]*?) ?:[^\n]*\n((?:[ ]{4}[^\n]*\n?|\n(?=[ ]{4}))+)", text, flags=re.M):
        for name in names.split(","):
            lines = [" ".join(line.split()) for line in re.split(r"\n +(?=- )", meaning)]
            found[name.strip()] = "\n".join(lines).replace("``", "`")
    return found
