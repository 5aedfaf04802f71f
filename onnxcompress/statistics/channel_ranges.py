"""Where to clip each index of an axis, over the samples: what the same method says of that slice alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ..errors import DataError
from ..machines.workers import Here, Workers
from ..progress import Progress
from ..samples.samples import Samples
from .calibration import COUNTED, Method, clipped_range
from .channel_histogram import MOST_CHANNELS, ChannelCounter, ChannelHistogram
from .extremes import Extremes, ExtremesCollector
from .fetch import fetch
from .observation import Observation
from .ranges import LIMIT_BYTES, observe_constant, plain, refuse
from .summaries import check_axis
from .taps import find_values, measure_shapes

if TYPE_CHECKING:
    from ..runtime.session import Array

Key = tuple[str, int]


@dataclass(frozen=True)
class ChannelRange:
    """The range of each index of an axis.

    Attributes
    ----------
    low, high : ndarray of float64, shape (channels,)
    """

    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]


class Part(NamedTuple):
    """A tensor's axis, and which of its indices, from `start` up to `stop` (None: to the end)."""

    tensor: str
    axis: int
    start: int = 0
    stop: int | None = None


@dataclass(frozen=True)
class ChannelObservation:
    """What the samples showed of each channel; merging is associative and commutative, to the last bit.

    Attributes
    ----------
    extremes : Extremes
    histogram : ChannelHistogram or None
        None unless asked for.
    length : int
        Of the axis, which may have more channels.
    """

    extremes: Extremes
    histogram: ChannelHistogram | None
    length: int

    def merge(self, other: ChannelObservation) -> ChannelObservation:
        """Return the observation of both."""
        both = self.histogram and other.histogram and self.histogram.merge(other.histogram)
        return ChannelObservation(self.extremes.merge(other.extremes), both, self.length)

    def channels(self) -> Iterator[Observation]:
        """Yield what was seen of each channel."""
        count = len(self.extremes.low)
        histograms = self.histogram.split(count) if self.histogram else [None] * count
        for index in range(count):
            yield Observation(*self.extremes.column(index), histograms[index])


def collect_channel_ranges(
    model: ir.Model,
    samples: Samples,
    channels: Sequence[Key],
    *,
    progress: Progress,
    method: Method = "minmax",
    symmetric: bool = False,
    levels: int = 256,
    limit_bytes: int = LIMIT_BYTES,
    workers: Workers | None = None,
) -> dict[Key, ChannelRange]:
    """Find the range of each index of an axis, over the samples and all other axes.

    Parameters
    ----------
    model, samples, progress, limit_bytes, workers
        As for `observe`.
    channels : sequence of (str, int)
        Tensor names, each with an axis (negative counts from the last).
    method, symmetric, levels
        As for `clipped_range`. The methods that count values go through the samples once for `MOST_CHANNELS`
        channels, so that memory does not grow with the model.

    Returns
    -------
    dict of (str, int) to ChannelRange
        What `collect_ranges` would say if each index were a tensor of its own. Zeros for an index that never held a
        value.

    Raises
    ------
    PassError
        As `observe`, or a tensor has no such axis.
    DataError
        A tensor holds NaN or infinity, or the axis has different lengths for different samples.
    """
    counted = method in COUNTED
    constants, tapped = find_values(model, [name for name, _ in channels])
    found: dict[Key, list[tuple[float, float]]] = {key: [] for key in channels}

    def clip(seen: Observation) -> tuple[float, float]:
        clipped = clipped_range(seen, method, symmetric=symmetric, levels=levels)
        return clipped.low, clipped.high

    for key in found:
        if key[0] in constants:
            array = constants[key[0]]
            slices = np.moveaxis(array, check_axis(key, array.ndim), 0)
            found[key] = [clip(observe_constant(key[0], each, histograms=counted)) for each in slices]
    for lot in _lots(model, samples, [key for key in found if key[0] in tapped], counted):
        seen = observe_channels(
            model, samples, lot, progress=progress, histograms=counted, limit_bytes=limit_bytes, workers=workers
        )
        for part in lot:
            found[part[:2]] += [clip(each) for each in seen.pop(part).channels()]
    pairs = {key: np.array(ranges, np.float64).reshape(-1, 2) for key, ranges in found.items()}
    return {key: ChannelRange(pairs[key][:, 0], pairs[key][:, 1]) for key in channels}


