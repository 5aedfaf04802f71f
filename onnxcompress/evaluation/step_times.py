"""Which steps of a pipeline made the model slower than the step before had left it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx_ir as ir

from ..runtime.provider import running
from ..runtime.session import Array
from ..speed import Speed
from . import timing
from .timing import Timing


def slower_steps(
    models: Sequence[ir.Model], names: Sequence[str], timings: Sequence[Timing], feeds: dict[str, Array], seconds: float
) -> Iterator[str]:
    """Yield a sentence for each step that slows the model down, once a second timing of both agrees.

    Parameters
    ----------
    models : sequence of onnx_ir.Model
        The original, and what each step made of it.
    names : sequence of str
        Of what made each model; that of the original is not said.
    timings : sequence of Timing
        Of the models, taken in turns.
    feeds : dict of str to ndarray
    seconds : float
        How long to time two models again.
    """
    pairs = zip(models, models[1:], names[1:], timings[1:], strict=False)
    for before, after, name, found in pairs:
        if after is before or found.step is None:
            continue
        if how := slower(before, after, found.step, feeds, seconds):
            yield f"{name} made the model slower: it takes {how} that it took before"


def slower(before: ir.Model, after: ir.Model, found: Speed, feeds: dict[str, Array], seconds: float) -> str:
    """Say how much slower one model is than another, if a second timing shows it, too; empty if not.

    Where the machine is too busy for the first to tell anything, the second counts the time that is spent computing.
    """
    if found.state == "slower":
        again = timing.time_models([before, after], feeds, seconds=seconds)[-1].speed
        return found.share if again.state == "slower" else ""  # the numbers are those of the table of stages
    if found.state == "unclear" and running().is_cpu:
        again = timing.time_models([before, after], feeds, seconds=seconds / 2, computing=True)[-1].speed
        return again.share.replace("time", "CPU time") if again.state == "slower" else ""
    return ""
