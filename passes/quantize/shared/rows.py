"""How many rows of a layer are drawn for rounding its weights, and which of them judge."""

from __future__ import annotations

import numpy as np

from onnxcompress.graph.layer import Layer
from onnxcompress.statistics.gram import ROWS, Indices
from onnxcompress.statistics.rows import HELD_OUT, Rows

JUDGED_ROWS = 1024
"""So many rows that are held out are enough to judge by, and one for each weight of an output."""

FEWEST_ROWS = 8192
"""So many rows are drawn of a layer that has as many, and more where outputs have many weights."""

ROWS_FOR_COLUMN = 32
"""So many for each weight of an output, up to `ROWS`."""

ROWS_FOR_MANY = 4
"""And so many beyond."""

ROWS_OF_GROUPS = 4096
"""Of a convolution with groups, which has a matrix of few columns for each."""


def rows_for_rounding(layer: Layer, samples: int) -> Rows:
    """Return what draws rows of a layer from so many samples altogether."""
    many, enough = ROWS_FOR_MANY * layer.columns, ROWS_FOR_COLUMN * layer.columns
    fewest = FEWEST_ROWS if layer.groups == 1 else ROWS_OF_GROUPS
    wanted = max(fewest, min(ROWS, enough), many)
    return Rows(layer, -(-wanted // max(samples, 1)))


def judging(rows: int, columns: int, samples: int) -> Indices:
    """Choose among the rows of each sample that is held out, of `samples` altogether, those that judge."""
    most = max(JUDGED_ROWS, columns) * HELD_OUT // max(samples, 1) + 1
    return np.linspace(0, rows, min(most, rows), endpoint=False).astype(np.int64)
