"""How a weight is stored as integers: with which scales, in which layout. Arrays only, no graph."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from onnxcompress.runtime.saturation import products_saturate

from ..shared import scales
from ..shared.scales import Grid
from .multiples import most, multiples
from .packing import LARGEST, PLANES, short_scales

Array = npt.NDArray[Any]
Integers = npt.NDArray[np.int64]

Calibration = Literal["minmax", "mse"]

METHODS: dict[Calibration, Callable[..., tuple[npt.NDArray[np.float32], Integers]]] = {
    "minmax": lambda matrix, grid, **how: scales.spanning(matrix, grid, **how),
    "mse": lambda matrix, grid, **how: scales.clipped(matrix, 0, grid, **how),
}

FEW = 128
"""So many scales take less as floats than as bytes and the nodes that make floats of those."""

SMALLEST_FLOAT16 = 2.0**-24
"""The smallest scale that float16 holds."""


@dataclasses.dataclass(frozen=True)
class Whole:
    """Scales that are whole multiples of one for each output.

    Attributes
    ----------
    unit : ndarray of float32
        (outputs,)
    largest : int
        No integer times its multiple is larger.
    """

    unit: npt.NDArray[np.float32]
    largest: int


@dataclasses.dataclass(frozen=True)
class StoredWeight:
    """How one tensor is stored.

    Attributes
    ----------
    form : str
        The operators that read it; see `formats`.
    dtype : str
        A key of `scales.GRIDS`.
    low : int
        The smallest integer: symmetric int8 leaves out -128.
    axis : int, optional
        The axis with a scale for each index, or that is cut into blocks; None: one scale for the tensor.
    block_size : int
        How many neighbours along `axis` share a scale; 0: there are no blocks.
    scale : ndarray of float32
        (channels,), (1,), or with blocks the weight's shape with fewer indices along `axis`. For a weight of float16
        or bfloat16 its values are of that type.
    zero_point : ndarray of int16, same shape
    integers : ndarray of int8 or uint8, optional
        The weight's shape; None where each is the nearest.
    scale_step : float
        Scales are multiples of it, by -127 to 127, and stored as such; 0: as floats.
    compact : bool
        Whether 3 bits take 3 bits of the file, and not 4.
    accuracy_level : int
        What MatMulNBits computes in; see `QuantizeWeights`.
    whole : Whole, optional
        What scales are whole multiples of.
    """

    form: str
    dtype: str
    low: int
    axis: int | None
    block_size: int
    scale: npt.NDArray[np.float32]
    zero_point: npt.NDArray[np.int16]
    integers: npt.NDArray[Any] | None = None
    scale_step: float = 0.0
    compact: bool = False
    accuracy_level: int = 0
    whole: Whole | None = None

    @property
    def bits_read(self) -> int:
        """How many bits an integer has where an operator reads it: of 3, there is none."""
        return max(int(self.dtype[-1]), 4) if self.dtype.endswith("3") else int(self.dtype[-1])

    @property
    def bits_held(self) -> int:
        """How many bits an integer takes in the file."""
        return int(self.dtype[-1]) if self.compact else self.bits_read

    @property
    def least(self) -> int:
        """What is stored as 0 where integers have no sign: 3 bits lie in the middle of 4."""
        whole = scales.GRIDS[self.dtype]
        return whole.low if self.bits_held == int(self.dtype[-1]) else whole.middle - (1 << (self.bits_read - 1))

    @property
    def needs_zero_point(self) -> bool:
        """Whether a fused operator has to be told; without, it is the middle of what the bits hold."""
        return bool((self.zero_point - self.least != 1 << (self.bits_read - 1)).any())

    def spread(self, values: Array, shape: tuple[int, ...]) -> Array:
        """Return scales or zero points so that they broadcast to the weight's shape."""
        if self.axis is None:
            return values.reshape([1] * len(shape))
        if self.block_size:
            return np.take(np.repeat(values, self.block_size, self.axis), np.arange(shape[self.axis]), self.axis)
        return values.reshape([-1 if axis == self.axis else 1 for axis in range(len(shape))])

    def encode(self, array: Array) -> npt.NDArray[np.int16]:
        """Return the integers of a weight, int16: a few rows after the other, which stay in a core's cache."""
        if self.integers is not None:
            return self.integers.astype(np.int16)
        found = np.empty(array.shape, np.int16)
        whole, into = self._rows(array), self._rows(found)
        for part, scale, zero_point in self._parts(array.shape):
            into[part] = self._nearest(whole[part], scale, zero_point)
        return found

    def decode(self, integers: npt.NDArray[np.integer]) -> npt.NDArray[np.float32]:
        """Return ``scale · (q − zero_point)``, rounded once, as what reads it does."""
        found = np.empty(integers.shape, np.float32)
        whole, into = self._rows(integers), self._rows(found)
        for part, scale, zero_point in self._parts(integers.shape):
            np.subtract(whole[part], zero_point, out=into[part], casting="unsafe", dtype=np.float32)
            into[part] *= scale
        return found

    @property
    def held(self) -> np.dtype[Any]:
        """The type of `integers`."""
        return np.dtype(np.int8 if self.low < 0 else np.uint8)

    def storable(self, scale: Array, before: Array, dtype: np.dtype[Any], at: Array) -> npt.NDArray[np.float32]:
        """Return scales as they can be stored for a weight of some type; those `before` where the sign is another.

        `at` are their places among those of the weight.
        """
        size = np.abs(np.where(np.isfinite(scale) & (scale * before > 0), scale, before))
        if self.whole is not None:
            unit = np.broadcast_to(self.whole.unit, self.scale.shape).ravel()[at]
            size = np.clip(np.rint(size / unit), 1, most(self.zero_point.ravel()[at], self.grid, self.whole.largest))
            size = size * unit
        elif self.scale_step:
            size = np.clip(np.rint(size / self.scale_step), 1, LARGEST) * self.scale_step
        else:
            size = np.maximum(size, _least(dtype)).astype(dtype)
        return np.copysign(size.astype(np.float32), before)

    def _rows(self, array: Array) -> Array:
        return np.moveaxis(array, self.axis, 0) if self.axis is not None and self.block_size else array

    def _parts(self, shape: tuple[int, ...]) -> Iterator[tuple[slice, Array, Array]]:
        """Yield a few rows at a time with their scales and zero points."""
        scale, zero_point = map(self._rows, self._one_for_block(len(shape)))
        count = shape[self.axis] if self.axis is not None and self.block_size else shape[0] if shape else 1
        step = self.block_size or max(scales.CHUNK * count // max(math.prod(shape), 1), 1)
        for start in range(0, count, step):
            part = slice(start, start + step)
            of = part if not self.block_size else slice(start // step, start // step + 1)
            of = of if len(scale) > 1 else slice(None)
            yield part, scale[of], zero_point[of]

    def _one_for_block(self, rank: int) -> tuple[Array, Array]:
        """Return scales and zero points that broadcast to the weight's shape, along blocks to their number."""
        if self.block_size:
            return self.scale, self.zero_point
        shape = [-1 if axis == self.axis else 1 for axis in range(rank)]
        return self.scale.reshape(shape), self.zero_point.reshape(shape)

    def _nearest(self, array: Array, scale: Array, zero_point: Array) -> npt.NDArray[np.float64]:
        steps = array.astype(np.float64)
        steps /= scale.astype(np.float64)
        np.rint(steps, out=steps)
        steps += zero_point
        return np.asarray(np.clip(steps, self.grid.low, self.grid.high, out=steps))

    @property
    def grid(self) -> Grid:
        """The integers that it may be stored as."""
        return dataclasses.replace(scales.GRIDS[self.dtype], low=self.low)


@dataclasses.dataclass(frozen=True)
class Storage:
    """The choices that are alike for all weights; `store` makes them for one.

    Attributes
    ----------
    dtype : str
    symmetric : bool
    calibration : str
        A key of `METHODS`.
    block_size : int
        0: no blocks.
    compact : bool
        Scales of fused operators take a byte each, and 3 bits no more than that.
    accuracy_level : int
    """

    dtype: str
    symmetric: bool
    calibration: Calibration
    block_size: int
    compact: bool = False
    accuracy_level: int = 0

    def store(self, array: Array, form: str, output: int | None, along: int | None) -> StoredWeight:
        """Choose the scales of one weight.

        Parameters
        ----------
        array : ndarray of float
        form : str
        output : int, optional
            The axis of output channels; None: one scale for the tensor.
        along : int, optional
            The axis that products sum over. If it is shorter than a block, there are no blocks.
        """
        blocked = self.block_size and along is not None and array.shape[along] >= self.block_size
        axis, block = (along, self.block_size) if blocked else (output, 0)
        grid = scales.SYMMETRIC if self.dtype == "int8" and self.symmetric else scales.GRIDS[self.dtype]
        signed = form != "qdq"  # where engines expect positive scales
        how = {"symmetric": self.symmetric, "signed": signed}
        if axis is not None and block and self.calibration == "minmax":
            extremes = _extremes(array, axis, block)
            scale, zero_point = scales.over(*extremes, grid, symmetric=self.symmetric, signed=signed)
        elif axis is not None and block:
            matrix, shape = _in_blocks(array, axis, block)
            scale, zero_point = METHODS[self.calibration](matrix, grid, **how)
            scale = np.moveaxis(scale.reshape(shape), -1, axis)
            zero_point = np.moveaxis(zero_point.reshape(shape), -1, axis)
        else:
            scale, zero_point = METHODS[self.calibration](_in_rows(array, axis), grid, **how)
        if array.dtype != np.float32:
            scale = np.copysign(np.maximum(np.abs(scale), np.float32(_least(array.dtype))), scale)
            scale = scale.astype(array.dtype).astype(np.float32)
        fused, step, whole = form != "qdq" and block > 0, 0.0, None
        if form == "matmulinteger" and block:
            scale, whole = self._whole(array, scale, zero_point, grid)
        elif fused and self.compact and scale.size >= FEW and grid.is_coarse:
            scale, step = short_scales(scale, array.dtype, up=self.calibration == "minmax")
        compact = self.compact and fused and (form == "matmulnbits" or array.shape[-1] % PLANES == 0)
        return StoredWeight(
            form, self.dtype, grid.low, axis, block, scale, zero_point.astype(np.int16), scale_step=step,
            compact=compact, accuracy_level=self.accuracy_level if fused else 0, whole=whole,
        )  # fmt: skip

    def _whole(self, array: Array, scale: Array, zero_point: Array, grid: Grid) -> tuple[Array, Whole]:
        """Return scales of a matrix (K, N) that are whole multiples."""
        largest = (scales.SEVEN_BITS if products_saturate() else scales.SYMMETRIC).high
        blocks = _in_blocks(array, 0, self.block_size)[0].reshape(array.shape[1], -1, self.block_size)
        found, unit = multiples(blocks, scale.T, zero_point.T, grid, largest, up=self.calibration == "minmax")
        return np.ascontiguousarray(found.T), Whole(unit, largest)


def _least(dtype: np.dtype[Any]) -> float:
    return SMALLEST_FLOAT16 if dtype == np.float16 else scales.SMALLEST


def _in_rows(array: Array, axis: int | None) -> Array:
    return scales.rows(array, axis).astype(np.float32, copy=False)


def _extremes(array: Array, axis: int, block: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the lowest and the highest value of each block along an axis, 0 included, without moving anything."""
    moved = np.moveaxis(array, axis, 0)
    starts = range(0, len(moved), block)
    low = np.zeros((len(starts), *moved.shape[1:]))
    high = low.copy()
    for index, start in enumerate(starts):
        part = moved[start : start + block].astype(np.float32, copy=False)
        np.minimum(part.min(0), 0, out=low[index])
        np.maximum(part.max(0), 0, out=high[index])
    return np.moveaxis(low, 0, axis), np.moveaxis(high, 0, axis)


def _in_blocks(array: Array, axis: int, block: int) -> tuple[Array, tuple[int, ...]]:
    """Return a row for each block along an axis, and the shape of all blocks, that axis last; zeros fill up."""
    moved = np.moveaxis(array, axis, -1).astype(np.float32, copy=False)
    missing = -moved.shape[-1] % block
    padded = np.pad(moved, [(0, 0)] * (moved.ndim - 1) + [(0, missing)]) if missing else moved
    matrix = padded.reshape(-1, block)
    return matrix, (*padded.shape[:-1], padded.shape[-1] // block)
