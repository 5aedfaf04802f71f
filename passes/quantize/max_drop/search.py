"""Measures against the loss of quantization, taken one after another until the loss is small enough."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from onnxcompress.contract import Context
from onnxcompress.evaluation.sensitivity import Judge

from ..static.plan import QuantizePlan
from .attempts import Ladder
from .exclude import spare_layers

if TYPE_CHECKING:
    from ..quantize import Quantize

PLAIN: dict[str, Any] = {"equalise": False, "correct": False, "rounding": "nearest"}
RUNGS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("rounded to nearest", {}),
    ("ranges by percentile", {"calibration": "percentile"}),
    ("ranges by mse", {"calibration": "mse"}),
    ("equalised", {"equalise": True}),
    ("biases corrected", {"correct": True}),
    ("rounded by gptq", {"rounding": "gptq"}),
)
"""What is tried, each on top of those before it that helped, as options of `Quantize`."""


def climb(step: Quantize, model: ir.Model, context: Context) -> QuantizePlan:
    """Return the plan of the first rung that loses at most ``step.max_drop`` of the metric.

    Half of the samples are fitted to, the other half judges; a loss that is counted in decisions must be small enough
    with its standard error. The rung that is found is planned again with all samples. Where no rung holds, ever more of
    the layers that hurt most get activations of 16 bits, if the target takes them, and then ever more stay in float.
    How ranges are found is only varied where the step leaves them as they are.
    """
    assert step.max_drop is not None
    fitted, judges = context.samples.halves()
    plain = dataclasses.replace(step, max_drop=None)
    judge = Judge(model, judges, context.metric)
    ladder = Ladder(judge, model, context.given(fitted), step.max_drop)
    for what, options in RUNGS:
        if "calibration" in options and step.calibration != "minmax":
            continue
        base = ladder.best.step if ladder.best else dataclasses.replace(plain, **PLAIN)
        if ladder.climb(what, base, options):
            break
    else:
        spare_layers(ladder)
    assert ladder.best is not None
    unmet = () if ladder.holds(ladder.best) else (f"no rung loses at most {step.max_drop:g}; the best one is taken",)
    plan = ladder.best.step.plan(model, context)
    return dataclasses.replace(plan, notes=(*ladder.notes, *unmet, *plan.notes), unmet=unmet)
