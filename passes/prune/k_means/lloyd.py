"""k-means in one dimension: on sorted values, clusters are stretches and their sums are differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Values: TypeAlias = npt.NDArray[np.float64]
Start: TypeAlias = Callable[[Values, int, np.random.Generator], Values]

ROUNDS = 300


def cluster(
    values: Values, clusters: int, start: Start, random: np.random.Generator, *, keep_zero: bool = False
) -> tuple[Values, npt.NDArray[np.uint8]]:
    """Return the centres, and for each value which centre is its own.

    With `keep_zero` the first centre is zero; all zeros are its own, and no other value is.
    """
    if keep_zero and (values == 0).any():
        zero = values == 0
        codes = np.zeros(values.size, np.uint8)
        if zero.all():
            return np.zeros(1), codes
        centres, inner = cluster(values[~zero], clusters - 1, start, random)
        codes[~zero] = inner + 1
        return np.concatenate([[0.0], centres]), codes
    distinct = np.unique(values)
    if len(distinct) <= clusters:
        return distinct, np.searchsorted(distinct, values).astype(np.uint8)
    ordered = np.sort(values)
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    centres = np.unique(start(ordered, clusters, random))
    for _ in range(ROUNDS):
        edges = np.searchsorted(ordered, (centres[1:] + centres[:-1]) / 2, side="right")
        bounds = np.concatenate([[0], edges, [len(ordered)]])
        counts = np.diff(bounds)
        # a centre that nothing is nearest to stays where it is
        moved = np.where(counts > 0, np.diff(sums[bounds]) / np.maximum(counts, 1), centres)
        if np.array_equal(moved, centres):
            break
        centres = np.sort(moved)
    return centres, np.searchsorted((centres[1:] + centres[:-1]) / 2, values, side="left").astype(np.uint8)


def _linear(ordered: Values, clusters: int, random: np.random.Generator) -> Values:
    return np.linspace(ordered[0], ordered[-1], clusters)


def _random(ordered: Values, clusters: int, random: np.random.Generator) -> Values:
    return random.choice(np.unique(ordered), clusters, replace=False)


def _density(ordered: Values, clusters: int, random: np.random.Generator) -> Values:
    return np.asarray(np.quantile(ordered, (np.arange(clusters) + 0.5) / clusters))


def _plus_plus(ordered: Values, clusters: int, random: np.random.Generator) -> Values:
    """Draw each centre with the square of the distance to the nearest one before (Arthur and Vassilvitskii, 2007)."""
    centres = [float(random.choice(ordered))]
    squares = (ordered - centres[0]) ** 2
    while len(centres) < clusters:
        centres.append(float(random.choice(ordered, p=squares / squares.sum())))
        squares = np.minimum(squares, (ordered - centres[-1]) ** 2)
    return np.array(centres)


STARTS: dict[str, Start] = {"linear": _linear, "random": _random, "density": _density, "kmeans++": _plus_plus}
