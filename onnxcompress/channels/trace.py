"""Where an operator that moves data takes each element from."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

Field = npt.NDArray[np.int64]
"""A number for every element of an output; axes along which nothing changes have extent 1."""


@dataclasses.dataclass(frozen=True)
class Trace:
    """Where the elements of one output come from.

    Attributes
    ----------
    shape : tuple of int
        The output's shape, as the operator was run.
    sources : list of Field
        For each axis of the inputs: the position there, counted from 1 and on from one input to the next; 0 is padding.
    padded : list of bool arrays
        For each axis of the output: where nothing but padding goes.
    """

    shape: tuple[int, ...]
    sources: list[Field]
    padded: list[npt.NDArray[np.bool_]]
