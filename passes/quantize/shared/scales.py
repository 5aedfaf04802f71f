"""Scales, zero points and integers: the arithmetic of affine quantization, without any graph.

A real tensor ``r`` is stored as integers ``q`` with ``r ≈ scale · (q − zero_point)``
(Jacob et al. 2018, arXiv:1712.05877, equation 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

SMALLEST = 2.0**-62
"""No scale is smaller: the product of two, which is the scale of a bias, is then still a normal float32."""

BIAS_LIMIT = 2**30
"""Largest magnitude of an int32 bias. The other half of int32 is room for the sum of products, which
``255 · 127`` times up to 33,000 terms fills."""


@dataclass(frozen=True)
class Grid:
    """The integers that a tensor may be stored as.

    Attributes
    ----------
    low, high : int
        The smallest and the largest integer; symmetric weights leave out -128.
    dtype : str
        The numpy name of the type that holds them (ml_dtypes has those of 4 and of 2 bits; 3 bits have none).
    """

    low: int
    high: int
    dtype: str

    @property
    def middle(self) -> int:
        """The zero point of symmetric storage: 0 for signed types, 8 or 128 for unsigned ones."""
        return (self.low + self.high + 1) // 2

    @property
    def is_coarse(self) -> bool:
        """Whether it has so few integers that one more on one side of 0 counts: 4 bits at most."""
        return self.high - self.low < 16


UINT8 = Grid(0, 255, "uint8")
INT8 = Grid(-128, 127, "int8")
SYMMETRIC = Grid(-127, 127, "int8")
SEVEN_BITS = Grid(-64, 64, "int8")
"""Two products of 255 and 64 still fit into 16 bits, in which CPUs without VNNI add pairs."""
INT4 = Grid(-8, 7, "int4")
UINT4 = Grid(0, 15, "uint4")
INT3 = Grid(-4, 3, "int4")
UINT3 = Grid(0, 7, "uint4")
INT2 = Grid(-2, 1, "int2")
UINT2 = Grid(0, 3, "uint2")
INT16 = Grid(-32768, 32767, "int16")
UINT16 = Grid(0, 65535, "uint16")
FLOAT8 = Grid(-448, 448, "float8_e4m3fn")
"""Not evenly spaced: three bits behind the leading one."""
GRIDS = {
    **{grid.dtype: grid for grid in (UINT8, INT8, INT4, UINT4, INT2, UINT2, INT16, UINT16)},
    "int3": INT3, "uint3": UINT3, "float8e4m3fn": FLOAT8,
}  # fmt: skip
SYMMETRIC_GRIDS = {
    "int8": SYMMETRIC, "uint8": Grid(1, 255, "uint8"), "int4": Grid(-7, 7, "int4"), "float8e4m3fn": FLOAT8,
}  # fmt: skip
"""Type → what symmetric weights may be."""

SHRINKS = np.linspace(1, 0.2, 41)
"""What part of its range a tensor may keep where `clipped` looks for the best one."""


def affine(
    low: npt.ArrayLike, high: npt.ArrayLike, grid: Grid
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Return scales and zero points for ranges that are widened to include 0, which is then stored exactly.

    ``scale = (high − low) / (grid.high − grid.low)``, ``zero_point = round(grid.low − low / scale)``. An empty range
    (all zeros) gets scale 1.

    Parameters
    ----------
    low, high : array of float
        Any shape; one range each.
    grid : Grid

    Returns
    -------
    scale : ndarray of float32
    zero_point : ndarray of int64
        Within the grid.
    """
    below = np.minimum(np.asarray(low, np.float64), 0)
    above = np.maximum(np.asarray(high, np.float64), 0)
    span = above - below
    scale = np.where(span == 0, 1.0, np.maximum(span / (grid.high - grid.low), SMALLEST)).astype(np.float32)
    zero_point = np.rint(grid.low - below / scale.astype(np.float64))
    return scale, np.clip(zero_point, grid.low, grid.high).astype(np.int64)


def within(low: float, high: float, bounds: tuple[float, float], grid: Grid) -> tuple[np.float32, int]:
    """Return a scale and zero point whose whole grid lies inside `bounds`, so that a Clip to them changes nothing.

    Parameters
    ----------
    low, high : float
        The measured range.
    bounds : (float, float)
        What the Clip lets through; it includes 0.
    grid : Grid

    Notes
    -----
    Rounding the zero point moves the grid by up to half a step, and rounding the scale to float32 stretches it: either
    may reach over a bound. The scale shrinks until it does not; values at the edge saturate, by less than one step.
    """
    low, high = max(low, bounds[0]), min(high, bounds[1])
    found, zero = affine(low, high, grid)
    scale, zero_point = np.float32(found), int(zero)
    room = [
        limit / steps
        for limit, steps in ((-bounds[0], zero_point - grid.low), (bounds[1], grid.high - zero_point))
        if steps
    ]
    # Compared as Python floats: numpy would round the other side to float32 first.
    if min(room) < float(scale):
        scale = np.float32(max(min(room), SMALLEST))
        if float(scale) > min(room):
            scale = np.nextafter(scale, np.float32(0))
    return scale, zero_point


