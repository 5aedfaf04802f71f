"""What rounding a weight does to the output of its layer. Arrays only, no graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

ROWS = 1024
"""How many rows of a weight are looked at together, at most."""


def output_error(weight: Array, decoded: Array, gram: Array) -> float:
    """Return the squared error at the output of a layer, summed over the samples: ``tr((W − Q) G (W − Q)ᵀ)``.

    Parameters
    ----------
    weight, decoded : (groups, rows, columns) array
        A row for each output, as `Layer.blocks` cuts it; of a table (rows, columns).
    gram : (groups, columns, columns) array
        ``Σ x xᵀ`` over the samples, of each group; of a table (rows,), how often each row was looked up. See
        `grams.layer_grams`.
    """
    if gram.ndim == 1:
        rows = np.square(weight.astype(np.float64) - decoded).sum(-1)
        return float(rows @ gram.astype(np.float64))
    total = 0.0
    for start in range(0, weight.shape[1], ROWS):
        part = slice(start, start + ROWS)
        lost = (weight[:, part].astype(np.float64) - decoded[:, part]).astype(gram.dtype)
        total += float(np.vdot(lost @ gram, lost))
    return total
