"""The ladder: measures against the loss of quantization, taken one after another until the loss is small enough."""

from __future__ import annotations

import dataclasses
import glob
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from onnxcompress.analysis import Judge
from onnxcompress.contract import Context
from onnxcompress.runtime.compare import Comparison
from onnxcompress.runtime.samples import Samples

from .plan import QuantizePlan

if TYPE_CHECKING:
    from .quantize import Quantize

RUNGS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("rounded to nearest", {"equalise": False, "correct": False, "rounding": "nearest"}),
    ("equalised", {"equalise": True, "correct": False, "rounding": "nearest"}),
    ("biases corrected", {"equalise": True, "correct": True, "rounding": "nearest"}),
    ("rounding compensated", {"equalise": True, "correct": True, "rounding": "compensating"}),
)
"""What is tried, each on top of the one before, as options of `Quantize`."""

RANKED_ON = 64
"""Samples on which single layers are ranked."""


def climb(step: Quantize, model: ir.Model, context: Context) -> QuantizePlan:
    """Return the plan of the first rung that loses at most ``step.max_drop`` of the metric.

    Half of the samples are fitted to, the other half judges. The rung that is found is planned again with all. Where
    no rung holds, ever more of the layers that hurt most stay in float.
    """
    assert step.max_drop is not None
    fitted, judges = _halves(context.samples)
    judge = Judge(model, judges, context.metric)
    plain = dataclasses.replace(step, max_drop=None)
    seen = context.given(fitted)
    notes: list[str] = []
    best: tuple[float, Quantize] = (math.inf, plain)
    for what, tried in _ladder(plain, model, seen, judges):
        plan = tried.plan(model, seen)
        if not plan.nodes:
            break
        found = judge.compare(tried, plan)
        notes.append(_note(what, found))
        loss = _loss(found)
        best = min(best, (loss, tried), key=lambda pair: pair[0])
        if loss <= step.max_drop:
            best = (loss, tried)
            break
        context.progress("ladder", len(notes), 0)
    if best[0] > step.max_drop:
        notes.append(f"no rung loses at most {step.max_drop:g}; the best one is taken")
    return dataclasses.replace(best[1].plan(model, context), notes=tuple(notes))


def _ladder(plain: Quantize, model: ir.Model, context: Context, judges: Samples) -> Iterator[tuple[str, Quantize]]:
    """Yield the rungs, then the last one with ever more layers left in float."""
    tried = plain
    for what, options in RUNGS:
        tried = dataclasses.replace(plain, **options)
        yield what, tried
    worst = _worst_first(tried, model, context, judges)
    count = 1
    while count < len(worst):
        names = tuple(worst[:count])
        yield (
            f"{count} of {len(worst)} layers in float ({', '.join(names[:3])}{', …' if count > 3 else ''})",
            (dataclasses.replace(tried, exclude=(*plain.exclude, *map(glob.escape, names)))),
        )
        count *= 2


def _worst_first(step: Quantize, model: ir.Model, context: Context, judges: Samples) -> list[str]:
    """Rank the layers by the signal to noise at the output when that layer alone is quantized, the worst first."""
    judge = Judge(model, judges.head(RANKED_ON), None)
    ratios = {}
    parts = step.plan(model, context).parts()
    for done, (name, part) in enumerate(parts.items()):
        found = judge.compare(step, part).sqnr
        ratios[name] = math.inf if found is None else found
        context.progress("layers", done + 1, len(parts))
    return sorted(ratios, key=lambda name: ratios[name])


def _loss(found: Comparison) -> float:
    return math.inf if found.drop is None or math.isnan(found.drop) else found.drop


def _note(what: str, found: Comparison) -> str:
    return f"{what}: {found.metric} {found.value_b:.4f}, lost {_loss(found):.4f} on {found.count} samples"


def _halves(samples: Samples) -> tuple[Samples, Samples]:
    half = samples.count // 2
    return (samples.head(half), samples.tail(half)) if half else (samples, samples)
