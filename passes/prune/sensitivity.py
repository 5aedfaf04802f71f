"""How much a metric loses when one group alone loses channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxcompress.channels.groups import find_groups
from onnxcompress.channels.remove import labels_of
from onnxcompress.errors import DataError, MetricError
from onnxcompress.progress import Progress, silent
from onnxcompress.runtime.compare import Comparison, Reference
from onnxcompress.runtime.samples import Samples

from .masks import ChannelPlan, apply_channels, zeroed
from .ranking import Ranker

SHARES = (0.1, 0.25, 0.5, 0.75)
"""Shares of a group's channels that are tried by default."""


@dataclass(frozen=True)
class Point:
    """A group without some of its channels, all else as it was.

    Attributes
    ----------
    share : float
        What share of the channels was asked for.
    channels : list of int
        Those that were zeroed.
    value : float
        The metric then.
    drop : float
        How much of the metric was lost; higher is worse.
    cosine : float or None
        Cosine of the first output and the original's: it tells groups apart where the metric is too coarse to.
    """

    share: float
    channels: list[int]
    value: float
    drop: float
    cosine: float | None


class Judge:
    """Compares a model with some channels zeroed to the model as it is.

    Parameters
    ----------
    model : onnx_ir.Model
        Not changed.
    samples : Samples
    metric : str or None
        As for `Reference.compare`.
    """

    def __init__(self, model: ir.Model, samples: Samples, metric: str | None) -> None:
        self._model, self._metric = model, metric
        self._reference = Reference(model, samples)
        self._copy = model.clone()
        self._groups = find_groups(self._copy)

    def compare(self, plan: ChannelPlan) -> Comparison:
        """Score the model as `plan` makes it."""
        if plan.weights or plan.biases:
            fitted = self._model.clone()
            apply_channels(fitted, plan)
            return self._checked(fitted)
        with zeroed(self._groups, labels_of(self._groups, plan.channels)):
            return self._checked(self._copy)

    def whole(self) -> Comparison:
        """Score the model as it is."""
        return self._checked(self._copy)

    def _checked(self, model: ir.Model) -> Comparison:
        found = self._reference.compare(model, self._metric)
        if found.drop is None:
            raise MetricError(f"metric '{found.metric}' has no drop; use agreement, cosine or max_abs instead")
        return found


def measure(
    judge: Judge,
    ranker: Ranker,
    names: Sequence[str],
    shares: Sequence[float] = SHARES,
    *,
    progress: Progress = silent,
) -> dict[str, tuple[Point, ...]]:
    """Zero the lowest channels of one group after another and score the model.

    Parameters
    ----------
    judge : Judge
    ranker : Ranker
        Knows the groups and their scores.
    names : sequence of str
        The groups to measure.
    shares : sequence of float
        Shares of each group's channels; those that round to the same channels are tried once.
    progress : callable
        Called as ``progress(what, done, total)``.

    Returns
    -------
    dict of str to tuple of Point
        Group → its points, by growing share. A group too small to lose a channel has none.

    Notes
    -----
    Li et al., "Pruning filters for efficient ConvNets", arXiv:1608.08710, section 3.2.
    """
    curves: dict[str, tuple[Point, ...]] = {}
    for done, name in enumerate(names):
        points: list[Point] = []
        for share in sorted(shares):
            channels = ranker.only(name, share)
            if channels and (not points or channels != points[-1].channels):
                found = judge.compare(ChannelPlan(channels={name: channels}))
                assert found.drop is not None
                points.append(Point(share, channels, found.value_b, found.drop, found.cosine))
        curves[name] = tuple(points)
        progress("sensitivity", done + 1, len(names))
    if not any(curves.values()):
        raise DataError("no group can lose a channel at these shares, so there is nothing to measure")
    return curves
