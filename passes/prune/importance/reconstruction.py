"""Rank channels by how badly what reads them can be made up for from the channels that stay."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from onnxcompress.channels.groups import Group, Groups
from onnxcompress.contract import Refusal
from onnxcompress.graph import edit
from onnxcompress.machines.workers import Workers
from onnxcompress.progress import Progress, silent
from onnxcompress.samples.samples import Samples
from onnxcompress.statistics.gram import Moments, collect_grams

from ..compensate.consumers import Consumer, consumer_of
from ..compensate.least_squares import RECOVERY_SAMPLES
from .activations import places_of

Matrix = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

RIDGE = 1e-5
"""The least that a covariance is drawn to the identity."""

AT_ONCE, CANDIDATES = 32, 4
"""One channel in so many is eliminated before all costs are computed anew, out of so many times as many candidates."""


def reconstruction_scores(
    groups: Groups,
    chosen: Sequence[Group],
    samples: Samples,
    *,
    progress: Progress = silent,
    workers: Workers | None = None,
) -> tuple[dict[str, Matrix], list[Refusal]]:
    """Score each channel by the error that is left after the best compensation, when those before it have gone.

    Channels are eliminated one by one: the one whose removal costs least once the remaining channels are refitted,
    then the next with the refitted weights, as Optimal Brain Surgeon does. A channel's score is the error so far
    when it goes, relative to the energy of the outputs, summed over what reads the group; so scores of different
    groups can be compared, and `lowest` takes the channels in the order in which they went.

    Parameters
    ----------
    groups : Groups
    chosen : sequence of Group
        Groups to score, of `groups`.
    samples : Samples
        The first 512 are used; no labels are needed.
    progress : callable
        Called as ``progress(what, done, total)``.
    workers : Workers, optional
        Who goes through the samples; this process by default.

    Returns
    -------
    scores, refused : dict of str to (size,) float64 array, list of Refusal
        Groups that nothing reads through a constant weight of its own are refused.

    Raises
    ------
    DataError
        A tensor holds NaN or infinity.

    Notes
    -----
    Hassibi and Stork, "Second order derivatives for network pruning: Optimal Brain Surgeon" (1993), for structures
    and layer by layer as in Kurtic et al., ZipLM, arXiv:2302.04089. A kernel's positions share one Gram matrix of
    the channels.
    """
    found = {group.name: _readers(groups, group) for group in chosen}
    sizes = {group.name: group.size for group in chosen}
    reads = {_key(c): None for readers in found.values() for c, _ in readers}
    few = samples.head(RECOVERY_SAMPLES)
    grams = collect_grams(groups.engine.model, few, list(reads), progress=progress, workers=workers)
    scores = {
        name: _eliminate([_Reader.of(c, i, sizes[name], grams[_key(c)]) for c, i in readers], sizes[name])
        for name, readers in found.items()
        if readers
    }
    reason = "nothing reads its channels through a constant weight of its own"
    return scores, [Refusal(name, reason) for name, readers in found.items() if not readers]


def _key(consumer: Consumer) -> tuple[str, int, int]:
    return edit.output_name(consumer.node), 0, consumer.axis


def _readers(groups: Groups, group: Group) -> list[tuple[Consumer, Indices]]:
    """Return what sums over the group's channels, and which channel stands at each position that it reads."""
    index = {(m.value, m.axis): m.index for m in group.members}
    nothing = groups.table(())
    found = []
    for sink in groups.sinks:
        if (sink.data, sink.axis) in index and edit.constant(sink.data) is None:
            at = index[sink.data, sink.axis]
            consumer = consumer_of(groups, sink, nothing)
            if isinstance(consumer, Consumer):
                found.append((consumer, at))
    return found


