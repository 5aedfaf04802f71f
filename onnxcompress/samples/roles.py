"""What inputs are for, by the names that exporters give them, and what stands in for those that nobody gives."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..graph import caches
from ..runtime.session import Array
from .inputs import Input

ROLES = {
    "cache switch": r"use_cache(_branch)?",
    "positions": r"(.*_)?position(_id)?s(_ids)?|pos_ids|cache_position",
    "past": caches.PAST,
    "types": r"(.*_)?(token_type|segment|sentence_type)_?ids?",
    "mask": caches.MASK,
    "ids": caches.IDS,
    "rate": r"sr|sample_rate|sampling_rate",
    "state": r"(?!.*encoder)(.*[_.])?(state|states|hidden|h_?0|c_?0|h_?n|c_?n|h|c)(_?in|_?\d+)?",
}
"""Role → names of inputs that have it; the first that fits counts."""

LATER = {"past", "cache switch", "state", "types", "positions"}
"""Roles that have a neutral value: nothing remembered yet, no second sentence, one position after the other."""


LIKE_TOKENS = {"positions": 0, "types": 0, "mask": 1}
"""Roles whose neutral value is as long as the tokens, and what it is; positions go on
from it."""


def role(name: str) -> str | None:
    """Return what an input of that name is for; None where nothing is known.

    >>> role("past_key_values.0.key"), role("attention_mask"), role("pixel_values")
    ('past', 'mask', None)
    """
    return next((role for role, names in ROLES.items() if re.fullmatch(names, name.lower())), None)


def fill(item: Input, count: int, like: Array | None) -> Array | None:
    """Return the neutral value of an input for `count` samples; None where it has none.

    Parameters
    ----------
    item : Input
    count : int
    like : ndarray or None
        The tokens, whose shape positions and types take.
    """
    kind = role(item.name)
    if kind not in {"mask", *LATER} or item.shape is None:
        return None
    if kind in LIKE_TOKENS:
        if like is None or len(item.shape) != like.ndim or "encoder" in item.name.replace("decoder", ""):
            return None
        values = np.arange(like.shape[-1]) if kind == "positions" else LIKE_TOKENS[kind]
        return np.array(np.broadcast_to(values, like.shape), item.dtype)
    open_axes = [axis for axis, dim in enumerate(item.shape) if not isinstance(dim, int) and axis != item.batch_axis]
    if kind == "state" and open_axes:
        return None
    sizes = [
        count if axis == item.batch_axis else dim if isinstance(dim, int) else 0 for axis, dim in enumerate(item.shape)
    ]
    return np.zeros(sizes, item.dtype)


def filled(inputs: tuple[Input, ...], arrays: Mapping[str, Array], notes: dict[str, str]) -> dict[str, Array]:
    """Return neutral values for the inputs that are missing from `arrays`, as far as there are any."""
    like = next((np.asarray(array) for name, array in arrays.items() if role(name) == "ids"), None)
    batched = next((item for item in inputs if item.batch_axis is not None and item.name in arrays), None)
    count = 1 if batched is None else np.asarray(arrays[batched.name]).shape[batched.batch_axis or 0]
    found = {}
    for item in inputs:
        if item.name not in arrays and (value := fill(item, count, like)) is not None:
            found[item.name] = value
    if found:
        names = list(found)
        shown = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
        notes["filled"] = f"inputs that the samples lack are filled with what is neutral, empty or 0: {shown}"
    return found


def past_length(inputs: Sequence[Input], feeds: Mapping[str, Array]) -> int:
    """Return how many tokens the caches in these feeds hold; those that an encoder fills do not count."""
    lengths = (feeds[item.name].shape[item.grows] for item in inputs if item.grows is not None and item.name in feeds)
    return next(lengths, 0)


def positions(shape: tuple[int, ...], before: int, dtype: np.dtype[Any]) -> Array:
    """Return the positions of tokens behind those that a cache holds."""
    return np.array(np.broadcast_to(np.arange(before, before + shape[-1]), shape), dtype)
