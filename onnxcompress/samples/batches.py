"""A few samples for one run: taken apart and put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..runtime.session import Array
from .inputs import Input


@dataclass(frozen=True)
class Batch:
    """Feeds for one run, the labels of its samples (None without), and how many samples they are."""

    feeds: dict[str, Array]
    labels: Array | None
    count: int


def part_of(inputs: Sequence[Input], batch: Batch, start: int, stop: int) -> Batch:
    """Return samples `start` to `stop` of a batch, as views."""
    if start == 0 and stop >= batch.count:
        return batch
    feeds = {item.name: item.take(batch.feeds[item.name], start, stop) for item in inputs}
    labels = None if batch.labels is None else batch.labels[start:stop]
    return Batch(feeds, labels, stop - start)


def join(inputs: Sequence[Input], parts: Sequence[Batch]) -> Batch:
    """Join parts that are known to fit."""
    if len(parts) == 1:
        return parts[0]
    feeds = {}
    for item in inputs:
        arrays = [part.feeds[item.name] for part in parts]
        feeds[item.name] = arrays[0] if item.batch_axis is None else np.concatenate(arrays, axis=item.batch_axis)
    labels = [part.labels for part in parts if part.labels is not None]
    return Batch(feeds, np.concatenate(labels) if labels else None, sum(part.count for part in parts))


def shapes_of(feed: dict[str, Array]) -> dict[str, tuple[int, ...]]:
    """Return the shape of each input's array."""
    return {name: array.shape for name, array in feed.items()}


def joinable(inputs: Sequence[Input], one: Batch, other: Batch) -> bool:
    """Tell whether two batches make one: shapes agree but for the number of samples, and what is shared is the same."""
    if one.labels is not None and other.labels is not None and one.labels.shape[1:] != other.labels.shape[1:]:
        return False
    for item in inputs:
        a, b = one.feeds[item.name], other.feeds[item.name]
        if item.batch_axis is None:
            if not np.array_equal(a, b):
                return False
        elif np.delete(a.shape, item.batch_axis).tolist() != np.delete(b.shape, item.batch_axis).tolist():
            return False
    return True
