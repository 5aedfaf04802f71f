"""How long a step takes, and how much memory: measured by taking a few, which nothing remembers."""

from __future__ import annotations

import statistics
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

from .data import batches
from .feeds import Feeds
from .hooks import make_hooks
from .state import State
from .step import Stepper
from .tell import tell

STEPS = 4
"""The first one, which is slower, does not count."""


def rehearse(job: dict[str, Any], folder: Path) -> None:
    """Take a few steps, and tell the median of their seconds and the largest memory."""
    state = State.start(job, folder)
    feeds, stepper = Feeds(job, folder), Stepper(job, folder)
    hooks = make_hooks(job, folder, state)
    seconds = []
    for step, (bucket, picked) in enumerate(islice(_again(job, feeds), STEPS)):
        start = time.perf_counter()
        stepper.take(state, feeds.changed(bucket, picked, step), 0.0, step, hooks)
        seconds.append(time.perf_counter() - start)
    tell(event="rehearsed", seconds=statistics.median(seconds[1:]), bytes=peak())


def _again(job: dict[str, Any], feeds: Feeds) -> Any:
    while True:
        yield from batches(feeds.buckets, job["batch_size"], 0, 0, job["fixed"])


def peak() -> int | None:
    """Return the most memory that this process has had, where the system tells."""
    status = Path("/proc/self/status")
    if status.exists():  # what getrusage tells on Linux begins with the peak of the process that started this one
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    try:
        import resource
    except ImportError:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(most if sys.platform == "darwin" else most * 1024)
