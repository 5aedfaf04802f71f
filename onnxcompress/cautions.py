"""What a run did that nobody can have wanted: steps without effect, zeros that still take room, a file that grew."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from .contract import Pass
from .evidence import Stage, Step

GROWN = 1.01
"""A file that is so many times as large as before has grown; a few bytes of names are nothing."""


class Ran(NamedTuple):
    """A pass, what it did, what the model was afterwards, and whether it has said itself what fell short."""

    step: Pass
    did: Step
    after: Stage
    unmet: bool = False


def without_effect(ran: Iterable[Ran]) -> Iterator[str]:
    """Yield a sentence for each pass that gives another model, and gave none; one that only tidies may find nothing."""
    for step, did, _, unmet in ran:
        if not did.done and not unmet and step.promise.tolerance is None:
            reasons = Counter(refusal.reason for refusal in did.refused).most_common(1)
            yield f"{did.name} changed nothing" + "".join(f": {reason}" for reason, _ in reasons)


def nothing_done(ran: Sequence[Ran]) -> bool:
    """Tell whether no pass changed anything, and some pass should have."""
    return not any(each.did.done for each in ran) and any(without_effect(ran))


def zeros_that_stay(ran: Sequence[Ran]) -> Iterator[str]:
    """Yield a sentence for each pass that wrote zeros which nothing behind it removed."""
    for step, did, after, _ in ran:
        if step.writes_zeros and did.done and ran[-1].after.parameters >= after.parameters:
            yield (
                f"{did.name} wrote zeros, which take as much room and time as other numbers; "
                "shrink behind it removes the channels that are zero"
            )


def growth(stages: Sequence[Stage]) -> Iterator[str]:
    """Yield a sentence if the file has grown."""
    before, after = stages[0].bytes, stages[-1].bytes
    if before and after > GROWN * before:
        yield f"The file grew from {before:,} to {after:,} bytes"
