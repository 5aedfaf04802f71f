"""How good the student is on samples that it is not trained on."""

from __future__ import annotations

import math
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
        for bucket, picked in held_batches(self._feeds.buckets, size, fixed=fixed):
            fed = self._feeds.plain(bucket, picked) | given
            feeds = {name: array for name, array in fed.items() if name in self._names}
            results = self._session.run([LOSS, SCORE], feeds)
            total += float(results[0]) * len(picked)
            score += float(results[1]) * len(picked)
            seen += len(picked)
        return total / seen, score / seen


def is_better(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Tell whether a (loss, score) is better than another: the score decides, and between equals the loss."""
    key = [(score, -loss) if math.isfinite(loss) else (-math.inf, -math.inf) for loss, score in (one, other)]
    return key[0] > key[1]
