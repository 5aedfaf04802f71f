"""What the graphs are fed with: samples as they are, or changed at random with the teacher asked anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .augment import Change, find_changes
from .data import Bucket, Indices, read_buckets
from .engine import open_session


class Feeds:
    """Reads samples, and adds what the teacher computes where that does not lie beside them."""

    def __init__(self, job: dict[str, Any], folder: Path) -> None:
        self.buckets = read_buckets(job, folder)
        self._job = job
        self._changes: list[Change] = find_changes(job.get("augment", []), job["inputs"])
        self._teacher = open_session(folder / "teacher.onnx", job) if job.get("teacher") else None
        self._taught = set() if self._teacher is None else {one.name for one in self._teacher.get_inputs()}

    def plain(self, bucket: Bucket, picked: Indices) -> dict[str, Any]:
        """Return feeds of samples as they are."""
        return self._with_teacher(bucket.read(picked))

    def changed(self, bucket: Bucket, picked: Indices, step: int) -> list[dict[str, Any]]:
        """Return feeds of samples for a step that trains; seed and step alone decide how they are changed.

        They are one dict, or several where the model takes a fixed number of samples at a time.
        """
        random = np.random.default_rng([self._job["settings"]["seed"], 1, step])
        found = []
        for part in np.split(picked, len(picked) // self._job["fixed"]) if self._job["fixed"] else [picked]:
            feeds = bucket.read(part)
            for change in self._changes:
                feeds |= change({name: feeds[name] for name in self._job["inputs"]}, random)
            found.append(self._with_teacher(feeds))
        return found

    def _with_teacher(self, feeds: dict[str, Any]) -> dict[str, Any]:
        if self._teacher is None:
            return feeds
        keys, outputs = zip(*self._job["teacher"].items(), strict=True)
        given = {name: array for name, array in feeds.items() if name in self._taught}
        return feeds | dict(zip(keys, self._teacher.run(list(outputs), given), strict=True))
