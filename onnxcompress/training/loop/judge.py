"""How good the student is on samples that it is not trained on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .data import held_batches
from .engine import LOSS, SCORE, open_session
from .feeds import Feeds
from .state import State


class Judge:
    """Runs the student as it is used over the samples that are held out.

    Attributes
    ----------
    samples : int
        How many there are.
    """

    def __init__(self, job: dict[str, Any], folder: Path, feeds: Feeds) -> None:
        self._feeds, self._job = feeds, job
        self.samples = sum(len(bucket.held) for bucket in feeds.buckets)
        self._session = open_session(folder / "evaluation.onnx", job) if self.samples else None
        self._names = set() if self._session is None else {one.name for one in self._session.get_inputs()}

    def measure(self, state: State, most: float = math.inf) -> tuple[float, float]:
        """Return the mean loss and the mean score; over `most` samples or a few more, where there are as many."""
        assert self._session is not None
        size, fixed, given = self._job["batch_size"], self._job["fixed"], state.weights | state.running
        total = score = seen = 0.0
        for bucket, picked in held_batches(self._feeds.buckets, size, fixed):
            fed = self._feeds.plain(bucket, picked) | given
            feeds = {name: array for name, array in fed.items() if name in self._names}
            results = self._session.run([LOSS, SCORE], feeds)
            total += float(results[0]) * len(picked)
            score += float(results[1]) * len(picked)
            seen += len(picked)
            if seen >= most:
                break
        return total / seen, score / seen


def is_best(curve: Sequence[Sequence[float]], kept: int, held: int) -> bool:
    """Tell whether the last point of a curve is to be kept in the place of another one.

    The score decides, and between equals the loss. A share of a few samples is coarse, so that those within a standard
    error of the highest are equals (Breiman et al., "Classification and Regression Trees", 1984), unless they are
    below the score before training, which others reach.

    Parameters
    ----------
    curve : sequence of (loss, score)
        Before training, and after each epoch.
    kept : int
        What is kept so far; 0 for none.
    held : int
        How many samples judge.
    """
    (loss, score), (old_loss, old_score) = curve[-1], curve[kept]
    if not kept or not math.isfinite(old_loss):
        return True
    highest = max(score for _, score in curve[1:])
    floor = max(highest - standard_error(highest, held), min(curve[0][1], highest))
    return math.isfinite(loss) and score >= floor and (old_score < floor or loss < old_loss)


def is_better(one: Sequence[float], start: Sequence[float], held: int) -> bool:
    """Tell whether a (loss, score) is better than the start: not below in score, and above or in loss.

    A score that is higher by less than a standard error is no proof while the loss has grown.
    """
    (loss, score), (start_loss, start_score) = one, start
    proven = score > start_score + standard_error(score, held)
    return math.isfinite(loss) and score >= start_score and (proven or loss < start_loss)


def standard_error(score: float, held: int) -> float:
    """Return how far the share of so many samples may be off by chance; 0 for what is no share."""
    return math.sqrt(score * (1 - score) / held) if 0 <= score <= 1 else 0.0
