"""What a model's latency becomes when channels go: each cut is made in a copy and timed beside the original."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import onnx_ir as ir

from onnxcompress.channels.groups import find_groups
from onnxcompress.channels.remove import remove
from onnxcompress.evaluation.timing import Timing, time_models
from onnxcompress.graph.interface import Interface

Timer: TypeAlias = Callable[[ir.Model, ir.Model, float], Timing]
"""Times the second model beside the first, for so many seconds."""

SECONDS = 1.0
LONGEST = 8.0
"""How long one cut and the original are timed at first, and at most, where the ratio is less certain than `CERTAIN`."""

CERTAIN = 0.03


class Clock:
    """Measures the latency that is left, as a share of the model's own.

    Parameters
    ----------
    model : onnx_ir.Model
        Not changed.
    feed : dict, optional
        What the models are fed with; by default random values that fit.
    timer : callable, optional
        By default ONNX Runtime, both models taking turns.
    threads : int
        For that: threads inside one operator; 0 means all cores. With one, the time of the processor counts, which
        other programs disturb less.

    Attributes
    ----------
    total : float
    margin : float
        Half of the 95 % interval of the last ratio, at most `CERTAIN`: what is nearer than this need not be told apart.
    """

    total = 1.0
    steps = 7

    def __init__(
        self,
        model: ir.Model,
        feed: dict[str, Any] | None,
        timer: Timer | None = None,
        *,
        threads: int = 1,
        interface: Interface = "stays",
    ) -> None:
        self._model, self._interface = model, interface

        def onnxruntime(one: ir.Model, other: ir.Model, seconds: float) -> Timing:
            return time_models([one, other], feed, seconds=seconds, threads=threads, computing=threads == 1)[1]

        self._timer = timer or onnxruntime
        self._timings: dict[tuple[tuple[str, tuple[int, ...]], ...], Timing] = {}
        self.margin = 0.0

    def left(self, channels: Mapping[str, list[int]]) -> float:
        """Return the ratio of medians without these channels of these groups; the same channels are timed once."""
        key = _key(channels)
        if key not in self._timings:
            copy = self._model.clone()
            remove(copy, find_groups(copy, self._interface), channels)
            self._timings[key] = self._timed(copy)
        timing = self._timings[key]
        self.margin = min(_spread(timing), CERTAIN)
        return timing.ratio

    def _timed(self, copy: ir.Model) -> Timing:
        seconds = SECONDS
        timing = self._timer(self._model, copy, seconds)
        while _spread(timing) > CERTAIN and seconds < LONGEST:
            seconds *= 2
            timing = self._timer(self._model, copy, seconds)
        return timing

    def notes(self, channels: Mapping[str, list[int]]) -> tuple[str, ...]:
        """Say what was measured."""
        timing = self._timings.get(_key(channels))
        if timing is None:
            return ()
        interval = f"{timing.ratio:.2f} [{timing.ratio_low:.2f}, {timing.ratio_high:.2f}]"
        cuts = f"{len(self._timings)} cuts were timed"
        return (f"without these channels it takes {interval} of the time, as measured; {cuts}",)


def _spread(timing: Timing) -> float:
    return (timing.ratio_high - timing.ratio_low) / 2


def _key(channels: Mapping[str, list[int]]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple(sorted((name, tuple(gone)) for name, gone in channels.items()))
