"""The ladder: measures against the loss of quantization, taken one after another until the loss is small enough."""

from __future__ import annotations

import dataclasses
import glob
import math
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from onnxcompress.analysis import Judge, measure
from onnxcompress.contract import Context

from .plan import QuantizePlan

if TYPE_CHECKING:
    from .quantize import Quantize

PLAIN: dict[str, Any] = {"equalise": False, "correct": False, "rounding": "nearest"}
RUNGS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("rounded to nearest", {}),
    ("equalised", {"equalise": True}),
    ("biases corrected", {"correct": True}),
    ("rounding compensated", {"rounding": "compensating"}),
)
"""What is tried, each on top of those before it that helped, as options of `Quantize`."""


def climb(step: Quantize, model: ir.Model, context: Context) -> QuantizePlan:
    """Return the plan of the first rung that loses at most ``step.max_drop`` of the metric.

    Half of the samples are fitted to, the other half judges. The rung that is found is planned again with all. Where
    no rung holds, ever more of the layers that hurt most stay in float.
    """
    assert step.max_drop is not None
    fitted, judges = context.samples.halves()
    judge = Judge(model, judges, context.metric)
    plain = dataclasses.replace(step, max_drop=None)
    seen = context.given(fitted)
    notes: list[str] = []
    best = _Rung(math.inf, math.inf, plain, QuantizePlan())
    for what, options in RUNGS:
        base = best.step if notes else dataclasses.replace(plain, **PLAIN)
        best = min(best, _try(judge, what, dataclasses.replace(base, **options), model, seen, notes))
        if best.loss <= step.max_drop:
            break
    else:
        best = _leave_in_float(best, step.max_drop, judge, model, seen, notes)
    if best.loss > step.max_drop:
        notes.append(f"no rung loses at most {step.max_drop:g}; the best one is taken")
    return dataclasses.replace(best.step.plan(model, context), notes=tuple(notes))


@dataclasses.dataclass(order=True)
class _Rung:
    """What was tried; the one with the least loss, then with the least noise, is the best."""

    loss: float
    noise: float
    step: Quantize = dataclasses.field(compare=False)
    plan: QuantizePlan = dataclasses.field(compare=False)


def _try(judge: Judge, what: str, step: Quantize, model: ir.Model, context: Context, notes: list[str]) -> _Rung:
    plan = step.plan(model, context)
    if not plan.nodes:
        return _Rung(0.0, -math.inf, step, plan)
    found = judge.compare(step, plan)
    loss = math.inf if found.drop is None or math.isnan(found.drop) else found.drop
    notes.append(f"{what}: {found.metric} {found.value_b:.4f}, lost {loss:.4f} on {found.count} samples")
    context.progress("ladder", len(notes), 0)
    return _Rung(loss, math.inf if found.sqnr is None else -found.sqnr, step, plan)


def _leave_in_float(
    best: _Rung, max_drop: float, judge: Judge, model: ir.Model, context: Context, notes: list[str]
) -> _Rung:
    """Leave one, two, four, … of the layers that hurt most in float, until the loss is small enough."""
    base = best.step
    worst = _worst_first(best, judge, context)
    count = 1
    while count < len(worst) and best.loss > max_drop:
        names = worst[:count]
        what = f"{count} of {len(worst)} layers in float ({', '.join(names[:3])}{', …' if count > 3 else ''})"
        tried = dataclasses.replace(base, exclude=(*base.exclude, *map(glob.escape, names)))
        best = min(best, _try(judge, what, tried, model, context, notes))
        count *= 2
    return best


def _worst_first(rung: _Rung, judge: Judge, context: Context) -> list[str]:
    """Rank the layers by the signal to noise at the output when that layer alone is quantized, the worst first."""
    parts = rung.plan.parts()
    if not parts:
        return []
    curves, _ = measure(judge, rung.step, {1.0: parts}, progress=context.progress)
    ratios = {name: math.inf if point.sqnr is None else point.sqnr for name, (point, *_) in curves.items()}
    return sorted(ratios, key=lambda name: ratios[name])
