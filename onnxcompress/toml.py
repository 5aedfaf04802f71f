"""TOML files that users write: recipes and targets."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from .errors import OptionError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MOST_BYTES = 1 << 24
"""More is no recipe; a device has no end."""

MOST_LEVELS = 16
"""Tables in tables; what reads them walks down into each."""


def read_toml(path: str | Path, what: str) -> str:
    """Return the text of a TOML file, or raise `OptionError`; `what` the file is stands in the message."""
    try:
        with Path(path).open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise OptionError(f"{path}: is too large for a {what}")
        return content.decode()
    except FileNotFoundError:
        raise OptionError(f"{path}: no such {what}") from None
    except (OSError, ValueError) as error:
        raise OptionError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """Return what TOML text says, or raise `OptionError`, which begins with `where`."""
    try:
        content: dict[str, Any] = tomllib.loads(text)
        too_deep = _is_deeper(content, MOST_LEVELS)
    except ValueError as error:  # a number of more digits than Python reads is no TOMLDecodeError
        raise OptionError(f"{where}: not TOML: {error}") from None
    except RecursionError:
        too_deep = True
    if too_deep:
        raise OptionError(f"{where}: not TOML that can be read: it is nested too deeply")
    return content


def _is_deeper(content: Any, levels: int) -> bool:
    if not isinstance(content, (dict, list)):
        return False
    inner = content.values() if isinstance(content, dict) else content
    return levels == 0 or any(_is_deeper(part, levels - 1) for part in inner)
