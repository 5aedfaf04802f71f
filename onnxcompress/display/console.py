"""What the terminal gets: results on stdout, everything else on stderr."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from ..progress import silent

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.progress import Progress as Bars

    from ..progress import Progress


def show(*parts: RenderableType) -> None:
    """Write tables and lines for people to stdout."""
    from rich.console import Console

    console = Console(highlight=False, emoji=False, markup=False)
    # Captured, because rich ends the process by itself when the reader of a pipe has gone.
    with console.capture() as captured:
        for part in parts:
            console.print(part)
    show_text("\n".join(line.rstrip() for line in captured.get().splitlines()))


def show_text(text: str) -> None:
    """Write one document, such as JSON, to stdout as it is."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def to_json(value: Any) -> str:
    """Turn dataclasses into one JSON document; numbers that JSON lacks (NaN, infinity) become null."""
    import msgspec

    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def say(message: str) -> None:
    """Write one line to stderr, if there is still one: the terminal may be gone."""
    with suppress(OSError):
        sys.stderr.write(" ".join(part.strip() for part in message.splitlines()) + "\n")
        sys.stderr.flush()


def drop_output() -> None:
    """Let whatever is still to be written to stdout go nowhere, since its reader has gone."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """Draw a bar on stderr while the block runs, if that is a terminal; yields the callback that moves it."""
    if not sys.stderr.isatty():
        yield silent
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    left = (TimeRemainingColumn(), TextColumn("left"))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), *left)
    with Bars(*columns, console=Console(stderr=True, highlight=False), transient=True) as bars:
        yield Phases(bars)


class Phases:
    """Shows the phase that work is in, as a bar that counts up once; whatever begins anew is a phase of its own.

    Parameters
    ----------
    bars : rich.progress.Progress
        Time left is reckoned from each phase's own speed.
    """

    def __init__(self, bars: Bars) -> None:
        self._bars, self._done, self._total = bars, 0, 0
        self._task = bars.add_task("starting", total=None)
        self._reached: dict[str, int] = {}
        self._times: Counter[str] = Counter()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Move the bar of the phase at work, or begin another."""
        if what not in self._reached or done < self._reached[what]:
            self._times[what] += 1
        if total != self._total or done < self._done:
            self._bars.remove_task(self._task)
            self._task = self._bars.add_task(what, completed=done, total=total or None)
        self._done, self._total, self._reached[what] = done, total, done
        again = f" ({self._times[what]})" if self._times[what] > 1 else ""
        self._bars.update(self._task, description=what + again, completed=done, total=total or None)
