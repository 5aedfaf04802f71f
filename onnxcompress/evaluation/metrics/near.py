"""Metrics of numbers: how near they come to the labels or to the original's."""

from __future__ import annotations

import numpy as np

from ...errors import MetricError
from ...runtime.session import Array
from ...samples.samples import Batch
from ..decisions import DECIDING
from ..fidelity import Fidelity
from .score import OWN, Loss, Outputs, Subject, Sums, rows_of, shown

FEATURES = 64
"""Numbers for each sample up to which each has a mean of its own."""


class Near:
    """One field of an `OutputFidelity`."""

    def __init__(self, subject: Subject, field: str) -> None:
        self._field, self._subject = field, subject
        self._fidelity: Fidelity | None = None

    def update(self, outputs: Outputs, reference: Outputs, batch: Batch) -> None:
        """Take in one batch."""
        name, output = self._subject.pick(outputs)
        if self._fidelity is None:
            kind = self._subject.kinds.get(name, "")
            self._fidelity = Fidelity(
                name,
                kind=kind if kind in DECIDING else "",
                axis=self._subject.axes.get(name),
                resizable=name in self._subject.resizable,
            )
        self._fidelity.update(reference[name], output, batch.count, shown(batch, output.shape))

    def value(self) -> float:
        """Return the field."""
        if self._fidelity is None:
            raise MetricError(f"metric '{self._field}': there are no outputs")
        value: float | None = getattr(self._fidelity.result(), self._field)
        if value is None:
            raise MetricError(
                f"metric '{self._field}': output '{self._fidelity.name}' {self._fidelity.why_none}; {OWN}"
            )
        return value

    def losses(self) -> Array | None:
        """Return what each sample loses."""
        if self._fidelity is None:
            return None
        made = {"agreement": self._fidelity.losses, "cosine": self._fidelity.cosine_losses}.get(self._field)
        return None if made is None else made()


class Explained:
    """The share of the variance that is explained, R²: 1 − squared differences / squared distances from the mean.

    Draper & Smith, "Applied Regression Analysis" (1998), section 1.3; of several numbers, the sums of all are taken.
    """

    def __init__(self, subject: Subject, loss: Loss) -> None:
        self._subject = subject
        self._sums = Sums(_explained, loss)
        self._width: int | None = None

    def update(self, outputs: Outputs, reference: Outputs, batch: Batch) -> None:
        """Take in one batch."""
        name, output, original = self._subject.pair(outputs, reference)
        truth = original if batch.labels is None else np.asarray(batch.labels)
        if truth.size != output.size or truth.dtype.kind not in "fiub":
            raise MetricError(
                f"output '{name}' holds numbers {list(output.shape)} and the labels are {truth.dtype} "
                f"{list(truth.shape)}; {OWN}"
            )
        shaped = (each.reshape(output.shape) for each in (original, output, truth))
        one, other, true = (rows_of(each, batch.count).astype(np.float64) for each in shaped)
        differences = [np.square(_finite_or_far(each - true)).sum(axis=1, keepdims=True) for each in (one, other)]
        if self._width not in (None, true.shape[1]):  # numbers that come and go have one mean for all of them
            self._sums.replace(_with_one_mean)
            self._width = 0
        self._width = true.shape[1] if self._width is None else self._width
        means = true if 0 < self._width <= FEATURES else true.sum(axis=1, keepdims=True)
        squares = np.square(true).sum(axis=1, keepdims=True)
        size = np.full((len(true), 1), true.shape[1] / means.shape[1])
        self._sums.add(np.concatenate([*differences, squares, size, means], axis=1))

    def value(self) -> float:
        """Return the share."""
        return self._sums.value()

    def losses(self) -> Array | None:
        """Return what each sample loses."""
        return self._sums.losses()


def _finite_or_far(differences: Array) -> Array:
    """Return differences in which NaN, a comparison with which is false, is infinitely far."""
    return np.where(np.isfinite(differences), differences, np.inf)


def _with_one_mean(rows: Array) -> Array:
    """Return the sums of `Explained` as they are with one mean for all numbers in place of one for each."""
    sums, size, means = rows[:, :3], rows[:, 3:4], rows[:, 4:]
    return np.concatenate([sums, size * means.shape[1], means.sum(axis=1, keepdims=True)], axis=1)


def _explained(sums: Array) -> tuple[Array, Array]:
    squares, size = sums[..., 2], sums[..., 3]
    spread = squares - np.square(sums[..., 4:]).sum(axis=-1) / size
    there = spread > squares * SMALLEST
    one, other = (
        np.where(there | (noise == 0), 1 - noise / np.where(there, spread, 1.0), -np.inf)
        for noise in (sums[..., 0], sums[..., 1])
    )
    return one, other


SMALLEST = 1e-12
"""A variance beyond that share of the squares is one; less is rounding."""
