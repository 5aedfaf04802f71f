"""Measures against the loss of quantization, taken one after another until the loss is small enough."""

from __future__ import annotations

import dataclasses
from typing import Any

import onnx_ir as ir

from onnxcompress.contract import Context, Pass
from onnxcompress.evaluation.sensitivity import Judge

from ..static.plan import QuantizePlan
from .attempts import Attempts
from .exclude import exclude_layers

PLAIN: dict[str, Any] = {"equalise": False, "correct": False, "rounding": "nearest"}
MEASURES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("rounded to nearest", {}),
    ("ranges by percentile", {"calibration": "percentile"}),
    ("ranges by mse", {"calibration": "mse"}),
    ("equalised", {"equalise": True}),
    ("biases corrected", {"correct": True}),
    ("rounded by gptq", {"rounding": "gptq"}),
)
"""What is tried, each on top of those before it that helped, as options of `Quantize`."""


def within_max_drop(
    step: Pass, max_drop: float, model: ir.Model, context: Context, *, int16: str | None
) -> QuantizePlan:
    """Return the plan of the first attempt that loses at most `max_drop` of the metric.

    Half of the samples are fitted to, the other half judges; a loss that is counted in decisions must be small enough
    with its standard error. The attempt that is found is planned again with all samples. Where none holds, ever more of
    the layers that hurt most get activations of 16 bits, if the target takes them, and then ever more stay in float.
    How ranges are found is only varied where the step leaves that as it comes.

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
    fitted, judges = context.samples.halves()
    judge = Judge(model, judges, context.metric, workers=context.workers)
    attempts = Attempts(judge, model, context.given(fitted), max_drop, int16)
    base, options = step, PLAIN
    for what, measure in MEASURES:
        if "calibration" in measure and step.options()["calibration"] != "minmax":
            continue
        if attempts.try_with(what, base, options | measure):
            break
        assert attempts.best is not None
        base, options = attempts.best.step, {}
    else:
        exclude_layers(attempts)
    assert attempts.best is not None
    unmet = () if attempts.holds(attempts.best) else (f"no attempt loses at most {max_drop:g}; the best one is taken",)
    plan = attempts.best.step.plan(model, context)
    assert isinstance(plan, QuantizePlan)
    return dataclasses.replace(plan, notes=(*attempts.notes, *unmet, *plan.notes), unmet=unmet)