def _lots(model: ir.Model, samples: Samples, keys: list[Key], counted: bool) -> list[list[Part]]:
    """Split axes into what is observed in one pass over the samples."""
    if not keys or not counted:
        return [[Part(*key) for key in keys]] if keys else []
    shapes = measure_shapes(model, samples, list(dict.fromkeys(name for name, _ in keys)))
    lots: list[list[Part]] = [[]]
    used = 0
    for key in keys:
        length = shapes[key[0]][check_axis(key, len(shapes[key[0]]))]
        for start in range(0, max(length, 1), MOST_CHANNELS):
            stop = min(length, start + MOST_CHANNELS)
            if used + stop - start > MOST_CHANNELS:
                lots.append([])
                used = 0
            lots[-1].append(Part(*key, start, stop))
            used += stop - start
    return lots


def observe_channels(
    model: ir.Model,
    samples: Samples,
    parts: Sequence[Part],
    *,
    progress: Progress,
    histograms: bool = False,
    limit_bytes: int = LIMIT_BYTES,
    workers: Workers | None = None,
) -> dict[Part, ChannelObservation]:
    """Go through the samples once and observe the channels of tensors that are not constant; see `observe`."""
    axes: dict[str, list[Part]] = {}
    for part in parts:
        axes.setdefault(part.tensor, []).append(part)
    return fetch(
        model,
        samples,
        list(axes),
        partial(_ChannelObserver, axes=axes, lengths={}, histograms=histograms),
        _merged,
        what="channel ranges",
        progress=progress,
        limit_bytes=limit_bytes,
        workers=workers or Here(),
    )


def _merged(part: Part, old: ChannelObservation, new: ChannelObservation) -> ChannelObservation:
    _check_lengths(part, old.length, new.length)
    return old.merge(new)


def _check_lengths(part: Part, known: int, length: int) -> None:
    if known != length:
        lengths = f"{known} and {length}"
        raise DataError(
            f"tensor '{part.tensor}': axis {part.axis} has different lengths for different samples: {lengths}"
        )


class _ChannelObserver:
    """Observes the same tensors' axes, sample by sample.

    `lengths` is shared by all observers in a process: an axis must have the same length for each sample.
    """

    def __init__(
        self, names: list[str], axes: dict[str, list[Part]], lengths: dict[Part, int], *, histograms: bool
    ) -> None:
        self._names = names
        self._axes = axes
        self._lengths = lengths
        self._histograms = histograms
        self._extremes: dict[Part, ExtremesCollector] = {}
        self._counters: dict[Part, ChannelCounter] = {}

    def observe(self, arrays: list[Array], first: int, count: int) -> None:
        """See `Observer`."""
        for name, array in zip(self._names, arrays, strict=True):
            for part in self._axes[name]:
                axis = check_axis(part[:2], array.ndim)
                if axis and count > 1 and len(array) == count:  # a fixed batch, as in `observe`
                    for index in range(count):
                        self._add(part, plain(array[index : index + 1]), axis, first + index, 1)
                else:
                    self._add(part, plain(array), axis, first, count)

    def _add(self, part: Part, array: Array, axis: int, first: int, count: int) -> None:
        length = array.shape[axis]
        _check_lengths(part, self._lengths.setdefault(part, length), length)
        # Three axes, however many there are: numpy is slow over several at once.
        inner = math.prod(array.shape[axis + 1 :])
        cube = np.ascontiguousarray(array).reshape(-1 if array.size else 0, length, inner)[:, part.start : part.stop]
        if part not in self._extremes:
            self._extremes[part] = ExtremesCollector(cube.shape[1])
            self._counters[part] = ChannelCounter()
        row = self._extremes[part].row()
        if not cube.size:
            return
        with np.errstate(invalid="ignore"):
            row[0], row[1] = cube.min(axis=2).min(axis=0), cube.max(axis=2).max(axis=0)
        if not np.isfinite(row).all():
            refuse(part.tensor, array, first, count)
        if self._histograms:
            self._counters[part].add(cube)

    def result(self) -> dict[Part, ChannelObservation]:
        """Return what was observed of each part."""
        found = {}
        for part, collector in self._extremes.items():
            histogram = self._counters[part].histogram if self._histograms else None
            found[part] = ChannelObservation(collector.result(), histogram, self._lengths[part])
        return found
