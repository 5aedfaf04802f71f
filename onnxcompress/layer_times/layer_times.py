"""Times of layers at any widths: measured here, read from a table, or estimated between the two."""

from __future__ import annotations

import time
from collections.abc import Iterable
from math import prod
from pathlib import Path

from ..errors import ModelError
from ..progress import Progress, silent
from .micro import Case, time_cases
from .signature import Signature
from .table import Table, blank_table, key_of, read_table

AT_ONCE = 12
"""Micro-models that take turns."""

LEAST_MACS = 50_000
"""A layer with fewer multiply-accumulates is not measured: calling it takes longer than computing it."""

CALL, PER_MAC = 2.0, 2e-5
"""Microseconds that it is taken to need, and of each multiply-accumulate."""

SECONDS = 8.0
"""How long all measuring for one model may take; what is missing then is estimated."""

Widths = tuple[int, int]


class LayerTimes:
    """Answers how long a layer takes.

    Parameters
    ----------
    table : Table, optional
        What was measured before. It is added to where times are measured; by default times are measured here.
    measuring : bool
        Measure what the table lacks; else it is estimated.

    Attributes
    ----------
    measured, missing : int
        How many times were measured for this object, and how many were wanted and neither known nor measured.
    """

    def __init__(self, table: Table | None = None, *, measuring: bool = True) -> None:
        self.table = _here() if table is None else table
        self._given = table is not None
        self._measuring = measuring
        self._known: dict[Signature, dict[Widths, float]] = {}
        self._estimates: dict[tuple[Signature, int, int], float] = {}
        self.measured = self.missing = 0

    def prepare(self, wanted: Iterable[Case], *, seconds: float = SECONDS, progress: Progress = silent) -> None:
        """Measure what is not known yet, as far as the time allows."""
        lacking = [case for case in dict.fromkeys(wanted) if _is_worth_it(case) and not self._has(case)]
        self.missing += len(lacking) if not self._measuring else 0
        if not lacking or not self._measuring:
            return
        end = time.monotonic() + seconds
        for start in range(0, len(lacking), AT_ONCE):
            if time.monotonic() > end:
                self.missing += len(lacking) - start
                break
            self._measure(lacking[start : start + AT_ONCE])
            progress("layer times", min(start + AT_ONCE, len(lacking)), len(lacking))
        self._estimates.clear()

    def of(self, signature: Signature, inputs: int, outputs: int) -> float:
        """Return the microseconds of a layer, as measured or as estimated from what was measured."""
        key = signature, inputs, outputs
        if key not in self._estimates:
            self._estimates[key] = self._of(signature, inputs, outputs)
        return self._estimates[key]

    @classmethod
    def read(cls, path: str | Path) -> LayerTimes:
        """Read a table; what it lacks is measured where it comes from a machine like this one."""
        table = read_table(path)
        return cls(table, measuring=table.is_from_here())

    @property
    def is_here(self) -> bool:
        """Whether these are times of this machine, so that a model may be timed to see whether they add up."""
        return self._measuring

    @property
    def rest(self) -> float | None:
        """Nanoseconds of an element of what is no layer, as the table has it."""
        return self.table.rest if self._given else None

    def notes(self) -> tuple[str, ...]:
        """Say where the times come from that were read, and what was not in them."""
        if not self._given:
            return ()
        lacking = f"; {self.missing} of the times that were asked for are not in it, and were estimated"
        said = f"times of layers were read from a table of {self.table.where()}"
        if not self._measuring:
            said += f", which is not this machine with this onnxruntime{lacking if self.missing else ''}"
        elif self.measured:
            said += f"; {self.measured} that were not in it were measured"
        return (said,)

    def _of(self, signature: Signature, inputs: int, outputs: int) -> float:
        if not (inputs and outputs):
            return 0.0
        points = self._points(signature)
        case = Case(signature, inputs, outputs)
        if (inputs, outputs) in points:
            return points[inputs, outputs]
        if not points or not _is_worth_it(case):
            return _guess(case)
        return _estimate(points, inputs, outputs)

    def knows(self, signature: Signature) -> bool:
        """Tell whether such a layer was measured at any width."""
        return bool(self._points(signature))

    def _has(self, case: Case) -> bool:
        return (case.inputs, case.outputs) in self._points(case.signature)

    def _points(self, signature: Signature) -> dict[Widths, float]:
        if signature not in self._known:
            found = self.table.layers.get(str(signature), {})
            pairs = {key: tuple(map(int, key.split(">"))) for key in found}
            self._known[signature] = {(pair[0], pair[1]): found[key] for key, pair in pairs.items()}
        return self._known[signature]

    def _measure(self, cases: list[Case]) -> None:
        try:
            found = time_cases(cases, threads=self.table.threads)
        except ModelError:  # no session: what is known of the layers must do
            self.missing += len(cases)
            return
        self.measured += len(cases)
        for case, took in zip(cases, found, strict=True):
            self._points(case.signature)[case.inputs, case.outputs] = took
            entries = self.table.layers.setdefault(str(case.signature), {})
            entries[key_of(case.inputs, case.outputs)] = round(took, 3)


_PROCESS: dict[int, Table] = {}


def _here(threads: int = 1) -> Table:
    """Return the table of what this process has measured."""
    if threads not in _PROCESS:
        _PROCESS[threads] = blank_table(threads)
    return _PROCESS[threads]


def _is_worth_it(case: Case) -> bool:
    return case.signature.macs(case.inputs, case.outputs) >= LEAST_MACS


def _guess(case: Case) -> float:
    return CALL + PER_MAC * case.signature.macs(case.inputs, case.outputs)


def _estimate(points: dict[Widths, float], inputs: int, outputs: int) -> float:
    """Estimate from points along both axes: a layer's time is about a product of two staircases."""
    full = max(points, key=prod)
    along_inputs = {i: t for (i, o), t in points.items() if o == full[1]}
    along_outputs = {o: t for (i, o), t in points.items() if i == full[0]}
    if min(len(along_inputs), len(along_outputs)) > 1:
        return _between(along_inputs, inputs) * _between(along_outputs, outputs) / points[full]
    diagonal = {i: t for (i, o), t in points.items() if i == o}
    if len(diagonal) > 1 and inputs == outputs:
        return _between(diagonal, inputs)
    near = min(points, key=lambda at: abs(at[0] - inputs) + abs(at[1] - outputs))
    return max(points[near] * inputs * outputs / prod(near), CALL)


def _between(points: dict[int, float], at: int) -> float:
    """Interpolate; below the smallest and above the largest point the time is in proportion."""
    below = max((p for p in points if p <= at), default=None)
    above = min((p for p in points if p >= at), default=None)
    if below is None or above is None:
        near = above if below is None else below
        assert near is not None
        return max(points[near] * at / near, CALL) if below is not None else points[near]
    if below == above:
        return points[below]
    share = (at - below) / (above - below)
    return points[below] + share * (points[above] - points[below])
