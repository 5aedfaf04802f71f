"""Which learning rate suits a model: a few are tried for some steps, each from the start."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from .clock import Clock
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
TRIALS, TIME_SHARE = 3, 0.15
"""Where time is short, so many are tried in so much of it: in batches of a quarter, judged by one whole batch."""
QUARTER = 4
FEWEST = 5
"""Fewer steps tell nothing of a rate: where a trial has no time for more, the first is taken."""


def find_rate(
    job: dict[str, Any], folder: Path, feeds: Feeds, stepper: Stepper, judge: Judge, judging: float = 0.0
) -> list[list[float]]:
    """Return (rate, loss) for each that was tried; each trial is a short training of its own.

    The rates go up from the first as long as the loss gets smaller, or else down. The loss is that on the held-out
    samples, or in the last steps where there are none. A trial ends with its rate at zero, so that it tells what
    training would reach and not how much a large step shakes. `judging` is how many seconds all held-out samples take.
    """
    trials = _Trials(job, folder, feeds, stepper, judge, judging)
    found = climb(trials.lose, trials.allow)
    return [[CANDIDATES[place], loss] for place, loss in sorted(found.items())]


class _Trials:
    """Short trainings, each from the start."""

    def __init__(
        self, job: dict[str, Any], folder: Path, feeds: Feeds, stepper: Stepper, judge: Judge, judging: float
    ) -> None:
        self._folder, self._feeds, self._stepper, self._judge = folder, feeds, stepper, judge
        size, seconds = job["batch_size"], job["settings"]["seconds"]
        total = job["settings"]["epochs"] * step_count(feeds.buckets, size, job["fixed"])
        self._steps = min(max(total // SHARE, LEAST), MOST)
        self._seconds, self._most, self._judging, self._job = 0.0, math.inf, 0.0, job
        if seconds:
            self._seconds, self._most = seconds * TIME_SHARE / TRIALS, size
            self._judging = judging * min(size / max(judge.samples, 1), 1.0)
            self._job = job | {"batch_size": job["fixed"] or max(size // QUARTER, 1)}
        self._taken = 0

    def allow(self, tried: int) -> bool:
        """Tell whether there is time for another one."""
        return not self._seconds or (tried < TRIALS and self._taken >= FEWEST)

    def lose(self, place: int) -> float:
        """Return the loss that a trial of a candidate ends with."""
        rate, state, losses = CANDIDATES[place], State.start(self._job, self._folder), []
        hooks, reporter = make_hooks(self._job, self._folder, state), Reporter()
        clock, self._taken = Clock(self._seconds, self._judging), 0
        try:
            for step, (bucket, picked) in enumerate(islice(_endless(self._job, self._feeds), self._steps)):
                progress = min(max((step + 1) / (self._steps + 1), clock.gone), 1.0)
                now = rate * rate_factor("cosine", progress, WARMUP)
                losses.append(self._stepper.take(state, self._feeds.changed(bucket, picked, step), now, step, hooks))
                self._taken = step + 1
                if reporter.due():
                    tell(event="step", what=f"trying learning rate {rate:g}", done=step + 1, total=self._steps)
                if clock.gone >= 1:
                    break
            if self._judge.samples:
                loss = self._judge.measure(state, self._most)[0]
            else:
                loss = statistics.mean(losses[-len(losses) // 4 :])
        except FloatingPointError:
            return math.inf
        return loss if math.isfinite(loss) else math.inf


def climb(lose: Callable[[int], float], allow: Callable[[int], bool] = lambda _: True) -> dict[int, float]:
    """Return the losses of the candidates that were tried, by their place: as far as they get smaller, and one more.

    Behind each, `allow` is asked whether there may be more than so many.
    """
    found = {FIRST: lose(FIRST)}
    for direction in (1, -1):
        place = FIRST + direction
        while 0 <= place < len(CANDIDATES):
            if not allow(len(found)):
                return found
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
