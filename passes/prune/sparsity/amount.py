"""How much goes: a share of what there is, or so many."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

Sparsity: TypeAlias = Annotated[int, msgspec.Meta(ge=0)] | Annotated[float, msgspec.Meta(ge=0, lt=1)]
"""With a decimal point a share of what there is, in [0, 1); a whole number is how many, as PyTorch's ``amount``."""


def how_many(sparsity: int | float, size: int) -> int:
    """Return how many of `size` go; shares are rounded down.

    >>> how_many(0.5, 7), how_many(5, 7)
    (3, 5)
    """
    return sparsity if isinstance(sparsity, int) else int(sparsity * size)


def too_many(sparsity: int | float, most: int, what: str) -> str:
    """Say why so many cannot go; empty where they can, and for shares."""
    return f"{sparsity} {what} were to go, and it has {most}" if how_many(sparsity, most) > most else ""
