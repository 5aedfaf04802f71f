"""What every metric is made of: sums over samples, and how much is lost on each."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from ...errors import MetricError
from ...graph.output_kinds import CACHE, MASK
from ...runtime.session import Array
from ...samples.samples import Batch
from ..decisions import decisions

Outputs = Mapping[str, Any]
Loss = Callable[[Any, Any], Any]

OWN = 'use a metric of your own (metric = "file.py:function")'

SEQUENCE_RANK = 3

BLOCKS = 4096
"""Samples are taken together two by two beyond so many, so that the memory for them stays as it is."""


class Score(Protocol):
    """Adds up what is needed of the outputs, batch by batch."""

    def update(self, outputs: Outputs, reference: Outputs, batch: Batch) -> None:
        """Take in one batch; `reference` holds the original's outputs for the same samples."""

    def value(self) -> float:
        """Return the metric over all batches."""

    def losses(self) -> Array | None:
        """Return how much is lost on each sample, so that the mean is the drop; None where that cannot be told."""


@dataclass(frozen=True)
class Subject:
    """What a score is told of the outputs.

    Attributes
    ----------
    output : str
        The one that is scored; the first, if it is empty.
    kinds : dict of str to str
        What the outputs are; see `onnxcompress.purpose.Purpose`.
    axes : dict of str to int
        Output → its axis of classes.
    resizable : collection of str
        The outputs of which the two models may give other sizes.
    characters : tuple of str
        What the classes of a text stand for, where the model says it.
    """

    output: str = ""
    kinds: Mapping[str, str] = field(default_factory=dict)
    axes: Mapping[str, int] = field(default_factory=dict)
    resizable: Collection[str] = ()
    characters: tuple[str, ...] = ()

    def pick(self, outputs: Outputs) -> tuple[str, Array]:
        """Return the output that is scored, with its name.

        Raises
        ------
        MetricError
            It is no tensor.
        """
        name = self.output or next(iter(outputs))
        output = outputs[name]
        if not isinstance(output, np.ndarray):
            raise MetricError(f"output '{name}' is a {type(output).__name__}, not a tensor; {OWN}")
        return name, output

    def pair(self, outputs: Outputs, reference: Outputs) -> tuple[str, Array, Array]:
        """Return the output that is scored, of both models and of the same size, with its name."""
        name, output = self.pick(outputs)
        original = reference[name]
        if output.shape != original.shape:
            raise MetricError(
                f"output '{name}' has shape {list(output.shape)} where the original's has {list(original.shape)}; {OWN}"
            )
        return name, output, original

    def decide(self, name: str, output: Array, original: Array) -> Array:
        """Return what an output decides for each position, without axes of length 1 behind the first.

        Raises
        ------
        MetricError
            It decides nothing.
        """
        found = decisions(output, self.kinds.get(name, ""), self.axes.get(name), original)
        if found is None:
            raise MetricError(f"output '{name}' of shape {list(output.shape)} holds no classes; {OWN}")
        return found


class Sums:
    """A metric that is a function of sums over the samples.

    Its losses are jackknife pseudo-values: how far the drop moves when a sample is left out (Tukey, "Bias and
    confidence in not-quite large samples", 1958).

    Parameters
    ----------
    values : callable
        From sums (..., numbers) to the metric of the original and that of the other.
    loss : callable
        From these to what was lost.
    """

    def __init__(self, values: Callable[[Array], tuple[Array, Array]], loss: Loss) -> None:
        self._values, self._loss = values, loss
        self._rows: list[Array] = []
        self._held = 0
        self._together = 1

    def add(self, rows: Array) -> None:
        """Take in what each of some samples adds to the sums (samples, numbers)."""
        self._rows.append(np.asarray(rows, np.float64))
        self._held += len(rows)
        if self._held > 2 * BLOCKS:
            joined = np.concatenate(self._rows)
            self._rows = [np.add.reduceat(joined, np.arange(0, len(joined), 2), axis=0)]
            self._held = len(self._rows[0])

    def value(self) -> float:
        """Return the metric of the other model."""
        return float(self._values(np.concatenate(self._rows).sum(axis=0))[1])

    def losses(self) -> Array | None:
        """Return how much is lost on each sample."""
        rows = np.concatenate(self._rows)
        total, count = rows.sum(axis=0), len(rows)
        drop = float(self._loss(*self._values(total)))
        if count < 2 or not np.isfinite(drop):
            return None
        without = np.asarray(self._loss(*self._values(total - rows)), np.float64)
        moved = (count - 1) * (without.mean() - without)
        return drop + moved if np.isfinite(moved).all() else None


def by_sample(values: Array, count: int) -> Array:
    """Return the mean for each of `count` samples: what belongs to one sample says less than as many samples would."""
    return np.asarray(values.reshape(count, -1).mean(axis=1))


def rows_of(output: Array, count: int) -> Array:
    """Return an output as (samples, values); one row where its first axis is not that of the samples."""
    rows = count if output.ndim and len(output) == count else 1
    return output.reshape(rows, -1)


def shown(batch: Batch, shape: tuple[int, ...]) -> Array | None:
    """Return which positions of an output (batch, positions, features) are no padding, where an input tells."""
    if len(shape) != SEQUENCE_RANK:
        return None
    cached = any(CACHE.search(name) for name in batch.feeds)  # then the mask speaks of what came before, too
    for name, array in batch.feeds.items():
        if MASK.search(name) and array.ndim == 2 and len(array) == shape[0]:
            before = array.shape[1] - shape[1]
            if before == 0 or (before > 0 and cached):
                return np.asarray(array[:, before:] != 0)
    return None
