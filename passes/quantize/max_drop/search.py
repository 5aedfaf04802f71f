"""Measures against the loss of quantization, taken one after another until the loss is small enough."""

from __future__ import annotations

import dataclasses
from typing import Any

import onnx_ir as ir

from onnxcompress.contract import Context, Pass
from onnxcompress.evaluation.sensitivity import Judge

from ..static.plan import QuantizePlan
from .attempts import SURE, Attempts
from .exclude import exclude_layers

FREE: tuple[tuple[str, dict[str, Any]], ...] = (
    ("ranges by percentile", {"calibration": "percentile"}),
    ("ranges by mse", {"calibration": "mse"}),
    ("equalised", {"equalise": True}),
)
"""What costs nothing when the model runs, each on top of those before it that helped, as options of `Quantize`."""


def within_max_drop(
    step: Pass, max_drop: float, model: ir.Model, context: Context, *, int16: str | None
) -> QuantizePlan:
    """Return the plan of the first attempt that loses at most `max_drop` of the metric.

    It begins with the step as it is, whose corrections cost nothing when the model runs. Unless that is sure to hold,
    what else costs nothing is tried, and kept where it helps. Where that does not hold either, ever more of the layers
    that hurt most get activations of 16 bits, if the target takes them, and at last ever more stay in float. Half of
    the samples are fitted to, the other half judges; what is found is planned again with all samples. How ranges are
    found is only varied where the step leaves that as it comes.

    Parameters
    ----------
    step : Pass
        `Quantize`, without its `max_drop`; its other options are where it starts.
    max_drop : float
    model : onnx_ir.Model
        Not changed.
    context : Context
    int16 : str, optional
        The type of 16 bits that activations of single layers may have.
    """
    fitted, judges = context.samples.fit_and_search() or context.samples.halves()
    judge = Judge(model, judges, context.metric, workers=context.workers)
    attempts = Attempts(judge, model, context.given(fitted), max_drop, int16)
    attempts.try_with("as it comes", step, {})
    _try_what_is_free(attempts, step)
    if not attempts.holds():
        exclude_layers(attempts)
    assert attempts.best is not None
    unmet = () if attempts.holds() else (f"no attempt is sure to lose at most {max_drop:g}; the best one is taken",)
    plan = attempts.best.step.plan(model, context)
    assert isinstance(plan, QuantizePlan)
    given, taken = step.options(), attempts.best.step.options()
    chosen = {name: value for name, value in taken.items() if value != given[name]}
    return dataclasses.replace(plan, notes=(*attempts.notes, *unmet, *plan.notes), unmet=unmet, chosen=chosen)


def _try_what_is_free(attempts: Attempts, step: Pass) -> None:
    """Try what costs nothing at run time until something is sure to hold."""
    given = step.options()
    for what, options in FREE:
        if attempts.holds(SURE):
            return
        if "calibration" in options and given["calibration"] != "minmax":
            continue
        assert attempts.best is not None
        if any(attempts.best.step.options()[name] == value for name, value in options.items()):
            continue
        attempts.try_with(what, attempts.best.step, options)
