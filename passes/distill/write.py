"""Writing what was trained into a model, and saying what became of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.contract import Change, Refusal
from onnxcompress.graph import edit

from ..quantize.shared.clusters import clustered_weights
from .qat.masters import find_masters
from .steps.clusters import are_clustered

Array = npt.NDArray[Any]


def write_weights(model: ir.Model, weights: Mapping[str, Array]) -> tuple[list[Change], list[Refusal]]:
    """Write trained weights into a model, in place.

    Returns
    -------
    list of Change
    list of Refusal
        What does not fit the model.
    """
    holders = edit.stored(model.graph)
    clustered, masters = set(clustered_weights(model)), find_masters(model)[0]
    done, refused = [], []
    for name, array in weights.items():
        value = holders.get(name)
        tensor = edit.stored_in(value)
        old = None if tensor is None else tensor.numpy()
        unfit = _unfit(old, array)
        if value is None or old is None or unfit:
            refused.append(Refusal(name, unfit))
            continue
        if name in masters:
            told = _changed(old, array) + _zeros(masters[name].steps_of(old), masters[name].steps_of(array))
        else:
            told = _how_far(old, array) + _zeros(old, array)
        shared = name in clustered or (name in masters and are_clustered(masters[name]))
        done.append(Change(name, f"trained, {told}{_clusters(old, array) if shared else ''}"))
        edit.set_constant(value, array.astype(old.dtype))
    return done, refused


def _unfit(old: Array | None, new: Array) -> str:
    """Return why trained weights cannot take the place of those that the model has, or an empty string."""
    if old is None:
        return "the plan trained it, and the model holds no such weight"
    if old.shape != new.shape:
        return f"the plan has shape {list(new.shape)}, the model {list(old.shape)}"
    if _is_integer(old) != _is_integer(new):
        return f"the plan has {new.dtype}, the model {old.dtype}"
    return "" if _is_integer(new) or np.isfinite(new).all() else "the plan has values that are not finite"


def _is_integer(array: Array) -> bool:
    """Tell whether it holds integers; numpy does not know those of 4 bits as such."""
    return array.dtype.kind in "iu" or array.dtype.name in ("int4", "uint4")


def _changed(old: Array, new: Array) -> str:
    """Say how many integers are others than before."""
    moved = float((old != new).mean())
    return f"{moved:.1%} of {old.dtype.name} changed, by {np.abs(_wide(new) - _wide(old)).max(initial=0)} at most"


def _wide(array: Array) -> npt.NDArray[np.int64]:
    return array.astype(np.int64)


def _how_far(old: Array, new: Array) -> str:
    distance = float(np.linalg.norm(new - old))
    length = float(np.linalg.norm(old))
    return f"moved by {100 * distance / length:.3g} %" if length > 0 else f"moved by {distance:.3g}"


def _zeros(old: Array, new: Array) -> str:
    """Say what became of zeros among other weights."""
    zero = old == 0
    if not zero.any() or (zero.all() and new.any()):
        more = float((new == 0).mean())
        return f"; {more:.1%} became zero" if more and not zero.any() else ""
    kept = np.count_nonzero(new[zero] == 0) / zero.size
    return f"; of {zero.mean():.1%} zeros {kept:.1%} stayed" if kept < zero.mean() else f"; {kept:.1%} zeros stay"


def _clusters(old: Array, new: Array) -> str:
    """Say what became of the values that weights share."""
    before, after = len(np.unique(old)), len(np.unique(new))
    return (
        f"; {before:,} different values stay" if after <= before else f"; {before:,} different values became {after:,}"
    )
