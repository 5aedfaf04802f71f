"""Rank channels by how badly what reads them can be made up for from the channels that stay."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import scipy.linalg

from onnxcompress.channels.groups import Group, Groups
from onnxcompress.contract import Refusal
from onnxcompress.graph import edit
from onnxcompress.progress import Progress, silent
from onnxcompress.runtime.gram import Moments, collect_grams
from onnxcompress.runtime.samples import Samples

from .compensate import RECOVERY_SAMPLES, RIDGE
from .consumers import Consumer, consumer_of

Matrix = npt.NDArray[np.float64]


def reconstruction_scores(
    groups: Groups, chosen: Sequence[Group], samples: Samples, *, progress: Progress = silent
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
    sizes = {group.name: group.labels for group in chosen}
    reads = {_key(c): None for readers in found.values() for c, _ in readers}
    grams = collect_grams(groups.engine.model, samples.head(RECOVERY_SAMPLES), list(reads), progress=progress)
    scores = {
        name: _eliminate([_Reader.of(c, index, grams[_key(c)]) for c, index in readers], len(sizes[name]))
        for name, readers in found.items()
        if readers
    }
    reason = "nothing reads its channels through a constant weight of its own"
    return scores, [Refusal(name, reason) for name, readers in found.items() if not readers]


def _key(consumer: Consumer) -> tuple[str, int, int]:
    return edit.output_name(consumer.node), 0, consumer.axis


def _readers(groups: Groups, group: Group) -> list[tuple[Consumer, npt.NDArray[np.int64]]]:
    """Return what sums over the group's channels, and which channel stands at each position that it reads."""
    index = {(m.value, m.axis): m.index for m in group.members}
    nothing = groups.table(())
    found = []
    for sink in groups.sinks:
        if (sink.data, sink.axis) in index and edit.constant(sink.data) is None:
            at = index[sink.data, sink.axis]
            consumer = consumer_of(groups, sink, np.zeros(len(at), bool), nothing)
            if isinstance(consumer, Consumer):
                found.append((consumer, at))
    return found


@dataclasses.dataclass
class _Reader:
    """One operator during elimination.

    Attributes
    ----------
    index : (inputs,) int array
        Which channel of the group stands at each position; -1 for none.
    inverse : (inputs, inputs) array
        Inverse of the Gram matrix of the positions that are left.
    energy : (inputs, inputs) array
        ``Wᵀ W`` of the weights as refitted so far.
    total : float
        Mean square of the outputs before anything goes.
    """

    index: npt.NDArray[np.int64]
    inverse: Matrix
    energy: Matrix
    total: float

    @classmethod
    def of(cls, consumer: Consumer, index: npt.NDArray[np.int64], moments: Moments) -> _Reader:
        """Look at an operator before anything has gone."""
        gram = moments.own / max(moments.count, 1)
        gram = gram + np.eye(len(gram)) * (RIDGE * np.trace(gram) / len(gram) or 1.0)
        energy = np.zeros(gram.shape)
        for part in consumer.parts():
            weight = np.moveaxis(consumer.weight[part.weight], consumer.in_axis, 0)
            flat = weight.reshape(len(weight), -1)
            energy[part.data, part.data] += flat @ flat.T
        inverse = scipy.linalg.cho_solve(scipy.linalg.cho_factor(gram), np.eye(len(gram)))
        return cls(index, inverse, energy, float((gram * energy).sum()) or 1.0)

    def costs(self, size: int) -> Matrix:
        """Return what removing each channel would cost now."""
        inside = self.index >= 0
        diagonal = np.diag(self.inverse)[inside]
        cost = np.diag(self.energy)[inside] / np.where(diagonal > 0, diagonal, np.inf)
        return np.bincount(self.index[inside], np.maximum(cost, 0), size) / self.total

    def remove(self, channel: int) -> None:
        """Take a channel out and refit the weights of the others."""
        for position in np.flatnonzero(self.index == channel):
            pivot = self.inverse[position, position]
            if pivot <= 0:
                continue
            step = self.inverse[position] / pivot
            moved = self.energy[position].copy()
            self.energy += np.outer(step, step) * moved[position] - np.outer(step, moved) - np.outer(moved, step)
            self.inverse -= np.outer(step, step) * pivot
            for matrix in (self.energy, self.inverse):
                matrix[position] = matrix[:, position] = 0


def _eliminate(readers: list[_Reader], size: int) -> Matrix:
    """Return for each channel the error that has added up when it goes."""
    scores, error = np.full(size, np.inf), 0.0
    left = np.ones(size, bool)
    for _ in range(size):
        costs = np.where(left, sum(reader.costs(size) for reader in readers), np.inf)
        cheapest = int(np.argmin(costs))
        error += float(costs[cheapest])
        scores[cheapest] = error
        left[cheapest] = False
        for reader in readers:
            reader.remove(cheapest)
    return scores
