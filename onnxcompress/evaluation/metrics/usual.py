"""The metric that a model is judged by where nobody chose one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...purpose import Purpose
from ...runtime.session import Array
from ...samples.samples import Batch
from ..decisions import DECIDING, class_scores
from .detections import CORNERS, Detections
from .score import SEQUENCE_RANK, Subject
from .sequences import find_ids

USUAL: dict[str, tuple[str, str]] = {
    "classes": ("top1", "agreement"),
    "binary": ("top1", "agreement"),
    "decisions": ("top1", "agreement"),
    "tokens": ("perplexity", "agreement"),
    "pixels": ("iou", "iou"),
    "text": ("text", "text"),
    "embedding": ("cosine", "cosine"),
    "wave": ("cosine", "cosine"),
    "values": ("r2", "r2"),
    "boxes": ("boxes", "boxes"),
    "detections": ("boxes", "boxes"),
    "head": ("cosine:*", "cosine:*"),
    "scores": ("cosine", "cosine"),
    "state": ("cosine", "cosine"),
}
"""What the main output is → the metric with labels that fit, and without. Tokens have those that come next."""

SAME_SIZE = {"r2", "iou", "text", "perplexity"}
"""Metrics that cannot compare outputs of two sizes."""

LIKE = {
    "classes": "scores of classes",
    "binary": "a yes or no",
    "decisions": "whole numbers",
    "tokens": "scores of tokens",
    "pixels": "a class for each pixel",
    "text": "characters",
    "embedding": "an embedding",
    "wave": "a signal",
    "values": "numbers",
    "boxes": "boxes",
    "detections": "boxes with their scores",
    "head": "one level of a detector",
    "scores": "scores",
    "state": "state",
}


@dataclass(frozen=True)
class Choice:
    """A metric that was chosen for a model.

    Attributes
    ----------
    metric : str
    labelled : bool
        It is to look at the labels.
    note : str
        That it is a guess, and why, or that labels were left out; empty where there is nothing to tell.
    """

    metric: str
    labelled: bool = True
    note: str = ""


def choose_metric(
    purpose: Purpose, subject: Subject, batch: Batch, outputs: dict[str, Any], *, random: bool = False
) -> Choice:
    """Return the metric for a model.

    Parameters
    ----------
    purpose : Purpose
    subject : Subject
        What else is known of the outputs.
    batch : Batch
        The first.
    outputs : dict of str to ndarray
        What the original makes of it.
    random : bool
        The samples are random values.
    """
    name = purpose.main
    kind, output = purpose.outputs.get(name, "embedding"), outputs.get(name)
    with_labels, without = USUAL[kind]
    labelled = labels_fit(purpose, output, batch) and not (kind == "text" and _unreadable(batch, subject))
    if kind == "tokens":
        labelled = not random and _told(purpose, batch, output)
    metric = with_labels if labelled else without
    notes = []
    if metric == "boxes" and not labelled and _finds_none(purpose, outputs):
        metric, notes = "cosine", ["Metric: cosine, since the original finds nothing in the first samples"]
    elif name in subject.resizable and metric in SAME_SIZE:
        metric, notes = "cosine", [f"Metric: cosine, since the size of '{name}' depends on the data"]
    elif purpose.guess:
        why = f"'{name}' looks like {LIKE[kind]} ({purpose.why.get(name, '')})"
        notes = [f"Metric: {metric}, guessed since {why}; --metric chooses"]
    if batch.labels is not None and not labelled:
        shape = list(output.shape) if isinstance(output, np.ndarray) else "unknown"
        given = f"labels {batch.labels.dtype} {list(batch.labels.shape)}"
        notes.append(f"{metric} compares with the original: {given} are not what '{name}' {shape} could be judged by")
    return Choice(metric, labelled, "; ".join(notes))


def _finds_none(purpose: Purpose, outputs: dict[str, Any]) -> bool:
    """Tell whether a detector has found nothing, so that nothing could be lost of it."""
    return not any(len(found.boxes) for found in Detections(purpose.outputs, outputs).read(outputs))


def _unreadable(batch: Batch, subject: Subject) -> bool:
    """Tell whether labels are strings, and the model does not say what its classes stand for."""
    return batch.labels is not None and batch.labels.dtype.kind in "OSU" and not subject.characters


def _told(purpose: Purpose, batch: Batch, output: Any) -> bool:
    """Tell whether the right tokens are known: by labels, or since a model that keeps what came before reads the next.

    A model that keeps nothing may see all tokens at once, and fill gaps.
    """
    if not isinstance(output, np.ndarray) or output.ndim != SEQUENCE_RANK:
        return False
    labels = batch.labels
    if labels is not None and labels.shape == output.shape[:2] and labels.dtype.kind in "iu":
        return True
    follows = output.shape[1] > 1 and find_ids(batch, output.shape) is not None
    return follows and "state" in purpose.outputs.values()


def labels_fit(purpose: Purpose, output: Any, batch: Batch) -> bool:
    """Tell whether labels can be what the main output is judged by."""
    labels, kind = batch.labels, purpose.outputs.get(purpose.main, "")
    if labels is None or not isinstance(output, np.ndarray):
        return False
    if kind in FITTING:
        return FITTING[kind](output, labels)
    if kind not in DECIDING:
        return False
    scores = None if kind == "binary" else class_scores(output, purpose.axes.get(purpose.main))
    decided = output.size if scores is None else scores[..., 0].size
    return labels.dtype.kind in ("iubOSU" if scores is None else "iub") and labels.size == decided


def _numbers_fit(output: Array, labels: Array) -> bool:
    return labels.dtype.kind in "fiub" and labels.size == output.size


def _boxes_fit(_output: Array, labels: Array) -> bool:
    return labels.ndim == 3 and labels.shape[-1] == CORNERS + 1 and labels.dtype.kind in "fiu"


def _texts_fit(output: Array, labels: Array) -> bool:
    numbers = labels.ndim == output.ndim - 1 and labels.dtype.kind in "iu"
    return len(labels) == len(output) and (labels.dtype.kind in "OSU" or numbers)


FITTING: dict[str, Callable[[Array, Array], bool]] = {
    "values": _numbers_fit,
    "boxes": _boxes_fit,
    "detections": _boxes_fit,
    "text": _texts_fit,
}
