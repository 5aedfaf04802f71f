"""Gram matrices: second moments of a tensor's channels over the samples, in the memory of the matrices alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ..errors import DataError, PassError
from ..machines.workers import Here, Workers
from ..progress import Progress, silent
from ..runtime.session import Array
from ..samples.chunks import Chunk, chunks
from ..samples.samples import Samples
from ..scratch import temporary_folder
from .segments import SegmentedRun

Matrix = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.int64]

ROWS = 16384
"""Positions of images that are enough for a matrix of channels; of each sample, its share is drawn."""

BLOCK_ROWS = 4096
"""Rows that are multiplied at a time, at most: always the same ones, however the samples are split into batches."""

BLOCK_VALUES = 1 << 22
"""Values that are multiplied at a time, at most, unless a few rows have more."""

LEAST_ROWS = 256

CHUNK, CHUNK_BYTES = 128, 1 << 26
"""Samples whose rows are added up by themselves, and the bytes that they have at most."""

Read = tuple[str, int, int]
"""A node's first output, the number of one of its inputs, and an axis of that."""


@dataclass(frozen=True)
class Moments:
    """Second moments of two sets of columns over the same rows, perhaps of several such pairs at once.

    Attributes
    ----------
    own : (…, k, k) float64 array
        Σ x xᵀ over the rows.
    cross : (…, m, k) float64 array
        Σ y xᵀ.
    count : int
        How many rows.
    """

    own: Matrix
    cross: Matrix
    count: int

    def errors(self, matrix: Matrix) -> Matrix:
        """Return Σ|y - S x|² for a matrix S (…, m, k), less Σ|y|²: one for each pair of sets."""
        return np.asarray(((matrix @ self.own - 2 * self.cross) * matrix).sum((-1, -2)), np.float64)

    def covariance(self) -> Matrix:
        """Return the covariance of x without its last column, which is one of ones."""
        mean = self.own[..., :-1, -1] / max(self.count, 1)
        found = self.own[..., :-1, :-1] / max(self.count, 1)
        found -= mean[..., :, None] * mean[..., None, :]
        return found

    def merge(self, other: Moments) -> Moments:
        """Return the moments of both sets of rows (the same in either order, to rounding)."""
        return Moments(self.own + other.own, self.cross + other.cross, self.count + other.count)


