"""What inputs are for, by the names that exporters give them, and what stands in for those that nobody gives."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from ..graph import operators
from ..graph.nodes import int_attribute
from ..runtime.session import Array
from .inputs import Input

ROLES = {
    "cache switch": r"use_cache(_branch)?",
    "positions": r"(.*_)?position(_id)?s(_ids)?|pos_ids|cache_position",
    "past": r"(past|pkv|cache|mems)(_.*|\..*|\d.*)?|.*(past_(key|value|kv)|(key|value|k|v)_cache).*",
    "types": r"(.*_)?(token_type|segment|sentence_type)_?ids?",
    "mask": r"(.*[_.])?(attention_)?mask(_.*)?",
    "ids": r"(.*[_.])?(input_|decoder_input_|token_)?(ids|tokens)(_.*)?|token_ids",
    "rate": r"sr|sample_rate|sampling_rate",
    "state": r"(?!.*encoder)(.*[_.])?(state|states|hidden|h_?0|c_?0|h_?n|c_?n|h|c)(_?in|_?\d+)?",
}
"""Role → names of inputs that have it; the first that fits counts."""

KEEPS = operators.KEEP_ELEMENTS | {"Cast"}
"""Operators behind which an index still names the row that it did."""

LATER = {"past", "cache switch", "state", "types", "positions"}
"""Roles that have a neutral value: nothing remembered yet, no second sentence, one position after the other."""


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
    if kind not in LATER or item.shape is None:
        return None
    if kind in ("positions", "types"):
        if like is None or len(item.shape) != like.ndim:
            return None
        values = np.arange(like.shape[-1]) if kind == "positions" else 0
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


def vocabulary(value: ir.Value) -> int | None:
    """Return how many rows the smallest constant table has from which an input picks; None where it picks from none."""
    sizes: list[int] = []
    waiting, seen = [value], {value}
    while waiting:
        for node, index in waiting.pop().uses():
            if node.op_type == "Gather" and index == 1:
                table = node.inputs[0]
                axis = int_attribute(node, "axis", 0)
                if table is not None and table.const_value is not None:
                    sizes.append(int(table.const_value.shape.numpy()[axis]))
            elif node.op_type in KEEPS and index == 0:
                waiting += [out for out in node.outputs if out not in seen]
                seen.update(node.outputs)
    return min(sizes, default=None)
