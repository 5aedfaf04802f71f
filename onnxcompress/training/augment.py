"""Checks what the samples are to be changed by, before the worker loads it."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import OptionError, did_you_mean
from ..runtime.user_code import load_function
from .loop.augment import KNOWN


def check_augment(names: Sequence[str]) -> None:
    """Raise `OptionError` where a name is no change that is known, nor a function that can be loaded."""
    for name in names:
        if name in KNOWN:
            continue
        if ".py:" not in name:
            known = ", ".join(KNOWN)
            raise OptionError(
                f"augment '{name}': expected {known}, or file.py:function{did_you_mean(name, list(KNOWN))}"
            )
        load_function(name, "augment")