class Gram:
    """Adds up `Moments` of rows as they come.

    Rows are gathered into blocks of a fixed size before they are multiplied, so that the result is the same to the
    last bit however they were handed over.
    """

    def __init__(self) -> None:
        self._moments: Moments | None = None
        self._waiting: list[tuple[Array, Array]] = []
        self._rows = 0
        self._block = BLOCK_ROWS

    def add(self, x: Array, y: Array) -> None:
        """Take rows of x (…, n, k) and of y (…, n, m)."""
        self._waiting.append((x, y))
        self._rows += x.shape[-2]
        of_one = (x.size + y.size) // max(x.shape[-2], 1)
        self._block = max(LEAST_ROWS, min(BLOCK_ROWS, BLOCK_VALUES // max(of_one, 1)))
        if self._rows >= self._block:
            self._flush()

    def moments(self) -> Moments:
        """Return the moments of all rows so far."""
        self._flush()
        found = self._moments or Moments(np.zeros((0, 0)), np.zeros((0, 0)), 0)
        return found if not self._rows else self._with(found, *self._gathered())

    def _gathered(self) -> tuple[Array, Array]:
        x, y = (np.concatenate(parts, -2) for parts in zip(*self._waiting, strict=True))
        return x, y

    def _flush(self) -> None:
        """Multiply the whole blocks among the waiting rows."""
        if self._rows < self._block:
            return
        x, y = self._gathered()
        whole = self._rows - self._rows % self._block
        for start in range(0, whole, self._block):
            block = slice(start, start + self._block)
            self._moments = self._with(self._moments, x[..., block, :], y[..., block, :])
        self._waiting, self._rows = [(x[..., whole:, :], y[..., whole:, :])], self._rows - whole

    def _with(self, moments: Moments | None, x: Array, y: Array) -> Moments:
        x, y = x.astype(np.float64, copy=False), y.astype(np.float64, copy=False)
        new = Moments(np.swapaxes(x, -1, -2) @ x, np.swapaxes(y, -1, -2) @ x, x.shape[-2])
        return new if moments is None or not moments.count else moments.merge(new)


def rows_of(array: Array, axis: int) -> Array:
    """Return one row for each position of all other axes, samples first.

    >>> rows_of(np.arange(8).reshape(1, 2, 4), 1).shape
    (4, 2)
    """
    return np.moveaxis(array, axis, -1).reshape(-1, array.shape[axis])


def draw(first: int, samples: int, count: int, most: int) -> Indices:
    """Draw up to `most` of `count` positions for each of some samples, numbered from `first`.

    The same for a sample whatever batch it comes in.

    Returns
    -------
    (samples, n) int array
    """
    if count <= most:
        return np.tile(np.arange(count), (samples, 1))
    return np.stack([_drawn(first + i, count, most) for i in range(samples)])


@lru_cache(maxsize=4096)
def _drawn(sample: int, count: int, most: int) -> Indices:
    return np.sort(np.random.default_rng(sample).choice(count, most, replace=False))


def rows_at(array: Array, at: Indices) -> Array:
    """Return what stands at some spatial positions (samples, n) of each sample, as (samples · n, channels)."""
    taken = np.take_along_axis(array.reshape(*array.shape[:2], -1), at[:, None], 2)
    return np.asarray(taken.swapaxes(1, 2).reshape(at.size, array.shape[1]))


def _drawn_rows(arrays: Iterable[Array], axis: int, first: int, each: int) -> Iterator[Array]:
    """Yield rows; of images, where each sample has many, only some. `first` is the number of the first sample."""
    for array in arrays:
        image = axis == 1 and array.ndim > 3
        at = draw(first, len(array), math.prod(array.shape[2:]), each) if image else None
        yield rows_of(array, axis) if at is None else rows_at(array, at)
        first += len(array)


def with_one(rows: Array) -> Array:
    """Append a column of ones."""
    return np.concatenate([rows, np.ones((*rows.shape[:-1], 1), rows.dtype)], -1)


def grams_of(parts: Iterable[tuple[Array, Array, Flags]], name: str) -> tuple[Moments, Moments]:
    """Add up the moments of rows (x, y) that come with a flag each: of those without it, and of those with it.

    Raises
    ------
    DataError
        A tensor (called `name`) holds NaN or infinity.
    """
    grams = Gram(), Gram()
    with np.errstate(invalid="ignore", over="ignore"):
        for x, y, flags in parts:
            for gram, chosen in zip(grams, (~flags, flags), strict=True):
                if chosen.any():
                    gram.add(x[..., chosen, :], y[..., chosen, :])
        found = grams[0].moments(), grams[1].moments()
    if not all(np.isfinite(m.own).all() and np.isfinite(m.cross).all() for m in found):
        raise DataError(f"tensor '{name}' holds NaN or infinity for some sample")
    return found


def collect_grams(
    model: ir.Model,
    samples: Samples,
    reads: list[Read],
    *,
    progress: Progress = silent,
    workers: Workers | None = None,
) -> dict[Read, Moments]:
    """Find the Gram matrix, along an axis, of what nodes read.

    Parameters
    ----------
    model : onnx_ir.Model
        Not changed.
    samples : Samples
    reads : list of (str, int, int)
        The first output of a node of the outer graph, the number of one of its inputs, and the axis of that tensor.
    progress : callable
        Called as ``progress(what, done, total)``.
    workers : Workers, optional
        Who goes through the samples, a chunk at a time; this process by default.

    Returns
    -------
    dict of (str, int, int) to Moments
        `Moments.own` is the Gram matrix of the tensor's positions along the axis, and of a one.

    Raises
    ------
    DataError
        A tensor holds NaN or infinity.
    PassError
        There is no such node or input, or it does not depend on the model's inputs.
    """
    order = {str(node.outputs[0].name): number for number, node in enumerate(model.graph) if node.outputs}
    reads = sorted(reads, key=lambda read: order.get(read[0], -1))
    found: dict[Read, Moments] = {}
    total, done = samples.count, 0
    pieces = chunks(samples, CHUNK, CHUNK_BYTES) if reads else ()
    for count, seen in (workers or Here()).map(AddsUp, (model, reads, -(-ROWS // max(total, 1))), pieces):
        # The sums are rounded, so that they are the same only because the chunks are, and their order.
        for read, new in seen.items():
            found[read] = found[read].merge(new) if read in found else new
        done += count
        progress("grams", done, total)
    return found


class AddsUp:
    """Adds up the Gram matrices of chunks of samples, wherever it is; of an image, `each` positions."""

    def __init__(self, model: ir.Model, reads: list[Read], each: int) -> None:
        self._model, self._reads, self._each = model, reads, each
        self._nodes = {str(node.outputs[0].name): node for node in model.graph if node.outputs}

    def __call__(self, chunk: Chunk) -> tuple[int, dict[Read, Moments]]:
        """Return how many samples there were, and their moments."""
        found: dict[Read, Moments] = {}
        with temporary_folder() as folder:
            segmented = SegmentedRun(self._model, chunk, folder)
            for name, index, axis in self._reads:
                segmented.advance(name)
                node = self._nodes[name]
                tensor = node.inputs[index] if index < len(node.inputs) else None
                if tensor is None or not segmented.has(str(tensor.name)):
                    raise PassError(f"node '{name}': its input {index} is constant or missing")
                rows = _drawn_rows(segmented.fetch(str(tensor.name)), axis, chunk.first, self._each)
                parts = ((with_one(r), r[:, :0], np.zeros(len(r), bool)) for r in rows)
                found[name, index, axis] = grams_of(parts, str(tensor.name))[0]
        return chunk.count, found
