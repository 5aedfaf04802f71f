"""Which blocks go."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import onnx_ir as ir

from onnxcompress.evaluation.compare import Reference
from onnxcompress.progress import Progress
from onnxcompress.samples.samples import Samples

from .bypass import Bypass, leave_out

JUDGES = 64
"""Samples that the outputs are compared on."""


def evenly_spread(count: int, gone: int) -> list[int]:
    """Return which of so many go; of one half that is every second one.

    >>> evenly_spread(6, 3), evenly_spread(7, 2)
    ([1, 3, 5], [1, 5])
    """
    return [(2 * place + 1) * count // (2 * gone) for place in range(gone)]


def least_change(
    model: ir.Model,
    bypasses: Sequence[Bypass],
    gone: int,
    samples: Samples,
    *,
    apart: Collection[str],
    progress: Progress,
) -> tuple[list[int], float]:
    """Leave out one block after the other, each time the one without which the outputs change least.

    Parameters
    ----------
    model : onnx_ir.Model
        Not changed.
    bypasses : sequence of Bypass
        What may go, in order.
    gone : int
        How many go.
    samples : Samples
    apart : collection of str
        Outputs that do not count: the caches of single blocks.
    progress : callable

    Returns
    -------
    which, change
        Those that go, and the squared difference of the outputs then, relative to their squares, a mean over outputs.
    """
    reference = Reference(model, samples.head(JUDGES))
    chosen: list[int] = []
    change, done, total = 0.0, 0, sum(len(bypasses) - step for step in range(gone))
    for _ in range(gone):
        changes: dict[int, float] = {}
        for place in (place for place in range(len(bypasses)) if place not in chosen):
            copy = model.clone()
            leave_out(copy, [bypasses[each] for each in sorted([*chosen, place])])
            changes[place] = _change(reference, copy, apart)
            done += 1
            progress("trying blocks", done, total)
        best = min(changes, key=changes.__getitem__)
        chosen.append(best)
        change = changes[best]
    return sorted(chosen), change


def _change(reference: Reference, model: ir.Model, apart: Collection[str]) -> float:
    outputs = reference.compare(model, "sqnr").outputs
    counted = [output for output in outputs if output.name not in apart] or outputs
    ratios = [10 ** (-output.sqnr / 10) if output.sqnr is not None else math.inf for output in counted]
    return sum(ratios) / len(ratios)
