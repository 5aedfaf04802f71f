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
        self._session = open_session(folder / "evaluation.onnx", job["threads"]) if self.samples else None
        self._names = set() if self._session is None else {one.name for one in self._session.get_inputs()}

    def measure(self, state: State) -> tuple[float, float]:
        """Return the mean loss and the mean score."""
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
    error = math.sqrt(highest * (1 - highest) / held) if 0 <= highest <= 1 else 0.0
    floor = max(highest - error, min(curve[0][1], highest))
    return math.isfinite(loss) and score >= floor and (old_score < floor or loss < old_loss)
