"""Training behind a search: what gains more and loses a little too much gets a chance to learn that again."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import onnx_ir as ir

from ..samples.fitting import LABELS
from ..samples.samples import load_samples
from ..samples.split import Parts
from .decide import best, cost_of, loss_of, usable
from .job import Job, Outcome
from .rounds import Rounds
from .space import TRAIN, Params
from .trial import Shared, Tester

WITHIN = 5.0
"""A loss of up to so many times what is allowed may be learnt again."""

CHEAPER = 0.97
"""What is to be trained costs no more than this part of the best that there is."""

TRAINS = 2 / 3
"""So much of the samples that judged trials trains, too; the rest judges what was trained."""

LEAST = 60
"""Fewer samples than these are not worth dividing once more."""

ALL = 10**9
"""No number of samples, or seconds, is larger."""

LONGER = 2.0
"""Training is given up after so many times what it may take."""


def train_best(search: Rounds) -> None:
    """Train the most promising trial within its time, and add what comes of it to what was tried."""
    seconds = search.budget.train
    chosen = promising(search)
    if not seconds or search.interrupted or chosen is None or not search.tester.shows:
        return
    params: Params = search.params_of(chosen) | {TRAIN: seconds}
    source = dataclasses.replace(search.tester.source, fit=ALL, seconds=ALL)
    shared = Shared(_divided(search.tester.original, search.tester.parts), search.tester.pace)
    search.trainer = Tester(search.tester.original, source, shared=shared, progress=search.progress)
    longest = LONGER * seconds + search.budget.seconds
    job = Job(len(search.tried), search.recipe(params), stop_above=1.0, seconds=longest)
    found = search.trainer.run(job)
    if usable(found) and not any('"distill"' in text for text in found.passes):
        found = dataclasses.replace(found, failed="training made nothing better")
    search.tried.append((params, found))


def promising(search: Rounds) -> Outcome | None:
    """Return the cheapest trial that loses too much, but not by far; else the best there is."""
    base, budget = search.base, search.budget
    found = best(search.outcomes, base, budget)
    most = CHEAPER * (1.0 if found is None else cost_of(found, base, budget))
    near = [
        each
        for each in filter(usable, search.outcomes)
        if budget.max_drop < loss_of(each)[0] <= WITHIN * budget.max_drop and cost_of(each, base, budget) <= most
    ]
    return min(near, key=lambda each: cost_of(each, base, budget), default=found)


def _divided(model: ir.Model, parts: Parts) -> Parts:
    """Divide the samples once more: most of what judged trains, too."""
    count = int(TRAINS * parts.search.count)
    if parts.search.count - count < LEAST or not parts.apart:
        return parts
    more = parts.search.head(count)

    def both() -> Iterator[dict[str, Any]]:
        for part in (parts.fit, more):
            for batch in part.labelled():
                yield batch.feeds | ({} if batch.labels is None else {LABELS: batch.labels})

    return dataclasses.replace(parts, fit=load_samples(both, model), search=parts.search.tail(count))
