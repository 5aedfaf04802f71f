"""What a detector found: boxes, scores and classes, read out of its outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import MetricError
from ...runtime.session import Array
from .score import OWN

SURE = 0.25
"""A box of at least this score is one that was found."""

OVERLAP = 0.5
"""Boxes of one class that overlap by more are one."""

MOST = 1000
"""Boxes that are looked at in one sample, those of the highest scores."""

KEPT = 300
"""Boxes that are kept of those at most, after suppression."""

CORNERS = 4
END_TO_END = 6
"""Numbers in a row that holds corners, a score and a class."""


@dataclass(frozen=True)
class Found:
    """What was found in one sample, the highest scores first.

    Attributes
    ----------
    boxes : ndarray
        (count, 4): left, top, right, bottom.
    scores, classes : ndarray
        (count,)
    """

    boxes: Array
    scores: Array
    classes: Array


@dataclass(frozen=True)
class Rows:
    """All the boxes of a batch, before any is chosen.

    Attributes
    ----------
    boxes : ndarray
        (samples, anchors, 4)
    scores : ndarray
        (samples, anchors, classes), or (samples, anchors) with the classes apart.
    classes : ndarray, optional
        (samples, anchors)
    """

    boxes: Array
    scores: Array
    classes: Array | None = None


class Detections:
    """Reads what a detector found; how boxes and scores are written is told by the original's first outputs.

    Parameters
    ----------
    kinds : dict of str to str
        What the outputs are; see `onnxcompress.purpose.Purpose`.
    outputs : dict of str to ndarray
        The original's, for some samples.
    """

    def __init__(self, kinds: Mapping[str, str], outputs: Mapping[str, Any]) -> None:
        self._kinds = kinds
        rows = read_rows(kinds, outputs)
        self._suppressed = rows.classes is not None
        self._softmax, self._background = _probabilities(rows.scores) if rows.classes is None else ("", None)
        scores = self._scores(rows.scores)
        best = scores.max(axis=-1) if rows.classes is None else scores
        highest = float(np.nanmax(best, initial=0.0))
        self._sure = SURE if highest >= SURE else highest / 2
        self._centres = not self._suppressed and not _are_corners(rows.boxes[best >= max(self._sure, 0.0)])

    def read(self, outputs: Mapping[str, Any]) -> list[Found]:
        """Return what was found in each sample."""
        rows = read_rows(self._kinds, outputs)
        scores = self._scores(rows.scores)
        found = []
        for number, boxes in enumerate(rows.boxes):
            if rows.classes is None:
                classes, best = scores[number].argmax(axis=-1), scores[number].max(axis=-1)
            else:
                classes, best = rows.classes[number], scores[number]
            found.append(self._choose(boxes, best, classes))
        return found

    def _choose(self, boxes: Array, scores: Array, classes: Array) -> Found:
        places = np.flatnonzero(scores >= self._sure) if self._sure > 0 else np.zeros(0, np.int64)
        places = places[np.argsort(-scores[places], kind="stable")][:MOST]
        boxes, scores, classes = boxes[places].astype(np.float64), scores[places], classes[places]
        if self._centres:
            boxes = np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], axis=1)
        keep = np.arange(len(boxes)) if self._suppressed else suppress(boxes, classes)
        keep = keep[:KEPT]
        return Found(boxes[keep], scores[keep], classes[keep])

    def _scores(self, scores: Array) -> Array:
        scores = scores.astype(np.float32)
        if self._softmax == "logits":
            scores = 1 / (1 + np.exp(-np.clip(scores, -60, 60)))
        elif self._softmax == "softmax logits":
            scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
            scores = scores / scores.sum(axis=-1, keepdims=True)
        if self._background is not None:
            scores = scores.copy()
            scores[..., self._background] = 0
        return np.fmax(scores, 0)  # NaN is no score


def read_rows(kinds: Mapping[str, str], outputs: Mapping[str, Any]) -> Rows:
    """Return all boxes of a batch.

    Raises
    ------
    MetricError
        The outputs are not those of a detector that is known.
    """
    by_kind: dict[str, list[Array]] = {}
    for name, array in outputs.items():
        by_kind.setdefault(kinds.get(name, ""), []).append(array)
    if "boxes" in by_kind and "scores" in by_kind:
        boxes, scores = by_kind["boxes"][0], by_kind["scores"][0]
        whole = next((a for a in by_kind.get("decisions", []) if a.shape == boxes.shape[:-1]), None)
        if boxes.ndim == 2:
            boxes, whole = boxes[None], None if whole is None else whole[None]
        if scores.shape[:1] != boxes.shape[:1] or scores.ndim == 1:
            scores = scores[None]
        if scores.ndim == boxes.ndim - 1:
            return Rows(boxes, scores, np.zeros(scores.shape, np.int64) if whole is None else whole)
        return Rows(boxes, scores)
    if "detections" in by_kind:
        return _one_tensor(by_kind["detections"][0])
    there = ", ".join(f"'{name}' ({kinds.get(name, 'unknown')})" for name in outputs)
    raise MetricError(f"metric 'boxes': no boxes with their scores are known among the outputs {there}; {OWN}")


def _one_tensor(array: Array) -> Rows:
    """Read (N, 4 + classes, anchors), or (N, anchors, 5 + classes), where the fifth says whether it is anything."""
    if array.shape[-1] == END_TO_END and array.shape[1] > END_TO_END:
        return Rows(array[..., :CORNERS], array[..., CORNERS], array[..., CORNERS + 1].astype(np.int64))
    if array.shape[1] < array.shape[2]:
        rows = np.moveaxis(array, 1, 2)
        return Rows(rows[..., :CORNERS], rows[..., CORNERS:])
    return Rows(array[..., :CORNERS], array[..., CORNERS : CORNERS + 1] * array[..., CORNERS + 1 :])


def _probabilities(scores: Array) -> tuple[str, int | None]:
    """Tell how scores are written, and which class says that there is nothing.

    Probabilities that add up to 1 have one, the first or the last, whichever most anchors choose.
    """
    if scores.shape[-1] == 1:
        return ("" if np.nanmin(scores) >= 0 and np.nanmax(scores) <= 1 else "logits"), None
    inside = bool(np.nanmin(scores) >= 0 and np.nanmax(scores) <= 1)
    if inside and not np.allclose(scores.sum(axis=-1), 1, atol=1e-3):
        return "", None
    chosen = scores.argmax(axis=-1)
    first, last = int((chosen == 0).sum()), int((chosen == scores.shape[-1] - 1).sum())
    if inside:
        return "", 0 if first >= last else scores.shape[-1] - 1
    if max(first, last) * 2 > chosen.size:
        return "softmax logits", 0 if first >= last else scores.shape[-1] - 1
    return "logits", None


def _are_corners(boxes: Array) -> bool:
    """Tell whether boxes are written as two corners, and not as a centre, a width and a height."""
    return not len(boxes) or bool((boxes[:, 2:] >= boxes[:, :2]).all(axis=1).mean() > NEARLY_ALL)


NEARLY_ALL = 0.9


def overlaps(one: Array, other: Array) -> Array:
    """Return the intersection over union of each box with each other (ones, others)."""
    shared = np.ones((len(one), len(other)))
    for axis in range(2):
        low = np.maximum(one[:, None, axis], other[None, :, axis])
        high = np.minimum(one[:, None, axis + 2], other[None, :, axis + 2])
        shared *= np.maximum(high - low, 0)
    areas = [np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1) for boxes in (one, other)]
    union = areas[0][:, None] + areas[1][None, :] - shared
    return np.asarray(np.divide(shared, union, out=shared, where=union > 0))


def suppress(boxes: Array, classes: Array) -> Array:
    """Return which boxes, the highest scores first, stay when those that overlap a better one of their class go."""
    alike = (overlaps(boxes, boxes) > OVERLAP) & (classes[:, None] == classes[None, :])
    gone = np.zeros(len(boxes), bool)
    for place in range(len(boxes)):
        if not gone[place]:
            gone[place + 1 :] |= alike[place, place + 1 :]
    return np.flatnonzero(~gone)


def match(found: Found, boxes: Array, classes: Array) -> int:
    """Return how many boxes have one among those found: of the same class, with an overlap of a half, each only once.

    Everingham et al., "The Pascal Visual Object Classes Challenge" (2010), section 4.2: the highest score chooses
    first.
    """
    near = overlaps(found.boxes, boxes)
    near[(found.classes[:, None] != classes[None, :]) | (near < OVERLAP)] = 0
    matched = 0
    for row in near:
        best = int(row.argmax()) if row.size else 0
        if row.size and row[best] > 0:
            near[:, best] = 0
            matched += 1
    return matched
