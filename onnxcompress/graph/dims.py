"""Extents of tensors of which only some are known as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import TypeAlias

Dim: TypeAlias = "int | str | None"
"""An extent: a number, a name where only that is known, None where nothing is."""

Dims: TypeAlias = "tuple[Dim, ...]"


def broadcast(*shapes: Sequence[Dim]) -> Dims:
    """Return the shape of what an element-wise operator makes of such operands.

    Raises
    ------
    ValueError
        They do not fit together.
    """
    turned = zip_longest(*(reversed(shape) for shape in shapes), fillvalue=1)
    return tuple(_common(dims) for dims in turned)[::-1]


def _common(dims: Sequence[Dim]) -> Dim:
    wide = {dim for dim in dims if dim != 1}
    numbers = {dim for dim in wide if isinstance(dim, int)}
    if len(numbers) > 1:
        raise ValueError(f"extents {sorted(numbers)} do not fit together")
    if numbers:
        return numbers.pop()
    return wide.pop() if len(wide) == 1 else None if wide else 1


def scaled(dim: Dim, factor: int, divisor: int = 1) -> Dim:
    """Return an extent times a factor, divided by another; None where it has no number and the two differ."""
    if factor == divisor:
        return dim
    return dim * factor // divisor if isinstance(dim, int) and divisor else None


def total(*dims: Dim) -> Dim:
    """Return the sum of extents; None where one has no number, unless all others are 0."""
    known = [dim for dim in dims if dim != 0]
    if len(known) < 2:
        return known[0] if known else 0
    return sum(dim for dim in known if isinstance(dim, int)) if all(isinstance(d, int) for d in known) else None
