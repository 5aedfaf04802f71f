"""Samples as they are read: rows of files, in buckets of one shape, a batch at a time.

Rows are read and not mapped: what has been read of a mapped file stays in memory as long as the system likes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

MOST_OPEN = 64
"""Files of an array that are open at a time."""

Indices = Any  # numpy.ndarray of int64; numpy's own types need no import of typing stubs here


class Rows:
    """An array whose rows lie in files, each at a place of its own.

    Parameters
    ----------
    files : sequence of str
    file, offset : numpy.ndarray
        For each row, which of the files, and where in it.
    dtype, shape : str, sequence of int
        Of one row.
    axis : int
        Where the model wants the axis that counts the samples.
    shared : bool
        One row serves all samples.
    """

    def __init__(
        self,
        files: Sequence[str],
        file: Indices,
        offset: Indices,
        *,
        dtype: str,
        shape: Sequence[int],
        axis: int = 0,
        shared: bool = False,
    ) -> None:
        self.files, self.file, self.offset = list(files), file, offset
        self.dtype, self.shape, self.axis, self.shared = dtype, tuple(shape), axis, shared
        self._open: dict[int, IO[bytes]] = {}

    def read(self, picked: Indices) -> Any:
        """Return the rows with these numbers, as the model wants them."""
        picked = [0] if self.shared else picked
        rows = np.empty((len(picked), *self.shape), np.dtype(self.dtype))
        size = rows.itemsize * math.prod(self.shape)
        memory = rows.reshape(-1).view(np.uint8)
        for place, number in enumerate(picked):
            handle = self._handle(int(self.file[number]))
            handle.seek(int(self.offset[number]))
            if size and handle.readinto(memory[place * size : (place + 1) * size]) != size:  # type: ignore[attr-defined]
                raise OSError(f"{self.files[int(self.file[number])]} has become shorter while it was read")
        return rows[0] if self.shared else np.ascontiguousarray(np.moveaxis(rows, 0, self.axis))

    def _handle(self, number: int) -> IO[bytes]:
        if number not in self._open:
            if len(self._open) == MOST_OPEN:
                self.close()
            self._open[number] = Path(self.files[number]).open("rb", buffering=0)  # noqa: SIM115 - `close` does
        return self._open[number]

    def close(self) -> None:
        """Close the files."""
        for handle in self._open.values():
            handle.close()
        self._open.clear()

    def described(self) -> dict[str, Any]:
        """Return what `read_buckets` makes it of again, beside the arrays."""
        names = ("files", "dtype", "shape", "axis", "shared")
        return {name: getattr(self, name) for name in names}


class Bucket:
    """Samples of one shape: their rows by input, the numbers of those that are trained on, and of those held out."""

    def __init__(self, rows: dict[str, Rows], trained: Indices, held: Indices) -> None:
        self.rows, self.trained, self.held = rows, trained, held

    def read(self, picked: Indices) -> dict[str, Any]:
        """Return feeds of the samples with these numbers."""
        return {name: rows.read(picked) for name, rows in self.rows.items()}


Batch = tuple[Bucket, Indices]
"""A bucket, and the numbers of some of its samples."""


def read_buckets(job: dict[str, Any], folder: Path) -> list[Bucket]:
    """Return the samples of a job."""
    places = np.load(folder / "places.npz")
    buckets = []
    for number, described in enumerate(job["buckets"]):
        rows = {
            name: Rows(file=places[f"{number}_{i}_file"], offset=places[f"{number}_{i}_offset"], **one)
            for i, (name, one) in enumerate(described.items())
        }
        buckets.append(Bucket(rows, places[f"{number}_trained"], places[f"{number}_held"]))
    return buckets


def step_count(buckets: Sequence[Bucket], size: int, fixed: int | None = None) -> int:
    """Return the steps of one epoch."""
    return sum(_parts(len(bucket.trained), size, fixed) for bucket in buckets)


def _parts(samples: int, size: int, fixed: int | None) -> int:
    return 0 if not samples else max(samples // size, 1) if fixed else math.ceil(samples / size)


def batches(buckets: Sequence[Bucket], size: int, seed: int, epoch: int, fixed: int | None = None) -> Iterator[Batch]:
    """Go through all samples once, in an order that seed and epoch alone decide.

    Each bucket is split into nearly equal batches: every sample once, and no tiny batch at the end. Where the model
    takes a `fixed` number at a time, all are multiples of it, so that some samples wait for another epoch, or come
    twice where there are too few.
    """
    random = np.random.default_rng([seed, epoch])
    found: list[Batch] = []
    for bucket in buckets:
        order = random.permutation(bucket.trained)
        parts = _parts(len(order), size, fixed)
        if fixed and parts:
            order = np.resize(order, min(parts * size, math.ceil(len(order) / fixed) * fixed))
        found += [(bucket, np.sort(part)) for part in (np.array_split(order, parts) if parts else ())]
    if len(buckets) > 1:
        found = [found[i] for i in random.permutation(len(found))]
    yield from found


def held_batches(buckets: Sequence[Bucket], size: int, fixed: int | None = None) -> Iterator[Batch]:
    """Go through the samples that are held out; where the batch is `fixed`, the last one is filled up with others."""
    size = fixed or size
    for bucket in buckets:
        for start in range(0, len(bucket.held), size):
            picked = bucket.held[start : start + size]
            if fixed and len(picked) < size:
                picked = np.resize(np.concatenate([picked, bucket.held]), size)
            yield bucket, picked
