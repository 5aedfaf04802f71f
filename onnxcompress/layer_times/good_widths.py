"""Which widths of a group run well: as narrow as can be, and no wider one is faster."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .model_time import ModelTime

EQUAL, TICK = 1.03, 0.5
"""Times that differ by this factor, or by so many microseconds, are not told apart."""

BLOCK = 8
"""Channels that a kernel takes at once, where nothing can be measured: a multiple of so many stays one."""


def well_run(parts: ModelTime, number: int, counts: Iterable[int], kept: Sequence[int] | None = None) -> list[int]:
    """Return those widths of a group at which no wider one is faster; all of them where its layers are no work.

    Parameters
    ----------
    parts : ModelTime
        Prepared for these widths.
    number : int
        Which group.
    counts : iterable of int
    kept : sequence of int, optional
        How many channels of the other groups stay; all by default.
    """
    wider_first = sorted(counts, reverse=True)
    if not parts.is_measured(number):
        return wider_first
    at, found, quickest = list(parts.widths.full if kept is None else kept), list[int](), float("inf")
    for count in wider_first:
        at[number] = count
        took = parts.costs.touched(number, at)
        if took <= quickest * EQUAL + TICK:
            found.append(count)
        quickest = min(quickest, took)
    return found


def narrowest(parts: ModelTime, number: int, least: int, kept: Sequence[int]) -> int:
    """Return the narrowest width from `least` to the group's own at which no wider one is faster.

    Where layers could not be measured, a multiple of `BLOCK` stays one.
    """
    full = parts.widths.full[number]
    if parts.times.missing and not parts.is_measured(number):
        return min(least + -least % BLOCK, full) if full % BLOCK == 0 else least
    return min(well_run(parts, number, tried(least, full), kept))


MOST_TRIED = 16


def tried(least: int, full: int) -> list[int]:
    """Return the widths between two that are worth a look: both, multiples of 4 or more, and a few others.

    >>> tried(57, 64)
    [57, 58, 59, 60, 61, 62, 63, 64]
    """
    step = 4
    while (full - least) // step > MOST_TRIED:
        step *= 2
    multiples = range(least + -least % step, full, step)
    return sorted({*range(least, full, max((full - least) // MOST_TRIED, 1)), *multiples, full})
