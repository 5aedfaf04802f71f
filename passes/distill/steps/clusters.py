"""Which weights share few values."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx_ir as ir

from ...quantize.shared.clusters import SHARED_BY, clustered_weights
from ..qat.masters import Master

GAPS = 3
"""Of integers from the lowest to the highest, one in so many may occur; without clusters nearly all do."""


def clusters_of(model: ir.Model, free: Collection[str], masters: Mapping[str, Master]) -> list[str]:
    """Name the weights that share few values, in a model with floats in place of integers."""
    floats = set(clustered_weights(model)) - masters.keys()
    return [name for name in free if name in floats or (name in masters and are_clustered(masters[name]))]


def are_clustered(master: Master) -> bool:
    """Tell whether integers are few of those between their extremes, and each of them many times.

    With a scale for each channel, or block, that is asked of the integers of each.
    """
    steps = master.steps
    if not master.is_rounded or steps.ndim < 2:
        return False
    axis = master.spread.axis
    rows = [steps.ravel()] if axis is None else np.moveaxis(steps, axis, 0).reshape(steps.shape[axis], -1)
    kinds = [np.unique(row[row != 0]) for row in rows if row.any()]
    few = sum(len(kind) for kind in kinds)
    many = sum(int(kind[-1] - kind[0]) + 1 for kind in kinds)
    return bool(kinds) and few * GAPS <= many and few * SHARED_BY <= int(np.count_nonzero(steps))
