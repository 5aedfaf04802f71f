"""Loads a function that the user wrote: ``file.py:function`` or ``package.module:function``."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import OptionError, did_you_mean


def load_function(spec: str, what: str) -> Callable[..., Any]:
    """Return the function that `spec` names.

    Parameters
    ----------
    spec : str
        ``path/to/file.py:function`` or ``package.module:function``. The file is run each time this is called.
    what : str
        What the function is for ("data", "metric"), for messages.

    Returns
    -------
    callable

    Raises
    ------
    OptionError
        The text is not of that form, the file or module is missing or fails when it is run, or it has no such
        function.
    """
    place, colon, name = spec.rpartition(":")
    if not colon or not place or not name.isidentifier():
        raise OptionError(f"{what} '{spec}': expected file.py:function or module:function")
    label = f"{what} '{spec}'"
    module = _run_file(Path(place), label) if place.endswith(".py") else _import(place, label)
    if not hasattr(module, name):
        names = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise OptionError(f"{label}: {place} has no function '{name}'{did_you_mean(name, names)}")
    function = getattr(module, name)
    if not callable(function):
        raise OptionError(f"{label}: '{name}' is a {type(function).__name__}, not a function")
    return function  # type: ignore[no-any-return]


def _run_file(path: Path, label: str) -> ModuleType:
    try:
        missing = not path.is_file()
    except (OSError, ValueError):
        missing = True
    if missing:
        raise OptionError(f"{label}: {path}: no such file")
    # A name of its own: user files are often called data.py or metric.py, and must not shadow each other.
    name = f"onnxcompress_user_{path.stem}_{zlib.crc32(str(path.resolve()).encode()):08x}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise OptionError(f"{label}: {path}: cannot be read as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there while the file runs
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise OptionError(f"{label}: {path} fails when it is run: {describe(error)}") from error
    return module


def _import(name: str, label: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name if error.name != name else name
        raise OptionError(f"{label}: no module named '{missing}' can be imported") from error
    except Exception as error:
        raise OptionError(f"{label}: {name} fails when it is imported: {describe(error)}") from error


def describe(error: BaseException) -> str:
    """Return ``Type: first line of the message``."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
