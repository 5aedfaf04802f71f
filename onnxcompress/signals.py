"""Signals that end a process, as exceptions, so that it tidies up on its way out."""

from __future__ import annotations

import signal
from types import FrameType

WORDS = {"SIGINT": "interrupted", "SIGTERM": "terminated", "SIGHUP": "hung up"}
"""What is said of each."""


class Ended(KeyboardInterrupt):
    """Another signal than ctrl-C asks the process to end."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(number)


def raise_on_end() -> None:
    """Let SIGTERM and SIGHUP raise `Ended`, unless whoever started this process wants them ignored (nohup)."""
    for name in WORDS:
        number = getattr(signal, name, None)  # Windows lacks some
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _end)


def _end(number: int, _frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # a second one must not disturb the tidying up
    raise Ended(number)


def how_it_ended(error: KeyboardInterrupt) -> tuple[str, int]:
    """Return the word for what ended the process, and its exit status."""
    number = signal.Signals(error.number if isinstance(error, Ended) else signal.SIGINT)
    return WORDS[number.name], 128 + number
