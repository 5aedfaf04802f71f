"""What is lost when so many channels of a group go, so that groups can be compared."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from onnxcompress.channels.groups import Group

from .lowest import lowest, most

Scores = npt.NDArray[np.float64]

CHANGES_OF_LOSS = ("taylor", "fisher")
"""Criteria whose scores are what the loss of the model changes by: they add up, and are comparable as they are."""


def losses(group: Group, score: Scores, importance: str | float, counts: tuple[int, ...]) -> tuple[float, ...]:
    """Return the loss when only so many channels stay.

    By reconstruction it is the error left when the last of them has gone; by a change of the loss, their sum; by
    anything else the share of what all squared scores of the group come to.
    """
    finite = np.where(np.isneginf(score), 0, score)
    square = finite**2 if importance not in CHANGES_OF_LOSS else finite
    whole = 1.0 if importance in CHANGES_OF_LOSS else float(square.sum()) or 1.0
    found = []
    for count in counts:
        gone = lowest([group], {group.name: score}, {group.name: group.size - count}).get(group.name, [])
        if importance == "reconstruction":
            found.append(float(finite[gone].max(initial=0)))
        else:
            found.append(float(square[gone].sum()) / whole)
    return tuple(found)


def possible(group: Group, wanted: list[int], keep_at_least: int) -> tuple[int, ...]:
    """Return those of some counts that may stay of a group, the most first; all of them may always."""
    least = max(keep_at_least, group.size - most(group), 1)
    return tuple(sorted({group.size, *(count for count in wanted if least <= count < group.size)}, reverse=True))
