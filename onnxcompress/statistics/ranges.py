"""What calibration needs to know of tensors: extremes, their mean over samples, and histograms, in one pass.

Samples are run one at a time, however they come: an engine may add in another order for another batch size, and only
so are all figures the same, to the last bit, whatever the batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from ..errors import DataError
from ..machines.workers import Here, Workers
from ..progress import Progress
from ..samples.samples import Samples
from .calibration import COUNTED, Method, clipped_range
from .extremes import ExtremesCollector
from .fetch import fetch
from .histogram import Counter, Histogram, to_float32
from .observation import Observation
from .summaries import Range
from .taps import find_values

if TYPE_CHECKING:
    from ..runtime.session import Array

LIMIT_BYTES = 150_000_000
"""How many bytes of tensors are fetched at once; each lot takes one pass over the samples."""


def collect_ranges(
    model: ir.Model,
    samples: Samples,
    tensors: Sequence[str],
    *,
    progress: Progress,
    method: Method = "minmax",
    symmetric: bool = False,
    levels: int = 256,
    limit_bytes: int = LIMIT_BYTES,
) -> dict[str, Range]:
    """Observe tensors and return their ranges; see `observe` and `clipped_range`."""
    seen = observe(model, samples, tensors, progress=progress, histograms=method in COUNTED, limit_bytes=limit_bytes)
    return {name: clipped_range(seen[name], method, symmetric=symmetric, levels=levels) for name in tensors}


def observe(
    model: ir.Model,
    samples: Samples,
    tensors: Sequence[str],
    *,
    progress: Progress,
    histograms: bool = False,
    limit_bytes: int = LIMIT_BYTES,
    workers: Workers | None = None,
) -> dict[str, Observation]:
    """Go through the samples once and observe tensors.

    Parameters
    ----------
    model : onnx_ir.Model
        Not changed.
    samples : Samples
    tensors : sequence of str
        Names of values of the outer graph: inputs, initializers and what nodes compute, of any numeric type.
    progress : callable
        Called as ``progress(what, done, total)``; `total` is 0 while it is not known.
    histograms : bool
        Also count values; of a constant all, of others see `Counter`.
    limit_bytes : int
        How many bytes of tensors are fetched at once; each lot takes one pass over the samples.
    workers : Workers, optional
        Who goes through them; this process by default.

    Returns
    -------
    dict of str to Observation

    Raises
    ------
    PassError
        A tensor is not in the model, not numeric, or lives inside an inner graph.
    DataError
        A tensor holds NaN or infinity; the message names it and the sample, counted from 0.
    """
    constants, tapped = find_values(model, tensors)
    found: dict[str, Observation] = {}
    for name, array in constants.items():
        found[name] = observe_constant(name, array, histograms=histograms)
    if not tapped:
        return found
    return found | fetch(
        model,
        samples,
        tapped,
        partial(_Observer, histograms=histograms),
        lambda _, old, new: old.merge(new),
        what="ranges",
        progress=progress,
        limit_bytes=limit_bytes,
        workers=workers or Here(),
    )


def observe_constant(name: str, array: Array, *, histograms: bool = False) -> Observation:
    """Observe a constant as if it were one sample's tensor, but count all of its values."""
    observer = _Observer([name], histograms=False)
    observer.add([plain(array)], None)
    seen = observer.result()[name]
    histogram = Histogram.of(to_float32(plain(array))) if histograms else None
    return Observation(seen.extremes, seen.means, histogram)


def _single(arrays: list[Array], count: int) -> Iterator[list[Array]]:
    """Split what a model of a fixed batch made into samples; what has no batch axis belongs to the first."""
    if count == 1:
        yield [plain(array) for array in arrays]
        return
    batched = [bool(array.ndim) and len(array) == count for array in arrays]
    for index in range(count):
        pairs = zip(arrays, batched, strict=True)
        yield [plain(a[index] if split else a if not index else a.reshape(-1)[:0]) for a, split in pairs]


def plain(array: Array) -> Array:
    """Return types that numpy has no dtype of its own for (bfloat16, int4) as float32."""
    return array.astype(np.float32) if array.dtype.kind == "V" or array.dtype == np.float16 else array


class _Observer:
    """Observes the same tensors, sample by sample."""

    def __init__(self, names: list[str], *, histograms: bool) -> None:
        self.names = names
        self._counters = [Counter() for _ in names] if histograms else None
        self._extremes = ExtremesCollector(len(names))

    def add(self, arrays: list[Array], sample: int | None) -> None:
        """Observe one sample's tensors, or a constant."""
        row = self._extremes.row()
        with np.errstate(invalid="ignore"):
            for index, array in enumerate(arrays):
                if array.size:
                    row[:, index] = array.min(), array.max()
        # Numpy's smallest and largest of values with a NaN among them is NaN.
        if not np.isfinite(row).all():
            _check(self.names, arrays, row, sample)
        if self._counters is not None:
            for counter, array in zip(self._counters, arrays, strict=True):
                counter.add(array)

    def observe(self, arrays: list[Array], first: int, count: int) -> None:
        """Observe what a model made of `count` samples; keep none of the arrays."""
        for index, parts in enumerate(_single(arrays, count)):
            self.add(parts, first + index)

    def result(self) -> dict[str, Observation]:
        """Return what was observed of each tensor."""
        seen, counters = self._extremes.result(), self._counters
        return {
            name: Observation(*seen.column(index), None if counters is None else counters[index].histogram)
            for index, name in enumerate(self.names)
        }


def _check(names: list[str], arrays: list[Array], row: Array, sample: int | None) -> None:
    for index, array in enumerate(arrays):
        if array.size and not np.isfinite(row[:, index]).all():
            refuse(names[index], array, sample, 1)


def refuse(name: str, array: Array, first: int | None, count: int) -> None:
    """Say which of `count` samples holds NaN or infinity, as far as the tensor's own axis 0 tells."""
    if first is not None and count > 1 and array.ndim and len(array) == count:
        bad = ~np.isfinite(plain(array).reshape(count, -1)).all(axis=1)
        first += int(np.argmax(bad))
    where = "" if first is None else f" for sample {first}"
    raise DataError(f"tensor '{name}' holds NaN or infinity{where}")
