"""Packages that only some kinds of data need."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ..errors import DataError


def need(module: str, extra: str, what: str) -> Any:
    """Import a package of an extra.

    Raises
    ------
    DataError
        It is not installed, or does not load here.
    """
    try:
        return import_module(module)
    except ImportError as error:
        why = "is not installed" if isinstance(error, ModuleNotFoundError) else f"does not load ({error})"
        raise DataError(f"{what} need {module}, which {why}: pip install 'onnxcompress[{extra}]'") from None
