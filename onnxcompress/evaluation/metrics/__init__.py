"""How a model's outputs are scored: a table of metrics, and the user's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from ...errors import MetricError, OptionError, did_you_mean
from ...runtime.user_code import load_function
from .boxes import Boxes
from .classes import Overlap, TopK
from .near import Explained, Near
from .own import Own
from .score import Loss as Loss
from .score import Score as Score
from .score import Subject as Subject
from .sequences import Divergence, Perplexity
from .texts import Texts


@dataclass(frozen=True)
class Metric:
    """One way to score a model by its outputs.

    Attributes
    ----------
    name : str
        With the output that it is asked for, if any: ``cosine:embedding``.
    make : callable
        Returns a `Score` that has seen nothing yet; see `start`.
    loss : callable or None
        ``(reference value, value)`` to how much was lost (higher is worse); None if the metric cannot tell.
    labels : {"needed", "used", "unused"}
        Whether outputs are compared with labels: always, where there are any, never.
    perfect : float or None
        What the original itself gets, where that does not depend on samples.
    output : str
        The name or pattern of the outputs that are scored; empty for the model's main one.
    """

    name: str
    make: Callable[[Subject], Score]
    loss: Loss | None
    labels: str = "unused"
    perfect: float | None = None
    output: str = ""

    def start(self, subject: Subject | None = None) -> Score:
        """Return a `Score` that has seen nothing yet."""
        return self.make(subject or Subject())

    def drop(self, reference_value: float, value: float) -> float:
        """Return how much was lost; higher is worse, and 0 is nothing.

        Raises
        ------
        MetricError
            The metric has no such number (sqnr has no upper end).
        """
        if self.loss is None:
            raise MetricError(f"metric '{self.name}' has no drop to limit; use agreement, cosine or max_abs instead")
        return float(self.loss(reference_value, value))


def _difference(reference_value: float, value: float) -> float:
    return reference_value - value


def _rise(reference_value: float, value: float) -> float:
    return value - reference_value


def _relative_rise(reference_value: float, value: float) -> float:
    return value / reference_value - 1.0


METRICS = {
    metric.name: metric
    for metric in (
        Metric("top1", partial(TopK, k=1), _difference, "needed"),
        Metric("top5", partial(TopK, k=5), _difference, "needed"),
        Metric("agreement", partial(Near, field="agreement"), _difference, perfect=1.0),
        Metric("iou", partial(Overlap, loss=_difference), _difference, "used"),
        Metric("cosine", partial(Near, field="cosine"), _difference, perfect=1.0),
        Metric("r2", partial(Explained, loss=_difference), _difference, "used"),
        Metric("boxes", partial(Boxes, loss=_difference), _difference, "used"),
        Metric("text", partial(Texts, loss=_difference, exact=True), _difference, "used"),
        Metric("cer", partial(Texts, loss=_rise, exact=False), _rise, "used"),
        Metric("perplexity", partial(Perplexity, loss=_relative_rise), _relative_rise, "used"),
        Metric("kl", partial(Divergence, loss=_rise), _rise, perfect=0.0),
        Metric("max_abs", partial(Near, field="max_abs"), _rise, perfect=0.0),
        Metric("sqnr", partial(Near, field="sqnr"), None, perfect=float("inf")),
    )
}
"""The metrics by name."""


def find_metric(name: str) -> Metric:
    """Return a metric by its name, or the user's own for ``file.py:function`` and ``module:function``.

    ``cosine:embedding`` scores the output of that name; ``cosine:*`` all that the pattern means, and the one that
    loses most counts.

    The user's function may ask for ``outputs``, ``labels`` and ``reference`` by name, or take two or three arguments
    in that order: a dict of all outputs by name, each one array, or a list of arrays (one for each batch) where shapes
    vary; the labels, or None; the original's outputs for the same samples, in the same form. It returns a number,
    higher is better, or one for each sample, of which the mean counts.

    Raises
    ------
    MetricError
        There is no such metric, or the function cannot be loaded.
    """
    known, colon, output = name.partition(":")
    if known in METRICS and (output or not colon):
        metric = METRICS[known]
        return Metric(name, metric.make, metric.loss, metric.labels, metric.perfect, output)
    if colon:
        try:
            function = load_function(name, "metric")
        except OptionError as error:
            raise MetricError(str(error)) from error
        return Metric(name, lambda _: Own(name, function), _difference)
    names = ", ".join(METRICS)
    raise MetricError(
        f"unknown metric '{name}'{did_you_mean(name, list(METRICS))} (metrics: {names}, file.py:function; "
        "cosine:NAME scores one output)"
    )
