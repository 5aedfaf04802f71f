"""Metrics of decisions: top1, top5, and the overlap of what each class covers."""

from __future__ import annotations

import numpy as np

from ...errors import MetricError
from ...runtime.session import Array
from ...samples.samples import Batch
from ..decisions import class_scores
from .score import OWN, Loss, Outputs, Subject, Sums, by_sample


class TopK:
    """The share of labels that are among the `k` highest classes."""

    def __init__(self, subject: Subject, k: int) -> None:
        self._subject, self._k = subject, k
        self._right = self._seen = 0
        self._losses: list[Array] = []

    def update(self, outputs: Outputs, reference: Outputs, batch: Batch) -> None:
        """Take in one batch."""
        name, output = self._subject.pick(outputs)
        original = reference[name]
        wanted = batch.labels if batch.labels is not None else np.zeros(0)
        right, was_right = (self._hits(name, array, original, wanted) for array in (output, original))
        self._right += int(right.sum())
        self._seen += right.size
        self._losses.append(by_sample(was_right.astype(np.float64) - right, len(wanted) if wanted.ndim else 1))

    def value(self) -> float:
        """Return the share."""
        return self._right / self._seen

    def losses(self) -> Array:
        """Return what each sample loses."""
        return np.concatenate(self._losses)

    def _hits(self, name: str, output: Array, original: Array, labels: Array) -> Array:
        """For each label, whether it is among the `k` highest classes (equal ones count in their order)."""
        kind = self._subject.kinds.get(name, "")
        scores = None if kind == "binary" else class_scores(output, self._subject.axes.get(name))
        if scores is None:
            found = self._subject.decide(name, output, original)
            return np.asarray(found.reshape(-1) == _flat_labels(name, labels, found.size))
        rows = scores.reshape(-1, scores.shape[-1])
        wanted = _flat_labels(name, labels, len(rows))
        if wanted.dtype.kind not in "iub":
            raise MetricError(f"labels: expected class numbers (integers), got {wanted.dtype}; {OWN}")
        wanted = wanted.astype(np.int64)
        wrong = (wanted < 0) | (wanted >= rows.shape[1])
        if wrong.any():
            raise MetricError(f"label {wanted[wrong][0]}: output '{name}' has classes 0 to {rows.shape[1] - 1}")
        own = np.take_along_axis(rows, wanted[:, None], axis=1)
        earlier = np.arange(rows.shape[1]) < wanted[:, None]
        rank = ((rows > own) | ((rows == own) & earlier)).sum(axis=1)
        # A comparison with NaN is false, which would make a broken model perfect.
        return np.asarray((rank < self._k) & ~np.isnan(rows).any(axis=1))


def _flat_labels(name: str, labels: Array, count: int) -> Array:
    if labels.size != count:
        raise MetricError(f"output '{name}' holds {count} decisions for labels of shape {list(labels.shape)}; {OWN}")
    return labels.reshape(-1)


class Overlap:
    """How much of what each class covers in two maps is the same: intersection over union, the mean over classes.

    Everingham et al., "The Pascal Visual Object Classes Challenge: A Retrospective" (2015), section 3.2: all samples
    are counted together; classes that neither map has do not count.
    """

    def __init__(self, subject: Subject, loss: Loss) -> None:
        self._subject = subject
        self._sums = Sums(_overlaps, loss)

    def update(self, outputs: Outputs, reference: Outputs, batch: Batch) -> None:
        """Take in one batch."""
        name, output, original = self._subject.pair(outputs, reference)
        scores = class_scores(output, self._subject.axes.get(name))
        one, other = (self._subject.decide(name, each, original).astype(np.int64) for each in (original, output))
        classes = scores.shape[-1] if scores is not None else 2
        truth = one if batch.labels is None else batch.labels
        if truth.size != one.size or truth.dtype.kind not in "iub":
            raise MetricError(
                f"output '{name}' decides {list(one.shape)} and the labels are {truth.dtype} {list(truth.shape)}; {OWN}"
            )
        rows = len(one) if len(one) == batch.count else 1
        one, other, true = (each.reshape(rows, -1) for each in (one, other, truth.astype(np.int64)))
        counted = (true >= 0) & (true < classes)
        parts = (_counts(true, counted, classes), *(_covered(each, true, counted, classes) for each in (one, other)))
        self._sums.add(np.concatenate(parts, axis=1))

    def value(self) -> float:
        """Return the mean over the classes."""
        return self._sums.value()

    def losses(self) -> Array | None:
        """Return what each sample loses."""
        return self._sums.losses()


def _counts(classes: Array, counted: Array, number: int) -> Array:
    """Return for each row how often each class occurs."""
    places = np.arange(len(classes))[:, None] * number + np.where(counted, classes, 0)
    weights = counted.reshape(-1).astype(np.float64)
    return np.bincount(places.reshape(-1), weights, len(classes) * number).reshape(len(classes), number)


def _covered(found: Array, true: Array, counted: Array, number: int) -> Array:
    """Return for each row how much each class covers, and how much of that is right."""
    inside = (found >= 0) & (found < number)
    return np.concatenate(
        [_counts(found, counted & inside, number), _counts(found, counted & (found == true), number)], 1
    )


def _overlaps(sums: Array) -> tuple[Array, Array]:
    true, one, one_right, other, other_right = np.split(sums, 5, axis=-1)
    return _mean_overlap(true, one, one_right), _mean_overlap(true, other, other_right)


def _mean_overlap(true: Array, found: Array, right: Array) -> Array:
    union = true + found - right
    there = union > 0
    shares = np.divide(right, union, out=np.zeros_like(right), where=there)
    return np.asarray(shares.sum(axis=-1) / np.maximum(there.sum(axis=-1), 1))
