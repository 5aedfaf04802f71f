"""Which zeros stay zeros."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.training.masks import masked_weights

from ..qat.masters import Master

SURE = 3.0
"""How many standard deviations more zeros than expected there must be."""

WIDER = 1.5
"""How many times as many zeros as the counts beside them make likely are still taken for rounding."""


def masks_of(model: ir.Model, free: Collection[str], masters: Mapping[str, Master]) -> tuple[list[str], list[str]]:
    """Name the weights whose zeros are a mask.

    Parameters
    ----------
    model : onnx_ir.Model
        With floats in place of integers.
    free : collection of str
        What is trained.
    masters : dict of str to Master
        The integers.

    Returns
    -------
    list of str
        Those that are masked.
    list of str
        Weights of integers that have zeros, and only such as rounding makes.
    """
    masked = masked_weights(model, [name for name in free if name not in masters])
    rounded = []
    for name in free:
        steps = masters[name].steps if name in masters else None
        if steps is None or steps.all():
            continue
        if masters[name].is_rounded and not is_masked(steps):
            rounded.append(name)
        elif masters[name].is_rounded or steps.any():
            masked.append(name)
    return masked, rounded


def is_masked(steps: npt.NDArray[Any]) -> bool:
    """Tell whether integers are zero more often than rounding alone makes them.

    Few bits round many small weights to zero, about as many as to the integers beside it; pruning leaves more, or none
    beside it, or whole rows. Where half of them are zero, they stay so in any case. Of a density that falls off as a
    normal or Laplace distribution does, no more than ``c1 · c1 / c2`` are expected at zero, where c1 and c2 are the
    mean counts at one and at two from it.

    >>> is_masked(np.rint(np.random.default_rng(0).normal(0, 2, 4096)))
    False
    >>> is_masked(np.rint(np.random.default_rng(0).normal(0, 2, 4096)) * (np.arange(4096) % 2))
    True
    """
    zeros, *others = (int(np.count_nonzero(steps == n)) for n in (0, -1, 1, -2, 2))
    one, two = (others[0] + others[1]) / 2, (others[2] + others[3]) / 2
    expected = WIDER * one * max(1.0, one / max(two, 1.0))
    if 2 * zeros >= steps.size or zeros > expected + SURE * np.sqrt(expected + 1):
        return True
    rows = (steps.any(tuple(a for a in range(steps.ndim) if a != axis)) for axis in range(steps.ndim))
    return steps.ndim > 1 and any(not row.all() for row in rows)
