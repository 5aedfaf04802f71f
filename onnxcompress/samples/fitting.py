"""Fits arrays to a model's inputs where it is plain what was meant, and notes what it did."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..errors import DataError
from ..runtime.session import Array
from .inputs import Input, Layout
from .roles import filled

LABELS = "labels"
LABEL_NAMES = ("labels", "label", "y", "target", "targets")
"""Arrays and columns that are labels unless the model has an input of that name, the first that is there."""

NUMBERED = "arr_"
"""How numpy names arrays that were given none."""

BYTES_NOTE = "0 to 255 are taken as they are; with --preprocess they are scaled as images are"


def fit(layout: Layout, arrays: Mapping[str, Any], where: str, notes: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Yield arrays under the names of the model's inputs, with its types and axes, and ``labels`` beside them.

    Where much is to be cast they come in parts, so that what lies in a file is not copied as a whole.

    Parameters
    ----------
    layout : Layout
    arrays : mapping of str to ndarray
        Feeds and labels as they came.
    where : str
        What messages call the place that they came from.
    notes : dict
        See `onnxcompress.samples.sources.Source`.

    Raises
    ------
    DataError
        A value does not fit into the type of its input.
    """
    names = {item.name for item in layout.inputs}
    feeds = dict(arrays)
    label = next((feeds.pop(name) for name in LABEL_NAMES if name in feeds and name not in names), None)
    feeds = _named(layout, feeds, notes)
    feeds |= filled(layout.inputs, feeds, notes)
    for part in _parts(layout, feeds if label is None else feeds | {LABELS: label}):
        for item in layout.inputs:
            if item.name in part:
                part[item.name] = _cast(item, np.asarray(part[item.name]), where, notes)
        yield _with_axes(layout, part, notes)


MOST_CAST = 1 << 24
"""Bytes of an input that are cast at a time."""


def _parts(layout: Layout, feeds: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the samples in parts where an array is large and not of its input's type; else all at once."""
    arrays = {item.name: np.asarray(feeds[item.name]) for item in layout.inputs if item.name in feeds}
    cast = [arrays[i.name].nbytes for i in layout.inputs if i.name in arrays and arrays[i.name].dtype != i.dtype]
    batched = [item for item in layout.inputs if item.batch_axis is not None and item.name in arrays]
    first = [item for item in batched if item.batch_axis == 0 and arrays[item.name].ndim == len(item.shape or ())]
    counts = {len(arrays[item.name]) for item in first}
    if max(cast, default=0) <= MOST_CAST or first != batched or len(counts) != 1:
        yield dict(feeds)
        return
    (count,) = counts
    whole = {item.name for item in layout.inputs} - {item.name for item in first}
    step = max(1, count * MOST_CAST // max(cast))
    for start in range(0, count, step):
        yield {n: array if n in whole else np.asarray(array)[start : start + step] for n, array in feeds.items()}


def _named(layout: Layout, feeds: dict[str, Any], notes: dict[str, str]) -> dict[str, Any]:
    """Give arrays without a name that of their input, where there is but one way to."""
    names = [item.name for item in layout.inputs]
    if not feeds.keys() - set(names):
        return feeds
    if len(feeds) == len(names) == 1:
        (name,) = feeds
        if name and not name.startswith(NUMBERED):
            notes["name"] = f"array '{name}' is taken for the model's one input '{names[0]}'"
        return {names[0]: feeds[name]}
    numbered = [f"{NUMBERED}{number}" for number in range(len(names))]
    if feeds.keys() == set(numbered):
        notes["name"] = f"arrays without a name are taken for the model's inputs in their order: {', '.join(names)}"
        return dict(zip(names, (feeds[name] for name in numbered), strict=True))
    return feeds


def _cast(item: Input, array: Array, where: str, notes: dict[str, str]) -> Array:
    """Cast an array to its input's type where no value changes but for rounding; else leave it as it is."""
    known, wanted = _kind(array.dtype), _kind(item.dtype)
    if array.dtype == item.dtype or "other" in (known, wanted):
        return array
    label = f"{where}: input '{item.name}'"
    if wanted == "float":
        with np.errstate(over="ignore"):  # what does not fit is found below
            cast = array.astype(item.dtype)
        if known == "float" and array.dtype.itemsize > item.dtype.itemsize:
            lost = ~np.isfinite(cast.astype(np.float64)) & np.isfinite(array.astype(np.float64))
            if lost.any():
                raise DataError(f"{label}: holds {array[lost][0]:g}, beyond what {item.dtype} can")
        more = f"; {BYTES_NOTE}" if array.dtype == np.uint8 and array.ndim == IMAGE_RANK else ""
        notes[f"cast {item.name}"] = f"input '{item.name}': {array.dtype} cast to {item.dtype}{more}"
        return cast
    with np.errstate(invalid="ignore"):  # what does not fit is found below
        cast = array.astype(item.dtype)
    changed = cast.astype(array.dtype) != array
    if changed.any():
        raise DataError(f"{label}: holds {array[changed].flat[0]}, which {item.dtype} cannot")
    notes[f"cast {item.name}"] = f"input '{item.name}': {array.dtype} cast to {item.dtype}"
    return cast


IMAGE_RANK = 4


def _kind(dtype: np.dtype[Any]) -> str:
    if dtype.kind in "iub":
        return "integer"
    return "float" if dtype.kind == "f" or dtype.name == "bfloat16" else "other"


def _with_axes(layout: Layout, feeds: dict[str, Any], notes: dict[str, str]) -> dict[str, Any]:
    """Add the axis of the samples where one sample came without, or that of the channels where a model has one."""
    found = dict(feeds)
    short = [
        i for i in layout.inputs if i.name in feeds and i.shape is not None and feeds[i.name].ndim == len(i.shape) - 1
    ]
    for item in short:
        for axis, what in ((item.batch_axis, "samples"), (CHANNELS, "channels")):
            if axis is None or (what == "channels" and len(item.shape or ()) < IMAGE_RANK):
                continue
            array = np.expand_dims(feeds[item.name], axis)
            if _fits(item, array, fixed=what == "channels"):
                notes[f"axis {item.name}"] = (
                    f"input '{item.name}': came without an axis for {what}; axis {axis} is added"
                )
                found[item.name] = array
                break
    return found


CHANNELS = 1


def _fits(item: Input, array: Array, *, fixed: bool) -> bool:
    """Tell whether an array has an input's shape; the added axis of channels has to be one that is `fixed` as 1."""
    dims = item.shape or ()
    if fixed and dims[CHANNELS] != 1:
        return False
    pairs = zip(range(array.ndim), dims, array.shape, strict=True)
    return all(not isinstance(dim, int) or dim == size or axis == item.batch_axis for axis, dim, size in pairs)
