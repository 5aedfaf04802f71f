"""Which learning rate suits a model: a few are tried for some steps, each from the start."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from .data import batches, step_count
from .feeds import Feeds
from .hooks import make_hooks
from .judge import Judge
from .schedule import rate_factor
from .state import State
from .step import Stepper
from .tell import Reporter, tell

CANDIDATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
FIRST = 3
"""Which of them is tried first."""
LEAST, MOST, SHARE = 20, 100, 20
"""Steps of each trial: one in so many of all that will be taken, within these bounds."""
WARMUP = 0.1


def find_rate(job: dict[str, Any], folder: Path, feeds: Feeds, stepper: Stepper, judge: Judge) -> list[list[float]]:
    """Return (rate, loss) for each that was tried; each trial is a short training of its own.

    The rates go up from the first as long as the loss gets smaller, or else down. The loss is that on the held-out
    samples, or in the last steps where there are none. A trial ends with its rate at zero, so that it tells what
    training would reach and not how much a large step shakes.
    """
    total = job["settings"]["epochs"] * step_count(feeds.buckets, job["batch_size"], job["fixed"])
    steps, reporter = min(max(total // SHARE, LEAST), MOST), Reporter()

    def lose(place: int) -> float:
        """Return the loss that a trial of a candidate ends with."""
        rate, state, losses = CANDIDATES[place], State.start(job, folder), []
        hooks = make_hooks(job, folder, state)
        try:
            for step, (bucket, picked) in enumerate(islice(_endless(job, feeds), steps)):
                now = rate * rate_factor("cosine", (step + 1) / (steps + 1), WARMUP)
                losses.append(stepper.take(state, feeds.changed(bucket, picked, step), now, step, hooks))
                if reporter.due():
                    tell(event="step", what=f"trying learning rate {rate:g}", done=step + 1, total=steps)
            loss = judge.measure(state)[0] if judge.samples else statistics.mean(losses[-len(losses) // 4 :])
        except FloatingPointError:
            return math.inf
        return loss if math.isfinite(loss) else math.inf

    found = climb(lose)
    return [[CANDIDATES[place], loss] for place, loss in sorted(found.items())]


def climb(lose: Callable[[int], float]) -> dict[int, float]:
    """Return the losses of the candidates that were tried, by their place: as far as they get smaller, and one more."""
    found = {FIRST: lose(FIRST)}
    for direction in (1, -1):
        place = FIRST + direction
        while 0 <= place < len(CANDIDATES):
            found[place] = lose(place)
            before = found[place - direction]
            if not (found[place] < before or (direction < 0 and math.isinf(before))):
                break
            place += direction
        if min(found, key=lambda place: found[place]) > FIRST:
            break
    return found


def _endless(job: dict[str, Any], feeds: Feeds) -> Any:
    epoch = 0
    while True:
        yield from batches(feeds.buckets, job["batch_size"], job["settings"]["seed"], epoch, job["fixed"])
        epoch += 1
