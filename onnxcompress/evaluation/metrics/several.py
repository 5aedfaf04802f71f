"""A metric of several outputs: the one that loses most counts."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection
from dataclasses import replace

from ...errors import MetricError, did_you_mean
from ...runtime.session import Array
from ...samples.samples import Batch
from . import Metric
from .score import Outputs, Score, Subject


def start(metric: Metric, subject: Subject, names: Collection[str]) -> Score:
    """Return a score of the outputs that a metric is asked for; of the subject's own where it is asked for none.

    Raises
    ------
    MetricError
        There is no such output, or there are several and the metric is none that compares with the original.
    """
    if not metric.output:
        return metric.start(subject)
    exact = [metric.output] if metric.output in names else []
    found = exact or fnmatch.filter(names, metric.output)
    if not found:
        close = did_you_mean(metric.output, list(names)) or f"; there are {', '.join(names)}"
        raise MetricError(f"metric '{metric.name}': the model has no output '{metric.output}'{close}")
    if len(found) == 1:
        return metric.start(replace(subject, output=found[0]))
    if metric.perfect is None:
        raise MetricError(f"metric '{metric.name}': {len(found)} outputs are meant, and it can score one")
    return Worst(metric, {name: metric.start(replace(subject, output=name)) for name in found})


class Worst:
    """The score of the output that loses most."""

    def __init__(self, metric: Metric, scores: dict[str, Score]) -> None:
        self._metric, self._scores = metric, scores

    def update(self, outputs: Outputs, reference: Outputs, batch: Batch) -> None:
        """Take in one batch."""
        for score in self._scores.values():
            score.update(outputs, reference, batch)

    def value(self) -> float:
        """Return the metric of the worst output."""
        return self._worst().value()

    def losses(self) -> Array | None:
        """Return what each sample loses there."""
        return self._worst().losses()

    def _worst(self) -> Score:
        loss, perfect = self._metric.loss, self._metric.perfect
        if loss is None or perfect is None:
            return min(self._scores.values(), key=lambda score: score.value())
        return max(self._scores.values(), key=lambda score: float(loss(perfect, score.value())))
