"""Samples cut into pieces that can be sent to where they are looked at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..runtime.session import Array
from .inputs import Input
from .samples import DEFAULT_BATCH, Batch, Samples

MOST_BYTES = 1 << 24
"""Bytes of a chunk, unless a single batch has more."""


@dataclass(frozen=True)
class Chunk:
    """A few samples that come one after the other; gone through as `Samples` are.

    Attributes
    ----------
    first : int
        The number of the first.
    parts : tuple of Batch
    inputs : tuple of Input
    fixed_batch : int or None
        As of `Samples`.
    """

    first: int
    parts: tuple[Batch, ...]
    inputs: tuple[Input, ...]
    fixed_batch: int | None

    @property
    def count(self) -> int:
        """How many samples they are."""
        return sum(part.count for part in self.parts)

    def batches(self, size: int) -> Iterator[dict[str, Array]]:
        """Yield the feeds of so many samples at a time, or of as many as the model takes."""
        for batch in self.labelled(size):
            yield batch.feeds

    def labelled(self, size: int) -> Iterator[Batch]:
        """Yield the same with labels."""
        for part in self.parts:
            step = part.count if self.fixed_batch is not None or part.count <= size else size
            for start in range(0, part.count, step):
                stop = min(start + step, part.count)
                feeds = {item.name: item.take(part.feeds[item.name], start, stop) for item in self.inputs}
                yield Batch(feeds, None if part.labels is None else part.labels[start:stop], stop - start)


def chunks(samples: Samples, size: int = DEFAULT_BATCH, most_bytes: int = MOST_BYTES) -> Iterator[Chunk]:
    """Cut samples into chunks of about `size`, fewer where they are large.

    Where the cuts are depends on the samples alone: what is added up chunk by chunk is the same whoever does it.
    """
    one = next(samples.labelled(1))
    bytes_each = sum(array.nbytes for array in one.feeds.values()) // one.count
    most = max(1, min(size, most_bytes // max(bytes_each, 1)))
    first = count = 0
    waiting: list[Batch] = []
    for batch in samples.labelled(most):
        if waiting and count + batch.count > most:
            yield Chunk(first, tuple(waiting), samples.inputs, samples.fixed_batch)
            first, count, waiting = first + count, 0, []
        waiting.append(batch)
        count += batch.count
    yield Chunk(first, tuple(waiting), samples.inputs, samples.fixed_batch)
