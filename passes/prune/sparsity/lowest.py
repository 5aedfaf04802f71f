"""Which channels of a group go: those that score lowest, as far as what must stay allows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from onnxcompress.channels.groups import Group

from .amount import how_many

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Limits:
    """What stays of a group: a multiple of `round_to`, and `keep_at_least` channels at least.

    With "auto" it is one of `widths`, where there are any.
    """

    round_to: int | Literal["auto"] = 1
    keep_at_least: int = 1
    widths: tuple[int, ...] = ()

    def shorten(self, gone: list[int], size: int) -> list[int]:
        """Shorten a list of channels to go, lowest first, until enough of `size` stay."""
        count = min(len(gone), max(size - self.keep_at_least, 0))
        return sorted(gone[: size - self.at_least(size - count, size)])

    def at_least(self, kept: int, size: int) -> int:
        """Return the least of what may stay that is no less than so many."""
        if self.round_to == "auto":
            return min((width for width in self.widths if width >= kept), default=kept if not self.widths else size)
        return min(kept + -kept % self.round_to, size)

    def nearest(self, kept: int, size: int) -> int:
        """Return what may stay that is nearest to so many, more rather than less."""
        if self.round_to != "auto" or not self.widths:
            return self.at_least(kept, size)
        least = [width for width in self.widths if width >= min(self.keep_at_least, size)]
        return min(least, key=lambda width: (abs(width - kept), -width), default=size)

    def multiples(self, size: int) -> list[int]:
        """Return all that may stay of so many."""
        step = 1 if self.round_to == "auto" else self.round_to
        return list(range(step, size + 1, step))


ANY = Limits()


def most(group: Group) -> int:
    """Return how many channels may go: of each stratum one stays."""
    return group.size - len(np.unique(group.strata))


def lowest(
    groups: Iterable[Group],
    scores: Mapping[str, Scores],
    sparsities: Mapping[str, int | float],
    limits: Mapping[str, Limits] | None = None,
) -> dict[str, list[int]]:
    """Choose the channels of each group that score lowest, the same share of each stratum; one of each stays.

    Shares are rounded down, in each stratum. Groups without scores, or of which nothing goes, are not in the answer.
    """
    limits = limits or {}
    chosen = {}
    for group in groups:
        if group.name in scores:
            score = scores[group.name]
            counts = _counts(group, sparsities[group.name])
            gone = [i for stratum, count in counts.items() for i in _first(group, score, stratum, count)]
            gone.sort(key=lambda i: score[i])
            if shortened := limits.get(group.name, ANY).shorten(gone, group.size):
                chosen[group.name] = shortened
    return chosen


def _counts(group: Group, sparsity: int | float) -> dict[int, int]:
    """Return how many channels of each stratum go; so many are dealt out by the strata's sizes."""
    strata, found = np.unique(group.strata, return_counts=True)
    sizes = found.tolist()
    if not isinstance(sparsity, int):
        counts = [min(how_many(sparsity, size), size - 1) for size in sizes]
    else:
        wanted = min(sparsity, most(group))
        counts = [min(wanted * size // group.size, size - 1) for size in sizes]
        for _ in range(wanted - sum(counts)):
            room = [number for number, size in enumerate(sizes) if counts[number] < size - 1]
            counts[max(room, key=lambda n: wanted * sizes[n] - counts[n] * group.size)] += 1
    return dict(zip(strata.tolist(), counts, strict=True))


def _first(group: Group, score: Scores, stratum: int, count: int) -> list[int]:
    channels = np.flatnonzero(group.strata == stratum)
    lowest_first: list[int] = channels[np.argsort(score[channels], kind="stable")[:count]].tolist()
    return lowest_first
