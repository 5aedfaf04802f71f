"""How long models take, side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ..graph.load import load
from ..graph.save import weights
from ..runtime.session import SHARED_BYTES, Array, Session, open_session
from ..samples.random_values import example_feed
from ..speed import Speed

__all__ = ["Timing", "example_feed", "time_models"]

Clock = Callable[[], int]
"""Returns nanoseconds."""

MIN_RUNS = 5
FEW_RUNS, SLOW_SECONDS = 3, 1.0
"""So many rounds are enough where one takes so long."""

MAX_RUNS = 1000
WARM_UP = 3
WARM_SECONDS = 0.2
"""A model that runs so long is warm."""

RESAMPLES = 1000


@dataclass(frozen=True)
class Timing:
    """How long one model takes for one feed, with 95 % intervals (bootstrap of the median).

    Attributes
    ----------
    median_ms, low, high : float
        Milliseconds.
    ratio, ratio_low, ratio_high : float
        Median of this model's time over the first model's time in the same round; below 1 is faster.
    runs : int
    step : Speed or None
        How fast it is beside the model before it; None for the first.
    """

    median_ms: float
    low: float
    high: float
    ratio: float
    ratio_low: float
    ratio_high: float
    runs: int
    step: Speed | None = None

    @property
    def speed(self) -> Speed:
        """How fast it is beside the first."""
        return Speed(self.ratio, self.ratio_low, self.ratio_high)


def time_models(
    models: Sequence[ir.Model | str | Path],
    feeds: dict[str, Array] | None = None,
    *,
    seconds: float = 2.0,
    threads: int = 0,
    computing: bool = False,
) -> list[Timing]:
    """Time models that take the same feed, interleaved in one process.

    Each round runs every model once, in turning order, so that what disturbs the machine disturbs all of them alike,
    and a model's ratio to the first is taken within the round. Models too large to be held side by side take turns.

    Parameters
    ----------
    models : sequence of onnx_ir.Model, str or Path
        The first is what the others are compared with.
    feeds : dict of str to ndarray, optional
        By default `example_feed` of the first model.
    seconds : float
        How long to measure, all models together; at least 5 rounds are run (3 where one takes more than a second), and
        at most 1000.
    threads : int
        0 means all cores that this process may use.
    computing : bool
        Count the time that one thread computes, not the time that passes: what else the machine does is not in it.

    Returns
    -------
    list of Timing
        One for each model, in order.

    Raises
    ------
    ModelError
        A model cannot be loaded, or refuses the feed.
    """
    if not models:
        return []
    if feeds is None:
        first = models[0]
        feeds = example_feed(first if isinstance(first, ir.Model) else load(first))
    clock = time.thread_time_ns if computing else time.perf_counter_ns
    threads = 1 if computing else threads
    sizes = [sum(t.nbytes for t in weights(m)) if isinstance(m, ir.Model) else 0 for m in models]
    if max(sizes) > SHARED_BYTES and len(models) > 1:
        ends = sizes.index(min(sizes)) if len(models) == 2 else 0
        return summarise(_measure_in_turn(models, ends, feeds, seconds, threads, clock))
    sessions = [open_session(model, threads=threads, prepack=True) for model in models]
    for session in sessions:
        _warm_up(session, feeds)
    return summarise(_measure(sessions, feeds, seconds, clock))


def _warm_up(session: Session, feeds: dict[str, Array]) -> Session:
    end = time.perf_counter() + WARM_SECONDS
    for _ in range(WARM_UP):
        session.run(feeds)
        if time.perf_counter() > end:
            break
    return session


def _measure_in_turn(
    models: Sequence[ir.Model | str | Path],
    ends: int,
    feeds: dict[str, Array],
    seconds: float,
    threads: int,
    clock: Clock,
) -> npt.NDArray[np.float64]:
    """Return milliseconds, shape (rounds, models), of models that take much memory side by side.

    One is open at a time. The one of index `ends` is timed at the start and at the end, and each round has one of
    either, so that a machine that slows down meanwhile favours none of them. Of two it is the smaller one, which opens
    sooner.
    """

    def turn(index: int) -> npt.NDArray[np.float64]:
        session = _warm_up(open_session(models[index], threads=threads, prepack=True), feeds)
        return _measure([session], feeds, seconds / len(models), clock)[:, 0]

    first = turn(ends)
    turns = {index: turn(index) for index in range(len(models)) if index != ends}
    again = turn(ends)
    count = min(len(first), len(again))
    turns[ends] = np.stack([first[:count], again[:count]], axis=1).reshape(-1)
    rounds = min(map(len, turns.values()))
    return np.stack([turns[index][:rounds] for index in range(len(models))], axis=1)


def _measure(sessions: list[Session], feeds: dict[str, Array], seconds: float, clock: Clock) -> npt.NDArray[np.float64]:
    """Return milliseconds, shape (rounds, models)."""
    rounds: list[list[float]] = []
    end, least = time.perf_counter() + seconds, MIN_RUNS
    while len(rounds) < least or (time.perf_counter() < end and len(rounds) < MAX_RUNS):
        spent = [0.0] * len(sessions)
        order = range(len(sessions)) if len(rounds) % 2 == 0 else reversed(range(len(sessions)))
        for index in order:
            start = clock()
            sessions[index].run(feeds)
            spent[index] = (clock() - start) / 1e6
        rounds.append(spent)
        least = FEW_RUNS if sum(spent) > SLOW_SECONDS * 1e3 else MIN_RUNS
    return np.array(rounds)


def summarise(milliseconds: npt.NDArray[np.float64]) -> list[Timing]:
    """Return medians and intervals of measurements of shape (rounds, models)."""
    ratios = milliseconds / milliseconds[:, :1]
    timings = []
    for index in range(milliseconds.shape[1]):
        middle, ratio = (float(np.median(values[:, index])) for values in (milliseconds, ratios))
        low, high = _interval(milliseconds[:, index])
        ratio_low, ratio_high = _interval(ratios[:, index])
        step = None if index == 0 else _speed(milliseconds[:, index] / milliseconds[:, index - 1])
        timings.append(Timing(middle, low, high, ratio, ratio_low, ratio_high, len(milliseconds), step))
    return timings


def _speed(ratios: npt.NDArray[np.float64]) -> Speed:
    return Speed(float(np.median(ratios)), *_interval(ratios))


def _interval(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of the median; seeded, so the same values give the same."""
    draws = np.random.default_rng(0).integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.percentile(np.median(values[draws], axis=1), [2.5, 97.5])
    return float(low), float(high)
