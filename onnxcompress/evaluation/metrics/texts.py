"""Metrics of texts that a network writes by CTC."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...errors import MetricError
from ...runtime.session import Array
from ...samples.samples import Batch
from .score import OWN, Loss, Outputs, Subject, Sums

Text = tuple[int, ...]


class Texts:
    """Texts that are read without an error, or the characters that are wrong.

    Graves et al., "Connectionist Temporal Classification" (2006): at each step the best class; of those that follow
    each other and are the same, one stays, and blanks go. Against labels where there are any, else against what the
    original reads.

    Parameters
    ----------
    subject : Subject
    loss : callable
    exact : bool
        Count the texts that are right; else the share of the characters that had to be changed.
    """

    def __init__(self, subject: Subject, loss: Loss, *, exact: bool) -> None:
        self._subject, self._exact = subject, exact
        self._blank: int | None = None
        self._sums = Sums(_shares, loss)
        self._losses: list[float] = []

    def update(self, outputs: Outputs, reference: Outputs, batch: Batch) -> None:
        """Take in one batch."""
        name, output, original = self._subject.pair(outputs, reference)
        if output.ndim != 3:
            raise MetricError(f"metric 'text': output '{name}' is {list(output.shape)}, no [N, steps, classes]; {OWN}")
        axis = self._subject.axes.get(name, output.ndim - 1)
        steps = [np.moveaxis(each, axis, -1).argmax(axis=-1) for each in (original, output)]
        if self._blank is None:
            self._blank = _blank(steps[0], output.shape[axis])
        one, other = ([collapse(row, self._blank) for row in each] for each in steps)
        truths = one if batch.labels is None else self._read_labels(batch.labels, len(one))
        rows = [(*self._judge(a, true), *self._judge(b, true)) for a, b, true in zip(one, other, truths, strict=True)]
        self._sums.add(np.array(rows, np.float64))
        self._losses += [float(row[0] - row[2]) for row in rows]

    def value(self) -> float:
        """Return the share."""
        return self._sums.value()

    def losses(self) -> Array | None:
        """Return what each sample loses."""
        return np.array(self._losses) if self._exact else self._sums.losses()

    def _judge(self, found: Text, true: Text) -> tuple[float, float]:
        if self._exact:
            return float(found == true), 1.0
        return float(edits(found, true)), float(len(true))

    def _read_labels(self, labels: Array, count: int) -> list[Text]:
        """Return labels as class numbers: (samples, most characters) filled up with -1 or blanks, or strings."""
        if labels.ndim == 2 and labels.dtype.kind in "iu" and len(labels) == count:
            return [tuple(int(n) for n in row if n >= 0 and n != self._blank) for row in labels]
        if labels.ndim == 1 and labels.dtype.kind in "OSU" and len(labels) == count and self._subject.characters:
            numbers = {character: place for place, character in reversed([*enumerate(self._subject.characters)])}
            return [tuple(numbers.get(c, -1) for c in (t.decode() if isinstance(t, bytes) else str(t))) for t in labels]
        raise MetricError(
            f"metric 'text': labels are {labels.dtype} {list(labels.shape)}; expected class numbers (samples, "
            f"characters), rows filled up with -1; {OWN}"
        )


def _blank(steps: Array, classes: int) -> int:
    """Return the class that stands for nothing: the first or the last, whichever is seen more often."""
    return 0 if (steps == 0).sum() >= (steps == classes - 1).sum() else classes - 1


def collapse(steps: Array, blank: int) -> Text:
    """Return a text from the best class of each step.

    >>> collapse(np.array([0, 3, 3, 0, 3, 5]), 0)
    (3, 3, 5)
    """
    new = np.ones(len(steps), bool)
    new[1:] = steps[1:] != steps[:-1]
    return tuple(steps[new & (steps != blank)].tolist())


def edits(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many characters have to be put in, taken out or replaced (Levenshtein 1966).

    >>> edits((11, 9, 20, 20, 5, 14), (19, 9, 20, 20, 9, 14, 7))  # kitten, sitting
    3
    """
    if one == other:
        return 0
    second, places = np.asarray(other, np.int64), np.arange(len(other) + 1)
    row = places
    for character in one:
        changed = np.empty_like(row)
        changed[0] = row[0] + 1
        changed[1:] = np.minimum(row[1:] + 1, row[:-1] + (second != character))
        row = np.minimum.accumulate(changed - places) + places  # what is put in, all at once
    return int(row[-1])


def _shares(sums: Array) -> tuple[Array, Array]:
    one, whole, other, again = (sums[..., place] for place in range(4))
    return np.asarray(one / np.maximum(whole, 1)), np.asarray(other / np.maximum(again, 1))
