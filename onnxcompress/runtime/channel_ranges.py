"""The smallest and the largest value of each index of an axis, over the samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ..errors import DataError, PassError
from ..progress import Progress
from .fetch import fetch
from .ranges import LIMIT_BYTES, plain, refuse
from .samples import Samples
from .taps import find_values

if TYPE_CHECKING:
    from .session import Array


@dataclass(frozen=True)
class ChannelRange:
    """The smallest and the largest value of each index of an axis; ``(inf, -inf)`` where there was none.

    Attributes
    ----------
    low, high : ndarray of float64, shape (channels,)
    """

    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]

    def merge(self, other: ChannelRange) -> ChannelRange:
        """Return the ranges of both."""
        return ChannelRange(np.minimum(self.low, other.low), np.maximum(self.high, other.high))


def collect_channel_ranges(
    model: ir.Model,
    samples: Samples,
    channels: Sequence[tuple[str, int]],
    *,
    progress: Progress,
    limit_bytes: int = LIMIT_BYTES,
) -> dict[tuple[str, int], ChannelRange]:
    """Find the smallest and largest value for each index of an axis, over the samples and all other axes.

    Parameters
    ----------
    model, samples, progress, limit_bytes
        As for `observe`.
    channels : sequence of (str, int)
        Tensor names, each with an axis (negative counts from the last).

    Returns
    -------
    dict of (str, int) to ChannelRange
        Zeros for an index that never held a value.

    Raises
    ------
    PassError
        As `observe`, or a tensor has no such axis.
    DataError
        A tensor holds NaN or infinity, or the axis has different lengths for different samples.
    """
    constants, tapped = find_values(model, [name for name, _ in channels])
    axes: dict[str, list[tuple[str, int]]] = {}
    for key in dict.fromkeys(channels):
        axes.setdefault(key[0], []).append(key)
    found: dict[tuple[str, int], ChannelRange] = {}
    for name, array in constants.items():
        for key in axes[name]:
            found[key] = _channel_range(key, array)
    if tapped:
        for observer in fetch(
            model,
            samples,
            tapped,
            lambda names: _ChannelObserver(names, axes),
            what="channel ranges",
            progress=progress,
            limit_bytes=limit_bytes,
        ):
            for key, new in observer.found.items():
                found[key] = _merged(key, found[key], new) if key in found else new
    return {key: _zeros_for_none(found[key]) for key in channels}


class _ChannelObserver:
    """Observes the same tensors' axes, sample by sample."""

    def __init__(self, names: list[str], axes: dict[str, list[tuple[str, int]]]) -> None:
        self._names = names
        self._axes = axes
        self.found: dict[tuple[str, int], ChannelRange] = {}

    def observe(self, arrays: list[Array], first: int, count: int) -> None:
        """See `Observer`."""
        for name, array in zip(self._names, arrays, strict=True):
            for key in self._axes[name]:
                new = _channel_range(key, array, first, count)
                self.found[key] = _merged(key, self.found[key], new) if key in self.found else new


def _channel_range(key: tuple[str, int], array: Array, first: int | None = None, count: int = 1) -> ChannelRange:
    name, axis = key
    if not -array.ndim <= axis < array.ndim:
        raise PassError(f"tensor '{name}' has {array.ndim} axes; it has no axis {axis}")
    axis %= array.ndim
    length = array.shape[axis]
    if not array.size:
        return ChannelRange(np.full(length, math.inf), np.full(length, -math.inf))
    # Three axes, however many there are: numpy is slow over several at once.
    cube = np.ascontiguousarray(plain(array)).reshape(math.prod(array.shape[:axis]), length, -1)
    with np.errstate(invalid="ignore"):
        low, high = (getattr(getattr(cube, reduce)(axis=2), reduce)(axis=0) for reduce in ("min", "max"))
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        refuse(name, array, first, count)
    return ChannelRange(low.astype(np.float64), high.astype(np.float64))


def _merged(key: tuple[str, int], old: ChannelRange, new: ChannelRange) -> ChannelRange:
    if old.low.shape != new.low.shape:
        lengths = f"{len(old.low)} and {len(new.low)}"
        raise DataError(f"tensor '{key[0]}': axis {key[1]} has different lengths for different samples: {lengths}")
    return old.merge(new)


def _zeros_for_none(found: ChannelRange) -> ChannelRange:
    none = found.low > found.high
    return ChannelRange(np.where(none, 0.0, found.low), np.where(none, 0.0, found.high))