def probabilities(grid: Grid, *, symmetric: bool) -> tuple[np.float32, int]:
    """Return the scale and zero point of what a Softmax gives, which lies between 0 and 1.

    Parameters
    ----------
    grid : Grid
    symmetric : bool
        The zero point is `Grid.middle`, else the least integer.

    Notes
    -----
    XNNPACK takes uint8 with scale 1/256 only. onnxruntime's kernel multiplies by ``floor(1 / scale)``, which must not
    be less than what `scale` says: 1 / float32(1 / 255) is below 255. In int8, 1/256 would carry a 1 over to -128.
    """
    zero_point = grid.middle if symmetric else grid.low
    if grid is UINT8 and not symmetric:
        return np.float32(1 / 256), zero_point
    steps = np.float32(grid.high - zero_point)
    scale = np.float32(1) / steps
    return (scale if np.floor(np.float32(1) / scale) == steps else np.nextafter(scale, np.float32(0))), zero_point


def symmetric(array: npt.NDArray[Any], axis: int | None) -> npt.NDArray[np.float32]:
    """Return ``max|W| / 127`` of each index of `axis`, or of the whole tensor: a 1-D array.

    Parameters
    ----------
    array : ndarray of float
    axis : int, optional
        None: one scale for the whole tensor.

    Notes
    -----
    Symmetric and per output channel, as in Krishnamoorthi 2018, arXiv:1806.08342, section 3.1.
    """
    return spanning(rows(array, axis), SYMMETRIC)[0]


