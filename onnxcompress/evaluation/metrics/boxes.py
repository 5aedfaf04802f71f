"""The metric of detectors: boxes that are found again."""

from __future__ import annotations

import numpy as np

from ...errors import MetricError
from ...runtime.session import Array
from ...samples.samples import Batch
from .detections import CORNERS, Detections, Found, match
from .score import OWN, Loss, Outputs, Subject, Sums


class Boxes:
    """F1 of the boxes, against labels where there are any, else against those of the original.

    Labels are (samples, most boxes, 5): class, left, top, right, bottom, as the model counts them; a class below 0
    fills rows up.
    """

    def __init__(self, subject: Subject, loss: Loss) -> None:
        self._kinds = subject.kinds
        self._detections: Detections | None = None
        self._there = 0
        self._sums = Sums(_f1, loss)

    def update(self, outputs: Outputs, reference: Outputs, batch: Batch) -> None:
        """Take in one batch."""
        self._detections = self._detections or Detections(self._kinds, reference)
        one, other = (self._detections.read(each) for each in (reference, outputs))
        truths = [(f.boxes, f.classes) for f in one] if batch.labels is None else _labelled(batch.labels)
        if not len(truths) == len(one) == len(other):
            raise MetricError(f"metric 'boxes': {len(other)} samples with boxes and {len(truths)} with labels; {OWN}")
        rows = [
            (_right(a, *truth), len(a.boxes), _right(b, *truth), len(b.boxes), len(truth[0]))
            for a, b, truth in zip(one, other, truths, strict=True)
        ]
        self._there += sum(len(found.boxes) for found in one) + sum(len(boxes) for boxes, _ in truths)
        self._sums.add(np.array(rows, np.float64))

    def value(self) -> float:
        """Return F1 over all samples.

        Raises
        ------
        MetricError
            There is nothing to find, so that nothing could be lost.
        """
        if not self._there:
            raise MetricError(f"metric 'boxes': the original finds nothing in these samples; {OWN}")
        return self._sums.value()

    def losses(self) -> Array | None:
        """Return what each sample loses."""
        return self._sums.losses()


def _right(found: Found, boxes: Array, classes: Array) -> int:
    return match(found, boxes, classes) if len(found.boxes) and len(boxes) else 0


def _labelled(labels: Array) -> list[tuple[Array, Array]]:
    if labels.ndim != 3 or labels.shape[-1] != CORNERS + 1:
        raise MetricError(
            f"metric 'boxes': labels of shape {list(labels.shape)}; expected (samples, boxes, 5): class, left, top, "
            "right, bottom, and rows of class -1 where a sample has fewer"
        )
    return [(rows[rows[:, 0] >= 0][:, 1:].astype(np.float64), rows[rows[:, 0] >= 0][:, 0]) for rows in labels]


def _f1(sums: Array) -> tuple[Array, Array]:
    one_right, one, other_right, other, true = (sums[..., place] for place in range(5))
    return _share(2 * one_right, one + true), _share(2 * other_right, other + true)


def _share(part: Array, whole: Array) -> Array:
    return np.asarray(np.divide(part, whole, out=np.ones_like(part), where=whole > 0))
