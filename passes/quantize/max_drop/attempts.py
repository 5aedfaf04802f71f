"""What has been tried to lose less by quantization, and the best of it so far."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import onnx_ir as ir

from onnxcompress.contract import Context, Pass
from onnxcompress.evaluation.sensitivity import Judge

from ..static.plan import QuantizePlan


@dataclasses.dataclass(order=True)
class Attempt:
    """What was tried: by how much is lost, the error included, and, where that is the same, by the noise."""

    loss: float
    noise: float
    step: Pass = dataclasses.field(compare=False)
    plan: QuantizePlan = dataclasses.field(compare=False)


@dataclasses.dataclass
class Attempts:
    """What has been tried so far.

    Attributes
    ----------
    judge : Judge
    model : onnx_ir.Model
    context : Context
        With the samples to fit to.
    max_drop : float
    int16 : str, optional
        The type of 16 bits that activations of single layers may have.
    best : Attempt or None
    notes : list of str
        A line for each attempt.
    """

    judge: Judge
    model: ir.Model
    context: Context
    max_drop: float
    int16: str | None
    best: Attempt | None = None
    notes: list[str] = dataclasses.field(default_factory=list)

    def holds(self, attempt: Attempt) -> bool:
        """Tell whether an attempt loses little enough."""
        return attempt.loss <= self.max_drop

    def try_with(self, what: str, base: Pass, options: dict[str, Any], *, costly: bool = False) -> bool:
        """Try `base` with other options; tell whether that holds.

        If so, it becomes the best, as only less is tried after what holds; else it does if it is better. What makes
        the model slower must lose less for that; less noise is not enough.
        """
        attempt = self._tried(what, type(base)(**base.options() | options))
        if (
            self.holds(attempt)
            or self.best is None
            or (attempt.loss < self.best.loss if costly else attempt < self.best)
        ):
            self.best = attempt
        return self.holds(attempt)

    def _tried(self, what: str, step: Pass) -> Attempt:
        plan = step.plan(self.model, self.context)
        assert isinstance(plan, QuantizePlan)
        if not plan.nodes:
            return Attempt(0.0, -math.inf, step, plan)
        found = self.judge.compare(step, plan)
        loss = math.inf if found.drop is None or math.isnan(found.drop) else found.drop
        lost = f"{loss:.3g}" if found.drop_error is None else f"{loss:.3g} ± {found.drop_error:.2g}"
        self.notes.append(f"{what}: {found.metric} {found.value_b:.4f}, lost {lost} on {found.count} samples")
        self.context.progress("attempts", len(self.notes), 0)
        return Attempt(loss + (found.drop_error or 0.0), math.inf if found.sqnr is None else -found.sqnr, step, plan)
