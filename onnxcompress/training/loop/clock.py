"""How much of its time a training has used up."""

from __future__ import annotations

import time


class Clock:
    """Counts from when it is made; what judging takes at the end is kept free.

    Parameters
    ----------
    seconds : float
        How long it may all take; 0: as long as it likes.
    judging : float
        How much of that judging takes; may be set once that is known.
    """

    def __init__(self, seconds: float, judging: float = 0.0) -> None:
        self._seconds, self.judging = seconds, judging
        self._begun = time.monotonic()

    @property
    def gone(self) -> float:
        """Which part of the time for steps is over; 0 where there is no end of it."""
        if not self._seconds:
            return 0.0
        left = self._seconds - self.judging
        return (time.monotonic() - self._begun) / left if left > 0 else 1.0
