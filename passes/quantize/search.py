"""The ladder: measures against the loss of quantization, taken one after another until the loss is small enough."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from onnxcompress.analysis import Judge
from onnxcompress.contract import Context

from .plan import QuantizePlan
from .spare import spare_layers

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


def climb(step: Quantize, model: ir.Model, context: Context) -> QuantizePlan:
    """Return the plan of the first rung that loses at most ``step.max_drop`` of the metric.

    Half of the samples are fitted to, the other half judges; a loss that is counted in decisions must be small enough
    with its standard error. The rung that is found is planned again with all samples. Where no rung holds, ever more of
    the layers that hurt most get activations of 16 bits, if the target takes them, and then ever more stay in float.
    Ranges are only varied where the step leaves them as they come.
    """
    assert step.max_drop is not None
    fitted, judges = context.samples.halves()
    plain = dataclasses.replace(step, max_drop=None)
    judge = Judge(model, judges, context.metric)
    ladder = Ladder(judge, model, context.given(fitted), step.max_drop)
    for what, options in RUNGS:
        if "ranges" in options and step.ranges != "minmax":
            continue
        base = ladder.best.step if ladder.best else dataclasses.replace(plain, **PLAIN)
        if ladder.climb(what, base, options):
            break
    else:
        spare_layers(ladder)
    assert ladder.best is not None
    if not ladder.holds(ladder.best):
        ladder.notes.append(f"no rung loses at most {step.max_drop:g}; the best one is taken")
    plan = ladder.best.step.plan(model, context)
    return dataclasses.replace(plan, notes=(*ladder.notes, *plan.notes))


@dataclasses.dataclass(order=True)
class Rung:
    """What was tried: by how much is lost, the error included, and, where that is the same, by the noise."""

    loss: float
    noise: float
    step: Quantize = dataclasses.field(compare=False)
    plan: QuantizePlan = dataclasses.field(compare=False)


@dataclasses.dataclass
class Ladder:
    """What has been tried so far.

    Attributes
    ----------
    judge : Judge
    model : onnx_ir.Model
    context : Context
        With the samples to fit to.
    max_drop : float
    best : Rung or None
    notes : list of str
        A line for each rung.
    """

    judge: Judge
    model: ir.Model
    context: Context
    max_drop: float
    best: Rung | None = None
    notes: list[str] = dataclasses.field(default_factory=list)

    def holds(self, rung: Rung) -> bool:
        """Tell whether a rung loses little enough."""
        return rung.loss <= self.max_drop

    def climb(self, what: str, base: Quantize, options: dict[str, Any], *, costly: bool = False) -> bool:
        """Try `base` with other options; tell whether that holds.

        If so, it becomes the best, as only less is tried after what holds; else it does if it is better. What makes
        the model slower must lose less for that; less noise is not enough.
        """
        rung = self._tried(what, dataclasses.replace(base, **options))
        if self.holds(rung) or self.best is None or (rung.loss < self.best.loss if costly else rung < self.best):
            self.best = rung
        return self.holds(rung)

    def _tried(self, what: str, step: Quantize) -> Rung:
        plan = step.plan(self.model, self.context)
        if not plan.nodes:
            return Rung(0.0, -math.inf, step, plan)
        found = self.judge.compare(step, plan)
        loss = math.inf if found.drop is None or math.isnan(found.drop) else found.drop
        lost = f"{loss:.3g}" if found.drop_error is None else f"{loss:.3g} ± {found.drop_error:.2g}"
        self.notes.append(f"{what}: {found.metric} {found.value_b:.4f}, lost {lost} on {found.count} samples")
        self.context.progress("ladder", len(self.notes), 0)
        return Rung(loss + (found.drop_error or 0.0), math.inf if found.sqnr is None else -found.sqnr, step, plan)
