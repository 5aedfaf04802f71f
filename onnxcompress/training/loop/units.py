"""What is pruned together, and which of it has the smallest magnitudes."""

from __future__ import annotations

from typing import Any

import numpy as np

from .flat import places


class Weights:
    """Each element by itself."""

    def __init__(self, shape: list[int], axes: list[int], told: dict[str, Any]) -> None:
        self.shape, self.axes, self.told = shape, axes, told

    def lowest(self, magnitudes: Any, share: float) -> Any:
        """Return which elements go, of those of one weight."""
        return lowest(magnitudes, share)


class Blocks(Weights):
    """Blocks of the matrix (outputs, all that one output sums over), by their mean magnitude; ends may be smaller."""

    def lowest(self, magnitudes: Any, share: float) -> Any:
        """Return which elements are in the blocks that go."""
        labels = self._labels()
        means = np.bincount(labels, magnitudes) / np.bincount(labels)
        return lowest(means, share)[labels]

    def _labels(self) -> Any:
        """Return the number of each element's block."""
        axis = self.axes[0]
        across = np.moveaxis(np.arange(np.prod(self.shape)).reshape(self.shape), axis, 0).reshape(self.shape[axis], -1)
        rows, columns = (np.arange(size) // int(self.told[name]) for size, name in zip(across.shape, ROWS, strict=True))
        labels = np.empty(across.size, int)
        labels[across] = rows[:, None] * (columns[-1] + 1) + columns
        return labels


ROWS = ("rows", "columns")


class NOfM(Weights):
    """In a share of the groups of m neighbours along the inputs, all but the n largest; first where least is lost."""

    def lowest(self, magnitudes: Any, share: float) -> Any:
        """Return which elements go; of equal ones the first in their group."""
        n, m = int(self.told["n"]), int(self.told["m"])
        inputs = self.shape[self.axes[1]]
        last = np.moveaxis(np.arange(len(magnitudes)).reshape(self.shape), self.axes[1], -1).reshape(-1, inputs)
        groups = np.pad(magnitudes[last], ((0, 0), (0, -inputs % m)), constant_values=-1).reshape(-1, m)
        goes = np.argsort(np.argsort(groups, axis=1, kind="stable"), axis=1) < m - n
        loses = np.square(np.maximum(groups, 0) * goes).sum(1)
        goes &= lowest(loses, min(share / (1 - n / m), 1.0), at_most=len(loses))[:, None]
        found = np.zeros(len(magnitudes), bool)
        found[last] = goes.reshape(len(last), -1)[:, :inputs]
        return found


class Each:
    """Prunes each weight by itself."""

    def __init__(self, kind: type[Weights], job: dict[str, Any]) -> None:
        told = job["prune"]
        self._units = [
            (place, kind(shape, told["weights"][name], told))
            for name, shape, place in zip(job["weights"], job["shapes"], places(job["shapes"]), strict=True)
            if name in told["weights"]
        ]

    def lowest(self, flat: Any, share: float) -> Any:
        """Return which elements go, of all weights."""
        found = np.zeros(len(flat), bool)
        for place, units in self._units:
            found[place] = units.lowest(np.abs(flat[place]), share)
        return found


class Channels:
    """Whole channels: the filters that make them, and their parameters, by the L2 norm of the filters.

    ``told["weights"]`` has an axis for each weight, and which channel each of its positions makes; -1 for none.
    ``told["groups"]`` says which channels, from one number to another, are ranked together, and ``told["filters"]``
    which weights count.
    """

    def __init__(self, job: dict[str, Any]) -> None:
        told = job["prune"]
        self._groups = told["groups"]
        self._labels = np.full(sum(int(np.prod(shape)) for shape in job["shapes"]), -1)
        self._counts = np.zeros(len(self._labels), bool)
        for name, shape, place in zip(job["weights"], job["shapes"], places(job["shapes"]), strict=True):
            if name in told["weights"]:
                axis, labels = told["weights"][name]
                along = np.array(labels).reshape([-1 if a == axis else 1 for a in range(len(shape))])
                self._labels[place] = np.broadcast_to(along, shape).ravel()
                self._counts[place] = name in told["filters"]

    def lowest(self, flat: Any, share: float) -> Any:
        """Return which elements go, of all weights."""
        counts = self._counts & (self._labels >= 0)
        channels = max((last for _, last in self._groups), default=0)
        squares = np.bincount(self._labels[counts], np.square(flat[counts], dtype=np.float64), channels)
        gone = np.zeros(channels + 1, bool)  # the last is that of no channel
        for first, last in self._groups:
            gone[first:last] = lowest(squares[first:last], share)
        return gone[self._labels]


def lowest(scores: Any, share: float, at_most: int | None = None) -> Any:
    """Return which scores are the lowest; one stays at least. Of equal ones the first are taken."""
    found = np.zeros(len(scores), bool)
    count = min(round(share * len(scores)), len(scores) - 1 if at_most is None else at_most)
    found[np.argsort(scores, kind="stable")[:count]] = True
    return found


EACH = {"weights": Weights, "blocks": Blocks, "n_of_m": NOfM}


def make_units(job: dict[str, Any]) -> Each | Channels:
    """Return what the job prunes together."""
    pattern = job["prune"]["pattern"]
    return Channels(job) if pattern == "channels" else Each(EACH[pattern], job)