@dataclasses.dataclass
class _Reader:
    """One operator during elimination.

    Attributes
    ----------
    places : (channels, most) int array
        The positions at which each channel of the group stands, filled up with -1.
    inverse : (inputs, inputs) array
        Inverse of the covariance of the positions that are left.
    energy : (inputs, inputs) array
        ``Wᵀ W`` of the weights as refitted so far.
    """

    places: Indices
    inverse: Matrix
    energy: Matrix

    @classmethod
    def of(cls, consumer: Consumer, index: Indices, channels: int, moments: Moments) -> _Reader:
        """Look at an operator before anything has gone; its outputs are scaled to a variance of 1."""
        covariance = shrunk(moments.covariance(), moments.count)
        energy = np.zeros(covariance.shape)
        size = len(energy) // consumer.groups
        for number, block in enumerate(consumer.blocks()):
            inside = slice(number * size, (number + 1) * size)
            flat = block.swapaxes(0, 1).reshape(size, -1)
            energy[inside, inside] = flat @ flat.T
        energy /= float((covariance * energy).sum()) or 1.0
        inverse: Matrix = np.asarray(np.linalg.inv(covariance), np.float64)
        return cls(places_of(index, channels), inverse, energy)

    def costs(self, channels: Indices) -> Matrix:
        """Return the variance that is left unexplained when one of the channels goes and the rest is refitted."""
        at = self.places[channels]
        absent = at < 0
        if absent.all():  # none of them stands here, and perhaps nothing is left
            return np.zeros(len(channels))
        if at.shape[1] == 1:
            one = at[:, 0]
            return np.where(absent[:, 0], 0, np.maximum(self.energy[one, one] / self.inverse[one, one], 0))
        rows, columns = at[:, :, None], at[:, None, :]
        outside = absent[:, :, None] | absent[:, None, :]
        inverse = np.where(outside, np.eye(at.shape[1]), self.inverse[rows, columns])
        energy = np.where(outside, 0, self.energy[rows, columns])
        return np.asarray(np.maximum(np.trace(np.linalg.solve(inverse, energy), axis1=1, axis2=2), 0))

    def part(self, channels: Indices) -> _Reader:
        """Return the same for some channels alone: what is eliminated among them needs nothing of the others."""
        at = self.places[channels]
        inside = at >= 0
        places = np.where(inside, np.cumsum(inside).reshape(inside.shape) - 1, -1)
        positions = np.ix_(at[inside], at[inside])
        return _Reader(places, self.inverse[positions], self.energy[positions])

    def remove(self, channels: Indices) -> None:
        """Take channels out and refit the weights of the others."""
        at = self.places[channels]
        at = at[at >= 0]
        if not len(at):
            return
        stays = np.ones(len(self.inverse), bool)
        stays[at] = False
        rest = np.ix_(stays, stays)
        across = self.inverse[at][:, stays]
        step = np.linalg.solve(self.inverse[np.ix_(at, at)], across)
        moved = step.T @ self.energy[at][:, stays]
        self.inverse = self.inverse[rest] - across.T @ step
        self.energy = self.energy[rest] - moved - moved.T + step.T @ self.energy[np.ix_(at, at)] @ step
        self.places[channels] = -1
        number = np.append(np.cumsum(stays) - 1, -1)
        self.places = number[self.places]


def shrunk(covariance: Matrix, count: int) -> Matrix:
    """Draw a covariance of few rows towards a multiple of the identity, so that no more is promised than holds.

    Oracle approximating shrinkage: Chen et al., arXiv:0907.4698, equation 23.
    """
    size = len(covariance)
    square, mean = float((covariance**2).sum()), float(np.trace(covariance)) / size
    spread = (count + 1 - 2 / size) * (square - size * mean**2)
    amount = ((1 - 2 / size) * square + (size * mean) ** 2) / spread if spread > 0 else 1.0
    amount = min(max(amount, RIDGE), 1.0)
    return np.asarray((1 - amount) * covariance + amount * (mean or 1.0) * np.eye(size))


def _eliminate(readers: list[_Reader], size: int) -> Matrix:
    """Return for each channel the error that has added up when it goes.

    The candidates for the next few eliminations are the channels that look cheapest now; among them each step is exact.
    """
    scores, error = np.full(size, np.inf), 0.0
    left = np.arange(size)
    while len(left):
        costs = sum(reader.costs(left) for reader in readers)
        count = -(-len(left) // AT_ONCE)
        candidates = left[np.argsort(costs, kind="stable")[: CANDIDATES * count]]
        parts = [reader.part(candidates) for reader in readers]
        inside = np.arange(len(candidates))
        for _ in range(count):
            now = np.asarray(sum(part.costs(inside) for part in parts))
            cheapest = int(np.argmin(now))
            error += float(now[cheapest])
            scores[candidates[inside[cheapest]]] = error
            for part in parts:
                part.remove(inside[cheapest : cheapest + 1])
            inside = np.delete(inside, cheapest)
        gone = np.delete(candidates, inside)
        for reader in readers:
            reader.remove(gone)
        left = np.setdiff1d(left, gone, assume_unique=True)
    return scores
