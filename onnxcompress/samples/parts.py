"""Which samples belong to which part: by their numbers alone, spread over all of the data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

ROW = 5
"""So many samples in a row are dealt out together: a part of 1/ROW gets one of each row."""

MOST_FITTED = 512
"""Samples that are fitted to where there are more than three times as many; the rest searches and judges."""


@dataclass(frozen=True)
class Part:
    """The samples whose place lies in [start, stop), where each has a place in [0, 1).

    Attributes
    ----------
    name : str
        What reports call it, before "of" and the source.
    start, stop : float
    """

    name: str
    start: float
    stop: float

    def holds(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Tell which samples, by their numbers in the source, belong to the part."""
        place = places(numbers)
        return np.asarray((self.start <= place) & (place < self.stop))


FIT = Part("four in five", 0, 1 - 1 / ROW)
JUDGE = Part("one in five", 1 - 1 / ROW, 1)


def three_parts(count: int, most: int = MOST_FITTED) -> tuple[Part, Part, Part]:
    """Return what is fitted to (a third, or about `most`), what a search judges by, and what nothing has seen.

    >>> [round(part.stop - part.start, 2) for part in three_parts(5120)]
    [0.1, 0.45, 0.45]
    """
    fitted = min(1 / 3, most / count)
    middle = (1 + fitted) / 2
    return (
        Part("the fitted part", 0, fitted),
        Part("the searched part", fitted, middle),
        Part("the unseen part", middle, 1),
    )


def two_parts(count: int, most: int = MOST_FITTED) -> tuple[Part, Part]:
    """Return what is fitted to (half, or about `most`) and what a search judges by."""
    fitted = min(1 / 2, most / count)
    return Part("the fitted part", 0, fitted), Part("the searched part", fitted, 1)


def places(numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return the place in [0, 1) of each sample: those of a row are spread evenly, and mixed from row to row.

    So it keeps step with nothing in the data: neither sorted classes nor classes in turn fall into one part.
    """
    row = numbers.astype(np.uint64) // ROW
    mixed = (row + 1) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> 30)) * np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> 31
    last = (mixed >> 33).astype(np.int64) % ROW
    within = (numbers - last - 1) % ROW
    shift = (mixed & np.uint64(0x7FFFFFFF)).astype(np.float64) / 2**31
    return np.asarray((within + shift) / ROW)
