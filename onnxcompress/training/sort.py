"""Samples sorted into buckets of one shape: what there is, before anything is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from ..samples.inputs import Input
from ..samples.samples import Batch, Samples

Shape = tuple[int, ...]
Key = tuple[tuple[str, Shape | bytes], ...]
"""For each input the shape of one sample, lengths rounded up where they are padded; the bytes of what all share."""

MASK = "mask"
"""What the name of an attention mask has in it: 1 for a token, 0 for padding."""


@dataclass
class Sort:
    """One bucket: how many samples, and the shape of one for each input, padded."""

    samples: int
    shapes: dict[str, Shape]


@dataclass(frozen=True)
class Sorted:
    """Samples, and the buckets that they fall into.

    Attributes
    ----------
    samples : Samples
    sorts : dict of Key to Sort
    padded : dict of str to int
        Inputs that are padded with zeros, and the axis; empty where nothing tells the model what is padding.
    """

    samples: Samples
    sorts: dict[Key, Sort]
    padded: dict[str, int]

    @property
    def count(self) -> int:
        """How many samples there are."""
        return sum(sort.samples for sort in self.sorts.values())

    def examples(self) -> dict[str, npt.NDArray[Any]]:
        """Return a sample of zeros, without memory of its own, for each input whose shape never changes."""
        found = {}
        for item in self.samples.inputs:
            shapes = {sort.shapes[item.name] for sort in self.sorts.values()}
            if len(shapes) == 1:
                found[item.name] = np.broadcast_to(np.zeros((), item.dtype), (1, *shapes.pop()))
        return found

    @property
    def tokens(self) -> int:
        """How many tokens the longest sample of text has; 0 where no input is a list of integers."""
        shapes = [sort.shapes[item.name] for sort in self.sorts.values() for item in self.samples.inputs
                  if item.batch_axis is not None and item.dtype.kind == "i"]  # fmt: skip
        return max((shape[0] for shape in shapes if len(shape) == 1), default=0)

    def key(self, batch: Batch) -> Key:
        """Return which bucket the samples of a piece belong to."""
        return _key(self.samples.inputs, batch, self.padded)


def sort_samples(samples: Samples) -> Sorted:
    """Go through the samples once, and see which shapes there are.

    Samples of several lengths are padded to a common one only where the model has an attention mask; else each length
    has a bucket of its own.

    Raises
    ------
    DataError
        There are none, or they are text.
    """
    text = next((item.name for item in samples.inputs if item.dtype.kind == "O"), None)
    if text is not None:
        raise DataError(f"input '{text}' takes text, which has no gradient; training needs a model that takes numbers")
    padded = find_padded(samples.inputs)
    sorts: dict[Key, Sort] = {}
    for batch, places in samples.lying():
        key = _key(samples.inputs, batch, padded)
        shapes = {item.name: _one(item, batch.feeds[item.name]) for item in samples.inputs}
        sort = sorts.setdefault(key, Sort(0, shapes))
        sort.samples += len(places)
        sort.shapes = {name: tuple(map(max, shape, sort.shapes[name])) for name, shape in shapes.items()}
    if not sorts:
        raise DataError(f"{samples.description}: there are no samples to train on")
    return Sorted(samples, sorts, padded)


def find_padded(inputs: tuple[Input, ...]) -> dict[str, int]:
    """Return the inputs that can be padded, and along which axis: those of integers as long as an attention mask."""
    masks = [i for i in inputs if MASK in i.name.lower() and i.shape is not None and len(i.shape) == 2]
    mask = next((i for i in masks if i.shape is not None and not isinstance(i.shape[1], int)), None)
    if mask is None or mask.shape is None:
        return {}
    return {
        item.name: 1
        for item in inputs
        if item.shape is not None and len(item.shape) == 2 and item.batch_axis == 0 and item.shape[1] == mask.shape[1]
    }


def rounded(length: int) -> int:
    """Return a length of at most a quarter more, so that there are few: multiples of 8, from 64 on of 16, and so on."""
    step = max(8, 1 << max((length - 1).bit_length() - 3, 0))
    return -(-length // step) * step


def _one(item: Input, array: npt.NDArray[Any]) -> Shape:
    """Return the shape of one sample."""
    if item.batch_axis is None:
        return array.shape
    return tuple(extent for axis, extent in enumerate(array.shape) if axis != item.batch_axis)


def _key(inputs: tuple[Input, ...], batch: Batch, padded: Mapping[str, int]) -> Key:
    parts: list[tuple[str, Shape | bytes]] = []
    for item in inputs:
        array = batch.feeds[item.name]
        shape: Shape | bytes = _one(item, array)
        if item.name in padded:
            shape = tuple(rounded(extent) for extent in _one(item, array))
        elif item.batch_axis is None:
            shape = f"{array.shape}".encode() + np.ascontiguousarray(array).tobytes()
        parts.append((item.name, shape))
    return tuple(parts)


def chunks(places: npt.NDArray[np.int64], size: int) -> Iterator[npt.NDArray[np.int64]]:
    """Yield a few places at a time."""
    for start in range(0, len(places), size):
        yield places[start : start + size]
