"""All weights as one vector."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np


def views(flat: Any, shapes: list[list[int]]) -> list[Any]:
    """Return arrays of `shapes` that share the memory of `flat`."""
    ends = np.cumsum([math.prod(shape) for shape in shapes])[:-1]
    return [part.reshape(shape) for part, shape in zip(np.split(flat, ends), shapes, strict=True)]


def places(shapes: list[list[int]]) -> list[slice]:
    """Return where in the flat vector the elements of each array are."""
    ends = np.cumsum([0, *(math.prod(shape) for shape in shapes)]).tolist()
    return [slice(first, last) for first, last in itertools.pairwise(ends)]
