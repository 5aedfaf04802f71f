"""What inputs and outputs of a model have lost since it was exported, kept in the model: heads of a cache.

Whoever runs the model with what was made for the original is served all the same: the positions that are gone are cut
out of feeds, and out of the original's outputs where the two are compared.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

Interface: TypeAlias = Literal["stays", "may change"]

KEY = "onnxcompress.interface"
"""Where a model's metadata say it."""

Cuts: TypeAlias = dict[str, dict[int, tuple[int, tuple[int, ...]]]]
"""Input or output → axis → how many positions the original has, and which of them are left."""


def read(metadata: Mapping[str, str]) -> Cuts:
    """Return what a model's metadata say; nothing where they are not ours."""
    try:
        found = json.loads(metadata.get(KEY, "{}"))
        return {n: {int(a): (int(c), tuple(map(int, k))) for a, (c, k) in axes.items()} for n, axes in found.items()}
    except (AttributeError, TypeError, ValueError):
        return {}


def note(model: ir.Model, name: str, axis: int, kept: npt.NDArray[np.bool_]) -> None:
    """Note that of an input or output, as it is now, only some positions of an axis are kept."""
    cuts = read(model.metadata_props)
    count, before = cuts.get(name, {}).get(axis, (len(kept), tuple(range(len(kept)))))
    left = tuple(place for place, stays in zip(before, kept.tolist(), strict=True) if stays)
    cuts.setdefault(name, {})[axis] = (count, left)
    model.metadata_props[KEY] = json.dumps(cuts)


def cut(cuts: Cuts, name: str, array: Any) -> Any:
    """Cut what was made for the original down to what is left; what is as it is now already is returned as it is."""
    for axis, (count, left) in cuts.get(name, {}).items() if isinstance(array, np.ndarray) else ():
        if axis < array.ndim and array.shape[axis] == count != len(left):
            array = np.take(array, left, axis)
    return array


def cut_all(cuts: Cuts, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Cut inputs or outputs of the original down to what is left; see `cut`."""
    return {name: cut(cuts, name, array) for name, array in arrays.items()}


def since(before: Cuts, after: Cuts) -> Cuts:
    """Return what one model has lost since another, in positions of the other."""
    found: Cuts = {}
    for name, axes in after.items():
        for axis, (count, left) in axes.items():
            _, known = before.get(name, {}).get(axis, (count, tuple(range(count))))
            if left != known:
                places = tuple(known.index(place) for place in left if place in known)
                found.setdefault(name, {})[axis] = (len(known), places)
    return found


def said(model: ir.Model, earlier: ir.Model) -> list[tuple[str, str]]:
    """Return each input and output that has changed since, with its shapes."""
    names = since(read(earlier.metadata_props), read(model.metadata_props))
    now = {value.name: value for value in (*model.graph.inputs, *model.graph.outputs)}
    then = {value.name: value for value in (*earlier.graph.inputs, *earlier.graph.outputs)}
    return [(name, f"its shape changed from {_shape(then[name])} to {_shape(now[name])}") for name in names]


def _shape(value: ir.Value) -> str:
    return str([dim if isinstance(dim, int) else dim.value for dim in value.shape or ()]).replace("'", "")
