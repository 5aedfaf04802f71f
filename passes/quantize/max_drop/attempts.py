"""What has been tried to lose less by quantization, and the best of it so far."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from onnxcompress.contract import Context
from onnxcompress.evaluation.sensitivity import Judge

from ..static.plan import QuantizePlan

if TYPE_CHECKING:
    from ..quantize import Quantize


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