def clipped(
    array: npt.NDArray[Any], axis: int | None, grid: Grid, *, symmetric: bool = True, signed: bool = False
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Return the scales and zero points with the least ``Σ (W − scale · (q − zero_point))²``, one for each channel.

    The range of each channel is shrunk by the factors of `SHRINKS`: few large weights saturate, all others lie on a
    finer grid. As 1 is among the factors, no channel is worse off than by its largest weight (Banner et al. 2019,
    arXiv:1810.05723, section 3, look for the same optimum in closed form).

    Parameters
    ----------
    array : ndarray of float
    axis : int, optional
        None: one scale for the whole tensor.
    grid : Grid
    symmetric : bool
        The zero point is `Grid.middle`; otherwise it lies where the range says.
    signed : bool
        Scales may be negative; see `over`.

    Returns
    -------
    scale : ndarray of float32, shape (channels,) or (1,)
    zero_point : ndarray of int64, same shape
    """
    matrix = rows(array, axis)
    step = max(CHUNK // max(matrix.shape[1], 1), 1)
    parts = [matrix[start : start + step] for start in range(0, max(len(matrix), 1), step)]
    found = [_clipped(part.astype(np.float32, copy=False), grid, symmetric, signed) for part in parts]
    return np.concatenate([scale for scale, _ in found]), np.concatenate([zero_point for _, zero_point in found])


CHUNK = 1 << 15
"""How many weights are looked at together: few enough to stay in a core's cache over all of `SHRINKS`."""


def _clipped(
    matrix: npt.NDArray[np.float32], grid: Grid, symmetric: bool, signed: bool
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    low, high = _extremes(matrix)
    scale, zero_point = over(low, high, grid, symmetric=symmetric, signed=signed)
    least = squared_errors(matrix, scale, zero_point, grid)
    # With the other sign it is the other extreme that has one integer more.
    signs = (1, -1) if signed and symmetric and grid.is_coarse else (1,)
    for factor in (sign * shrink for shrink in SHRINKS for sign in signs):
        tried = over(abs(factor) * low, abs(factor) * high, grid, symmetric=symmetric, signed=signed)
        tried = (np.sign(np.float32(factor)) * tried[0], tried[1])
        errors = squared_errors(matrix, *tried, grid)
        better = errors < least
        scale, zero_point = np.where(better, tried[0], scale), np.where(better, tried[1], zero_point)
        least = np.minimum(errors, least)
    return scale, zero_point


def spanning(
    matrix: npt.NDArray[Any], grid: Grid, *, symmetric: bool = True, signed: bool = False
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Return scales and zero points, one for each row, that reach over the row's range.

    Parameters
    ----------
    matrix : (rows, columns) array of float
    grid : Grid
    symmetric : bool
        ``scale = max|W| / (grid.high − grid.middle)``; otherwise `affine` of the range.
    signed : bool
        Scales may be negative; see `over`.
    """
    return over(*_extremes(matrix), grid, symmetric=symmetric, signed=signed)


def _extremes(matrix: npt.NDArray[Any]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the lowest and the highest value of each row, 0 included."""
    return matrix.min(axis=1, initial=0).astype(np.float64), matrix.max(axis=1, initial=0).astype(np.float64)


def over(
    low: npt.NDArray[np.float64],
    high: npt.NDArray[np.float64],
    grid: Grid,
    *,
    symmetric: bool,
    signed: bool = False,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Return scales and zero points for ranges that include 0; see `spanning`.

    A symmetric grid of few integers, such as -8 to 7, has one more below 0, which counts there. It is for the lowest
    value; if `signed`, for whichever extreme is larger: ``scale = extreme / -8``, negative where that is the highest.
    """
    if not symmetric:
        return affine(low, high, grid)
    above = grid.high - grid.middle
    below = grid.middle - grid.low if grid.is_coarse else above
    signed = signed and below > above
    needed = np.maximum(-low / below, high / (below if signed else above))
    scale = np.where(needed == 0, 1.0, np.maximum(needed, SMALLEST))
    if signed:
        scale = np.where(high > -low, -scale, scale)
    return scale.astype(np.float32), np.full(scale.shape, grid.middle, np.int64)


def squared_errors(
    matrix: npt.NDArray[Any], scale: npt.NDArray[np.float32], zero_point: npt.NDArray[np.int64], grid: Grid
) -> npt.NDArray[np.float64]:
    """Return the squared error of each row."""
    step = scale[:, None]
    low, high = ((edge - zero_point)[:, None].astype(np.float32) for edge in (grid.low, grid.high))
    difference = matrix / step
    np.rint(difference, out=difference)
    np.clip(difference, low, high, out=difference)
    difference *= step
    np.subtract(matrix, difference, out=difference)
    np.square(difference, out=difference)
    return np.asarray(difference.sum(axis=1, dtype=np.float64))


def rows(array: npt.NDArray[Any], axis: int | None) -> npt.NDArray[Any]:
    """Return the tensor as a matrix with one row for each index of `axis`, or a single row."""
    if axis is None:
        return array.reshape(1, -1)
    return np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)


def encode(
    array: npt.NDArray[Any],
    scale: npt.NDArray[np.float32],
    grid: Grid,
    *,
    zero_point: npt.NDArray[np.int64] | int = 0,
    axis: int | None = None,
) -> npt.NDArray[Any]:
    """Return ``clip(round(array / scale) + zero_point)``, rounded half to even, as the grid's dtype.

    Parameters
    ----------
    array : ndarray of float
    scale : ndarray of float32
        One value, or one for each index of `axis`.
    grid : Grid
    zero_point : ndarray of int64 or int
        Like `scale`.
    axis : int, optional

    Returns
    -------
    ndarray
        Same shape; ``|array − scale · (result − zero_point)| ≤ scale / 2`` for what the scale was made for.
    """
    shape = [1] * array.ndim
    if axis is not None:
        shape[axis] = -1
    step = scale.astype(np.float64).reshape(shape)
    zero = np.asarray(zero_point, np.float64).reshape(shape)
    if grid is FLOAT8:
        return np.clip(array.astype(np.float64) / step, grid.low, grid.high).astype(ml_dtypes.float8_e4m3fn)
    integers = np.rint(array.astype(np.float64) / step) + zero
    return np.clip(integers, grid.low, grid.high).astype(grid.dtype)


def power_of_two(scale: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Return the next powers of two.

    >>> power_of_two([0.3, 0.5, 3.0])
    array([0.5, 0.5, 4. ], dtype=float32)
    """
    return np.exp2(np.ceil(np.log2(np.asarray(scale, np.float64)))).astype(np.float32)


def raise_for_bias(
    scale: npt.NDArray[np.float32],
    dead: npt.NDArray[np.bool_],
    bias: npt.NDArray[Any],
    activation: float,
) -> npt.NDArray[np.float32]:
    """Return weight scales large enough that each bias fits into int32.

    Parameters
    ----------
    scale : ndarray of float32, shape (channels,) or (1,)
        The weights' scales.
    dead : ndarray of bool, shape of `scale`
        Channels whose weights are all zero: any scale stores them, so the bias alone decides, and keeps its precision.
    bias : ndarray of float, shape (channels,)
    activation : float
        The scale of the input.

    Notes
    -----
    A bias is stored with scale ``activation · scale`` (arXiv:1712.05877, section 2.4). Where weights are tiny against
    their bias this overflows int32; onnxruntime's own quantizer raises the weights' scale as well.
    """
    needed = np.abs(bias.astype(np.float64)) / (activation * BIAS_LIMIT)
    if scale.size == 1:
        needed = needed.max(keepdims=True)
    lowest = np.where(dead & (needed > 0), SMALLEST, scale.astype(np.float64))
    return np.maximum(lowest, needed).astype(np.float32)


def encode_bias(bias: npt.NDArray[Any], scale: npt.NDArray[np.float32]) -> npt.NDArray[np.int32]:
    """Return ``round(bias / scale)`` as int32; `scale` has one value or one for each channel."""
    integers = np.rint(bias.astype(np.float64) / scale.astype(np.float64))
    limit = np.iinfo(np.int32).max
    return np.clip(integers, -limit, limit).astype(np.int32)
