"""Looks into what the page shows beside the figures of a run: single layers, single samples, groups that cannot go."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_ir as ir

from .channels.groups import find_groups
from .errors import ModelError, OnnxCompressError
from .evaluation.layer_noise import layer_noise
from .evaluation.layers import Pair, measured
from .evaluation.profiled import Profiled
from .evaluation.worst import worst_samples
from .inspection import group_info
from .runtime.provider import running

if TYPE_CHECKING:
    from .evaluation.compare import Reference
    from .evidence import Evidence
    from .runtime.session import Array
    from .samples.samples import Samples

MOST_BYTES = 1 << 28
"""Weights of a model that is looked into: of larger ones, each look takes minutes."""

FEW = 4
"""Samples that layers are compared on."""

LONGEST = 2000.0
"""Milliseconds that a run through these may take; of a slower model there are fewer."""


@dataclass(frozen=True)
class Subject:
    """What is looked into.

    Attributes
    ----------
    original, result : onnx_ir.Model
    feeds : dict of str to ndarray
        One sample.
    samples : Samples or None
        What passes saw: layers are compared on a few of them.
    reference : Reference or None
        The original with the samples that judge.
    profile : callable
        Returns the kernels of both models.
    """

    original: ir.Model
    result: ir.Model
    feeds: dict[str, Array]
    samples: Samples | None
    reference: Reference | None
    profile: Callable[[], Profiled]


def examine(report: Evidence, subject: Subject, pair: Pair) -> None:
    """Fill in the report's layers, worst samples and frozen groups; what cannot be had is said in `left_out`."""
    size = report.stages[0].bytes
    if size > MOST_BYTES:
        text = "a model of that size takes minutes to look into; layers, samples and groups are left out"
        report.left_out.append(f"{size / 1e6:,.0f} MB: {text}")
        return
    noise: dict[str, float | None] = {}
    with _or_say(report, "layers are not compared"):
        few = max(1, min(FEW, round(LONGEST / (report.stages[0].milliseconds or LONGEST))))
        feeds = [subject.feeds] if subject.samples is None else list(subject.samples.head(few).batches(1))[:few]
        noise = layer_noise(subject.original, subject.result, pair.tensors(), feeds)
    with _or_say(report, "layers are not timed"):
        if not running().is_cpu:
            raise ModelError(f"{running().describe()} has no kernels that could be told apart")
        report.layers = measured(pair, subject.profile(), noise)
    with _or_say(report, "no samples are shown"):
        _find_worst(report, subject)
    groups = find_groups(subject.original)
    report.frozen = [group_info(group) for group in groups.frozen]


def _find_worst(report: Evidence, subject: Subject) -> None:
    if subject.reference is None or report.metric is None or len(report.stages) < 2:
        return
    report.worst, seen = worst_samples(subject.reference, subject.result, report.metric)
    if seen < report.samples:
        report.left_out.append(f"the worst samples are those of the first {seen}; all are {report.samples}")


@contextmanager
def _or_say(report: Evidence, what: str) -> Iterator[None]:
    try:
        yield
    except OnnxCompressError as error:
        report.left_out.append(f"{what}: {error}")
