"""The ladder: measures against the loss of quantization, taken one after another until the loss is small enough."""

from __future__ import annotations

import dataclasses
import glob
import math
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from onnxcompress.analysis import Judge, measure
from onnxcompress.contract import Context
from onnxcompress.errors import PassError
from onnxcompress.targets import load_target, takes

from .plan import QuantizePlan
from .scheme import WIDE

if TYPE_CHECKING:
    from .quantize import Quantize

PLAIN: dict[str, Any] = {"equalise": False, "correct": False, "rounding": "nearest"}
RUNGS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("rounded to nearest", {}),
    ("ranges by percentile", {"ranges": "percentile"}),
    ("ranges by mse", {"ranges": "mse"}),
    ("equalised", {"equalise": True}),
    ("biases corrected", {"correct": True}),
    ("rounding compensated", {"rounding": "compensating"}),
)
"""What is tried, each on top of those before it that helped, as options of `Quantize`."""

LAYERS: tuple[tuple[str, str], ...] = (("wide", "with activations of 16 bits"), ("exclude", "in float"))
"""What is then done to ever more of the layers that hurt most: the option of `Quantize` that names them, in words."""


def climb(step: Quantize, model: ir.Model, context: Context) -> QuantizePlan:
    """Return the plan of the first rung that loses at most ``step.max_drop`` of the metric.

    Half of the samples are fitted to, the other half judges. The rung that is found is planned again with all. Where
    no rung holds, ever more of the layers that hurt most get activations of 16 bits, if the target takes them, and then
    ever more stay in float. Ranges are only varied where the step leaves them as they come.
    """
    assert step.max_drop is not None
    fitted, judges = context.samples.halves()
    judge = Judge(model, judges, context.metric)
    plain = dataclasses.replace(step, max_drop=None)
    seen = context.given(fitted)
    notes: list[str] = []
    best = _Rung(math.inf, math.inf, plain, QuantizePlan())
    for what, options in RUNGS:
        if "ranges" in options and step.ranges != "minmax":
            continue
        base = best.step if notes else dataclasses.replace(plain, **PLAIN)
        best = min(best, _try(judge, what, dataclasses.replace(base, **options), model, seen, notes))
        if best.loss <= step.max_drop:
            break
    else:
        best = _spare_layers(best, step.max_drop, judge, model, seen, notes)
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


def _spare_layers(
    best: _Rung, max_drop: float, judge: Judge, model: ir.Model, context: Context, notes: list[str]
) -> _Rung:
    """Spare one, two, four, … of the layers that hurt most, in 16 bits, then in float, until the loss is small."""
    worst = _worst_first(best, judge, context)
    for option, what in LAYERS:
        if option == "wide" and not _takes_wide(best.step):
            continue
        base = best.step
        for count in _counts(len(worst), everything=option == "wide"):
            names = worst[:count]
            named = (*getattr(base, option), *map(glob.escape, names))
            label = f"{count} of {len(worst)} layers {what} ({', '.join(names[:3])}{', …' if count > 3 else ''})"
            changed: dict[str, Any] = {option: named}
            try:
                tried = _try(judge, label, dataclasses.replace(base, **changed), model, context, notes)
            except PassError as error:
                if option != "wide":
                    raise
                notes.append(f"layers {what}: not possible, {error}")
                break
            best = min(best, tried)
            if best.loss <= max_drop:
                return best
    return best


def _counts(layers: int, *, everything: bool) -> list[int]:
    """Return 1, 2, 4, … below the number of layers, and that number where sparing them all is still quantization."""
    counts = [1 << power for power in range(layers.bit_length()) if 1 << power < layers]
    return [*counts, layers] if everything and layers else counts


def _takes_wide(step: Quantize) -> bool:
    """Tell whether the target takes activations of 16 bits in single layers."""
    scheme = dataclasses.replace(step, wide=()).scheme()
    wide = WIDE.get(scheme.activations)
    return wide is not None and takes(load_target(step.target), wide, scheme.weights)


def _worst_first(rung: _Rung, judge: Judge, context: Context) -> list[str]:
    """Rank the layers by the signal to noise at the output when that layer alone is quantized, the worst first."""
    parts = rung.plan.parts()
    if not parts:
        return []
    curves, _ = measure(judge, rung.step, {1.0: parts}, progress=context.progress)
    ratios = {name: math.inf if point.sqnr is None else point.sqnr for name, (point, *_) in curves.items()}
    return sorted(ratios, key=lambda name: ratios[name])
