"""Metrics of sequences: perplexity, divergence, and texts by CTC."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...errors import MetricError
from ...runtime.session import Array
from ...samples.samples import Batch
from ..decisions import class_scores
from .score import OWN, SEQUENCE_RANK, Loss, Outputs, Subject, Sums, rows_of, shown

IGNORED = -100
"""A label that does not count, as PyTorch has it."""

NAMES_OF_IDS = ("input_ids", "decoder_input_ids", "ids", "tokens")
AT_ONCE = 1 << 20
"""Scores that are looked at at once."""

IN_ALL = 1e-3
"""Probabilities add up to one within that."""


class Perplexity:
    """exp of the mean negative log-likelihood of the labels, or of the next tokens of the input.

    Jelinek et al., "Perplexity: a measure of the difficulty of speech recognition tasks" (1977).
    """

    def __init__(self, subject: Subject, loss: Loss) -> None:
        self._subject = subject
        self._sums = Sums(_perplexities, loss)

    def update(self, outputs: Outputs, reference: Outputs, batch: Batch) -> None:
        """Take in one batch."""
        name, output, original = self._subject.pair(outputs, reference)
        if output.ndim != SEQUENCE_RANK:
            raise MetricError(f"metric 'perplexity': output '{name}' is {list(output.shape)}, no [N, T, tokens]; {OWN}")
        targets, counted = _targets(batch, output.shape, name)
        if targets.size and not (targets.min() >= 0 and targets.max() < output.shape[-1]):
            raise MetricError(f"metric 'perplexity': tokens up to {targets.max()} for {output.shape[-1]:,} of '{name}'")
        positions = targets.shape[1]
        rows = np.zeros((len(output), 3))
        for column, logits in enumerate((original[:, :positions], output[:, :positions])):
            for number, place in _pieces(logits):
                told = np.take_along_axis(
                    log_probabilities(logits[number, place]), targets[number, place, None], axis=-1
                )
                rows[number, column] -= told[counted[number, place], 0].sum()
        rows[:, 2] = counted.sum(axis=1)
        self._sums.add(rows)

    def value(self) -> float:
        """Return the perplexity of all tokens."""
        return self._sums.value()

    def losses(self) -> Array | None:
        """Return what each sample loses."""
        return self._sums.losses()


def _perplexities(sums: Array) -> tuple[Array, Array]:
    with np.errstate(over="ignore"):
        one, other = (np.exp(sums[..., place] / np.maximum(sums[..., 2], 1)) for place in range(2))
    return one, other


def _targets(batch: Batch, shape: tuple[int, ...], name: str) -> tuple[Array, Array]:
    """Return the token that comes at each position, and where it counts."""
    ids = find_ids(batch, shape)
    mask = shown(batch, shape)
    mask = np.ones(shape[:2], bool) if mask is None else mask
    labels = batch.labels
    if labels is not None and labels.shape == shape[:2] and labels.dtype.kind in "iu":
        counted = (labels != IGNORED) & mask
        if ids is None or not (labels == ids)[counted].all():
            return np.asarray(np.where(counted, labels, 0)), counted
        ids, mask = np.where(counted, labels, 0), counted  # labels that are the input stand for what comes next
    if ids is None or shape[1] < 2:
        raise MetricError(
            f"metric 'perplexity': there are no tokens that come next to those of '{name}' {list(shape)}: it takes "
            "labels [N, T], or an input of tokens [N, T] with two at least"
        )
    return ids[:, 1:], mask[:, 1:]


def find_ids(batch: Batch, shape: tuple[int, ...]) -> Array | None:
    """Return the input of tokens that an output of this shape goes with."""
    fitting = {
        name: array.astype(np.int64)
        for name, array in batch.feeds.items()
        if array.dtype.kind in "iu" and array.shape == shape[:2]
    }
    named = [name for name in fitting if name in NAMES_OF_IDS]
    rest = [name for name in fitting if not any(part in name.lower() for part in ("mask", "position", "type"))]
    return next((fitting[name] for name in [*named, *rest]), None)


def _pieces(scores: Array) -> Iterator[tuple[int, slice]]:
    """Yield samples and some positions of each: scores [N, T, tokens] are large."""
    step = max(AT_ONCE // scores.shape[-1], 1)
    for number in range(len(scores)):
        for start in range(0, scores.shape[1], step):
            yield number, slice(start, start + step)


def log_probabilities(scores: Array) -> Array:
    """Return the logarithms of probabilities that are given as such, as their logarithms, or as logits."""
    scores = scores.astype(np.float64)
    if scores.size and scores.min() >= 0 and np.allclose(scores.sum(axis=-1), 1, atol=IN_ALL):
        return np.asarray(np.log(np.maximum(scores, np.finfo(np.float64).tiny)))
    scores = scores - scores.max(axis=-1, keepdims=True)
    return np.asarray(scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True)))


class Divergence:
    """How much information is lost when the classes are told by the other model, in nats, the mean over positions.

    Kullback & Leibler, "On information and sufficiency" (1951).
    """

    def __init__(self, subject: Subject, loss: Loss) -> None:
        self._subject = subject
        self._sums = Sums(_mean, loss)

    def update(self, outputs: Outputs, reference: Outputs, batch: Batch) -> None:
        """Take in one batch."""
        name, output, original = self._subject.pair(outputs, reference)
        one, other = (class_scores(each, self._subject.axes.get(name)) for each in (original, output))
        if one is None or other is None:
            raise MetricError(f"metric 'kl': output '{name}' of shape {list(output.shape)} holds no classes; {OWN}")
        counted = shown(batch, output.shape)
        one, other = (each.reshape(len(each), -1, each.shape[-1]) for each in (one, other))
        positions = np.zeros(one.shape[:-1])
        for number, place in _pieces(one):
            true = log_probabilities(one[number, place])
            positions[number, place] = (np.exp(true) * (true - log_probabilities(other[number, place]))).sum(axis=-1)
        weights = counted if counted is not None and counted.shape == positions.shape else np.ones(positions.shape)
        sums = [rows_of(each, batch.count).sum(axis=1) for each in (positions * weights, weights)]
        self._sums.add(np.stack(sums, axis=1))

    def value(self) -> float:
        """Return the mean."""
        return self._sums.value()

    def losses(self) -> Array | None:
        """Return what each sample loses."""
        return self._sums.losses()


def _mean(sums: Array) -> tuple[Array, Array]:
    found = np.asarray(sums[..., 0] / np.maximum(sums[..., 1], 1))
    return np.zeros_like(found), found
