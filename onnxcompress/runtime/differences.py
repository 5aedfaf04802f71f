"""How what a model gives differs from what another gave: outputs of any kind, one pair of arrays after another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ..errors import VerifyError
from .session import Array


class Pair(NamedTuple):
    """An array of an output, by the output's name (and its place in a sequence or map), before and after."""

    name: str
    before: Array
    after: Array


class Difference(NamedTuple):
    """How far two arrays of one shape are apart.

    Attributes
    ----------
    error : float
        The largest difference, relative to the largest value; of numbers that are finite in both.
    changed : float
        The share of elements that are another whole number, text or truth value, or another infinity or NaN.
    """

    error: float
    changed: float


def pairs(name: str, before: Any, after: Any) -> Iterator[Pair]:
    """Yield the arrays that two outputs consist of.

    Raises
    ------
    VerifyError
        They are of different kinds, or have different lengths or keys.
    """
    if isinstance(before, np.ndarray) and isinstance(after, np.ndarray):
        yield Pair(name, before, after)
        return
    if type(before) is not type(after):
        raise VerifyError(f"output '{name}' is {_kind(after)} now, and was {_kind(before)}")
    if isinstance(before, list):
        if len(before) != len(after):
            raise VerifyError(f"output '{name}' is a sequence of {len(after)}, and was one of {len(before)}")
        for place, (a, b) in enumerate(zip(before, after, strict=True)):
            yield from pairs(f"{name}[{place}]", a, b)
    elif isinstance(before, dict):
        if before.keys() != after.keys():
            raise VerifyError(f"output '{name}' is a map with other keys than before")
        for key in before:
            yield from pairs(f"{name}[{key}]", before[key], after[key])
    elif before is not None:
        yield Pair(name, np.asarray(before), np.asarray(after))


def _kind(value: Any) -> str:
    names = {np.ndarray: "a tensor", list: "a sequence", dict: "a map", type(None): "empty"}
    return names.get(type(value), f"a {type(value).__name__}")


def is_float(array: Array) -> bool:
    """Tell whether an array holds floats, numpy's or others."""
    return array.dtype.kind == "f" or "float" in array.dtype.name


def all_finite(array: Array) -> bool:
    """Tell whether an array holds neither NaN nor infinity."""
    return not is_float(array) or bool(np.isfinite(array).all())


def difference(before: Array, after: Array) -> Difference:
    """Compare two arrays of one shape."""
    if not before.size:
        return Difference(0.0, 0.0)
    if not is_float(before) or not is_float(after):
        return Difference(0.0, float(np.mean(before != after)))
    a, b = before.astype(np.float64), after.astype(np.float64)
    finite = np.isfinite(a) & np.isfinite(b)
    same = finite | (a == b) | (np.isnan(a) & np.isnan(b))
    changed = float(np.mean(~same))
    if not finite.any():
        return Difference(0.0, changed)
    largest = float(np.abs(a[finite]).max())
    return Difference(float(np.abs(a[finite] - b[finite]).max()) / (largest or 1.0), changed)
