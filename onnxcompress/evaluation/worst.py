"""The samples on which a model differs most from the original."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir

from ..details import Answer, WorstSample
from ..runtime.session import Array, open_session
from ..samples.samples import Batch
from .compare import Reference
from .decisions import class_scores, decisions
from .preview import preview

SHOWN = 6
CLASSES = 3
"""Of each answer, the highest."""

VALUES = 8
SECONDS = 10.0
"""How long samples are looked through, at most."""

DECIDING = {"top1", "top5", "agreement"}
"""Metrics of outputs that choose a class."""


class _Seen(NamedTuple):
    """A sample, the worse the smaller: decisions that went wrong come first, then those that changed, then noise."""

    kept: int
    sqnr: float
    number: int
    batch: Batch
    place: int
    before: Array
    after: Array


def worst_samples(
    reference: Reference, model: ir.Model, metric: str, *, shown: int = SHOWN, seconds: float = SECONDS
) -> tuple[list[WorstSample], int]:
    """Find the samples on which `model` differs most from the original.

    Parameters
    ----------
    reference : Reference
        The original, with the samples that judge.
    model : onnx_ir.Model
    metric : str
        The one that judges: it tells whether outputs choose a class.
    shown : int
    seconds : float
        After so many, what was looked through has to do.

    Returns
    -------
    samples, looked_through
        The worst first; none where both say the same of all.
    """
    session = open_session(model)
    end = time.perf_counter() + seconds
    worst: list[_Seen] = []
    number = 0
    output = ""
    for batch, before in reference.run():
        output = output or _shown(before)
        if not output:
            return [], 0
        after = session.run(batch.feeds, [output])[output]
        found = [*worst, *_look(batch, before[output], after, number, metric)]
        worst = sorted((one for one in found if one.sqnr < math.inf), key=lambda one: one[:3])[:shown]
        number += batch.count
        if time.perf_counter() > end:
            break
    return [_sample(one, output, metric, reference.samples.decoders) for one in worst], number


def _shown(outputs: dict[str, Any]) -> str:
    """Return the first output of numbers."""
    arrays = {name: value for name, value in outputs.items() if isinstance(value, np.ndarray) and value.ndim}
    return next((name for name, value in arrays.items() if value.dtype.kind in "fiub"), "")


def _look(batch: Batch, before: Array, after: Any, number: int, metric: str) -> Iterator[_Seen]:
    apart = before.shape[0] == batch.count and isinstance(after, np.ndarray) and after.shape == before.shape
    if not apart:
        return
    for place in range(batch.count):
        one, other = before[place : place + 1], after[place : place + 1]
        label = None if batch.labels is None else batch.labels[place]
        yield _Seen(_kept(one, other, label, metric), _sqnr(one, other), number + place, batch, place, one, other)


def _kept(before: Array, after: Array, label: Any, metric: str) -> int:
    """Return 0 where a right decision became wrong, 1 where one changed, else 2."""
    chosen, new = decisions(before), decisions(after)
    if metric not in DECIDING or chosen is None or new is None or np.array_equal(chosen, new):
        return 2
    return int(not (label is not None and np.array_equal(chosen.reshape(-1), np.reshape(label, -1))))


def _sqnr(before: Array, after: Array) -> float:
    x, y = before.astype(np.float64).reshape(-1), after.astype(np.float64).reshape(-1)
    finite = np.isfinite(x) & np.isfinite(y)
    if not np.array_equal(np.isfinite(x), np.isfinite(y)):
        return -math.inf
    noise, signal = float(((x - y)[finite] ** 2).sum()), float((x[finite] ** 2).sum())
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf


def _sample(one: _Seen, output: str, metric: str, decoders: Mapping[str, Any]) -> WorstSample:
    labels = one.batch.labels
    inputs = [preview(name, _place(array, one), decoders.get(name)) for name, array in one.batch.feeds.items()]
    return WorstSample(
        number=one.number,
        label=None if labels is None else str(labels[one.place]),
        sqnr=one.sqnr if math.isfinite(one.sqnr) else None,
        changed=one.kept < 2,
        output=output,
        before=answer(one.before, metric),
        after=answer(one.after, metric),
        inputs=inputs,
    )


def _place(array: Array, one: _Seen) -> Array:
    return array[one.place : one.place + 1] if array.shape[:1] == (one.batch.count,) else array


def answer(output: Array, metric: str) -> Answer:
    """Say what an output of one sample answers: its highest classes, or its first values."""
    scores = class_scores(output) if metric in DECIDING else None
    if scores is not None and scores.size == scores.shape[-1]:
        flat = scores.reshape(-1)
        highest = np.argsort(-flat, kind="stable")[:CLASSES]
        return Answer(classes=tuple((int(index), _number(flat[index])) for index in highest))
    chosen = decisions(output) if metric in DECIDING else None
    flat = (output if chosen is None else chosen).reshape(-1)[:VALUES]
    return Answer(values=tuple(_number(value) for value in flat))


def _number(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None
