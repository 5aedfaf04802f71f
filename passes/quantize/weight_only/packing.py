"""Integers of few bits in bytes, and scales in one byte each. Arrays only, no graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]

LARGEST = 127
"""Of a scale in one byte, in steps."""

MANTISSA = {"float32": 24, "float16": 11}
"""How many bits the numbers of a type have: with 7 less, a step times any byte is exact."""


def packed(integers: Bytes, bits: int, axis: int = -1) -> Bytes:
    """Return bytes of integers that are neighbours along an axis, the first ones in the lowest bits; 0 fills up."""
    each = 8 // bits
    moved = np.moveaxis(integers, axis, 0)
    found = moved[0::each].copy()
    for place in range(1, each):
        more = moved[place::each]
        found[: len(more)] |= more << np.uint8(bits * place)
    return np.moveaxis(found, 0, axis)


PLANES = 8
"""Weights whose 3 bits make 3 bytes."""

LOW_SHIFTS, HIGH_SHIFTS = (0, 2), (0, 1, 2, 3)
LOW_MASK, HIGH_MASK, HIGH_PLACE = 0x33, 0x11, 2
"""Where the bits of 3 lie: ``byte = (low >> LOW_SHIFTS & LOW_MASK) | (high >> HIGH_SHIFTS & HIGH_MASK) << HIGH_PLACE``
has two integers, as 4 bits have them; 2 bytes of `low` and one of `high` make 4 of those."""


def planes(integers: Bytes) -> tuple[Bytes, Bytes]:
    """Return the two lower bits and the highest one of integers of 3 bits (…, n), n a multiple of 8.

    Returns
    -------
    low : (…, n / 8, 2) array
    high : (…, n / 8) array
    """
    halves = packed(integers, 4).reshape(*integers.shape[:-1], -1, 4)
    low = halves & np.uint8(LOW_MASK)
    low = low[..., 0::2] | (low[..., 1::2] << np.uint8(LOW_SHIFTS[1]))
    high = (halves >> np.uint8(HIGH_PLACE)) & np.uint8(HIGH_MASK)
    found = np.zeros(high.shape[:-1], np.uint8)
    for place in HIGH_SHIFTS:
        found |= high[..., place] << np.uint8(place)
    return low, found


def short_scales(scale: Array, dtype: np.dtype[Any], *, up: bool) -> tuple[npt.NDArray[np.float32], float]:
    """Return scales that are multiples, by -127 to 127, of one step, and the step; 0 where a type holds no such.

    Rounding to 4 bits or fewer has an error of several hundredths of a weight, and a scale that is off by some
    thousandths adds nothing to it, if integers are chosen for the scale as it is stored (Dettmers et al. 2023,
    arXiv:2305.14314, section 3, store scales in 8 bits in this way).

    Parameters
    ----------
    scale : array of float32
    dtype : numpy.dtype
        The type that the product is computed in.
    up : bool
        No scale gets smaller, so that nothing saturates.
    """
    info, largest = np.finfo(dtype), float(np.abs(scale).max(initial=0))
    fraction, exponent = np.frexp(largest / LARGEST)
    bits = MANTISSA[dtype.name] - 7
    step = float(np.ldexp(np.ceil(np.ldexp(fraction, bits)), int(exponent) - bits))
    if step < float(info.tiny) * 2**bits or not np.isfinite(step):
        return scale, 0.0
    steps = np.abs(scale.astype(np.float64)) / step
    steps = np.clip(np.ceil(steps * (1 - 1e-7)) if up else np.rint(steps), 1, LARGEST)
    return np.copysign(steps * step, scale).astype(np.float32), step
