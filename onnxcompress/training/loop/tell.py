"""What goes between the worker and its parent: the job on disk, one JSON object a line on stdout, and the end."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

SECONDS_BETWEEN_REPORTS = 0.2


def read_job(folder: Path) -> dict[str, Any]:
    """Return what is to be done."""
    job: dict[str, Any] = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    return job


def tell(**message: Any) -> None:
    """Write one line of JSON to the parent."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


class Reporter:
    """Tells how far the work is, a few times a second."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def due(self) -> bool:
        """Tell whether it is time to say something again."""
        if time.monotonic() - self._last <= SECONDS_BETWEEN_REPORTS:
            return False
        self._last = time.monotonic()
        return True


def leave_with_parent() -> None:
    """End when the parent closes our stdin or is gone: nobody is left to read the result."""
    # Not sys.stdin.read(): it would hold a lock that the interpreter wants when it shuts down.
    while os.read(0, 1):
        pass
    os._exit(3)
