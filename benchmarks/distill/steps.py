"""Take training steps as the worker takes them, whenever a line asks for some; started by ``speed.py``.

    python steps.py LOOP FOLDER

LOOP is the folder that holds the package ``loop``; FOLDER has a job and ``feeds.npz``, the feeds of one batch. A line
with a number of seconds is answered by the seconds of each step that was taken meanwhile, and the peak memory.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, sys.argv[1])

from loop.rehearse import peak  # type: ignore[import-not-found]
from loop.state import State  # type: ignore[import-not-found]
from loop.step import Stepper  # type: ignore[import-not-found]


def main(folder: Path) -> None:
    """Answer lines until there are none."""
    job = json.loads((folder / "job.json").read_text())
    state, stepper = State.start(job, folder), Stepper(job, folder)
    feeds = dict(np.load(folder / "feeds.npz"))
    taken = 0
    for line in sys.stdin:
        end, seconds = time.monotonic() + float(line), []
        while not seconds or time.monotonic() < end:
            start = time.perf_counter()
            loss = stepper.take(state, [feeds], 1e-4, taken, [])
            seconds.append(time.perf_counter() - start)
            taken += 1
        print(json.dumps({"seconds": seconds, "megabytes": (peak() or 0) / 2**20, "loss": loss}), flush=True)


main(Path(sys.argv[2]))
