"""Which preset a model was trained with, by the labels of some pictures: the one with which it reads them best."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import onnx_ir as ir

from ...errors import OnnxCompressError
from ...runtime.session import Array, Session, open_session
from ..inputs import Layout

Make = Callable[[Any], Array]
"""A picture → the numbers of one sample, with an axis for the batch."""

MOST_LOOKED_AT, TRIED = 4096, 64
"""So many pictures are spread over the first so many."""

LEAST = 16
"""Fewer pictures tell too little."""


@dataclass(frozen=True)
class BestRead:
    """A preset, and what speaks for it."""

    preset: str
    why: str


def best_read(
    model: ir.Model, layout: Layout, makers: Mapping[str, Make], labelled: Iterator[tuple[Any, Any]]
) -> BestRead | None:
    """Return the preset with which the labels are likeliest; None where there are none, or none is better than chance.

    Parameters
    ----------
    model : onnx_ir.Model
    layout : Layout
    makers : mapping
        Preset → what makes numbers of pictures.
    labelled : iterator of tuple
        Pictures and their labels.
    """
    known = [pair for pair in islice(labelled, MOST_LOOKED_AT) if isinstance(pair[1], int | np.integer)]
    known = known[:: max(len(known) // TRIED, 1)][:TRIED]
    if len(known) < LEAST or (len(layout.inputs) != 1):
        return None
    try:
        session = open_session(model)
        found = {name: _likelihoods(session, layout, make, known) for name, make in makers.items()}
    except (OnnxCompressError, ValueError, OSError):  # what is wrong is said where the samples are read in earnest
        return None
    scored = {name: pairs for name, pairs in found.items() if pairs is not None}
    best = max(scored, key=lambda name: scored[name][0].mean(), default=None)
    if best is None or scored[best][0].mean() <= -np.log(scored[best][2]):
        return None
    right = {name: int(pairs[1].sum()) for name, pairs in scored.items()}
    others = ", ".join(f"{name} {count}" for name, count in right.items() if name != best)
    why = f"with which {right[best]} of {len(known)} labelled images are read right ({others})"
    return BestRead(best, why)


def _likelihoods(
    session: Session, layout: Layout, make: Make, known: list[tuple[Any, Any]]
) -> tuple[Array, Array, int] | None:
    """Return log-likelihoods of the labels, whether each is the highest, and how many classes there are."""
    (item,) = layout.inputs
    logs, right, classes = [], [], 0
    for picture, label in known:
        feeds = {item.name: np.repeat(make(picture), layout.fixed_batch or 1, axis=0)}
        output = next(iter(session.run(feeds).values()))
        scores = np.asarray(output, np.float64)[0].reshape(-1)
        classes = len(scores)
        if not 0 <= label < classes or classes < 2:
            return None
        logs.append(_log_likelihood(scores, int(label)))
        right.append(scores.argmax() == label)
    return np.array(logs), np.array(right), classes


def _log_likelihood(scores: Array, label: int) -> float:
    """Return that of a label, by its probability or its logit."""
    if scores.min() >= 0 and abs(scores.sum() - 1) < 1e-2:
        return float(np.log(max(scores[label], 1e-12)))
    shifted = scores - scores.max()
    return float(shifted[label] - np.log(np.exp(shifted).sum()))
