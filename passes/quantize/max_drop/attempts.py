"""What has been tried to lose less by quantization, and the best of it so far."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import onnx_ir as ir

from onnxcompress.contract import Context, Pass
from onnxcompress.evaluation.compare import Comparison
from onnxcompress.evaluation.sensitivity import Judge

from ..static.plan import QuantizePlan

SURE = 1.96
"""So many standard errors on top of a loss are not exceeded in 95 % of cases."""


@dataclasses.dataclass(frozen=True)
class Attempt:
    """What was tried, and how it does on samples that it was not fitted to; None where it quantizes nothing."""

    found: Comparison | None
    step: Pass
    plan: QuantizePlan

    def holds(self, max_drop: float, errors: float = 1.0) -> bool:
        """Tell whether little enough is lost with so many standard errors on top."""
        return self.found is None or self.found.seems_within(max_drop, errors)

    @property
    def likely(self) -> tuple[float, float]:
        """The loss and its standard error."""
        return (0.0, 0.0) if self.found is None else self.found.likely

    def beats(self, other: Attempt) -> bool:
        """Tell whether less is lost beyond doubt, or about as much with less noise.

        On few samples the loss is a draw; the noise of an output is known from a handful.
        """
        (loss, error), (other_loss, other_error) = self.likely, other.likely
        if abs(loss - other_loss) > max(error, other_error):
            return loss < other_loss
        return self.signal > other.signal

    @property
    def signal(self) -> float:
        """The signal to noise of the first output, in dB."""
        if self.found is None:
            return math.inf
        return -math.inf if self.found.sqnr is None else self.found.sqnr

    def loses_less(self, other: Attempt) -> bool:
        """Tell whether less is lost beyond doubt."""
        (loss, error), (other_loss, other_error) = self.likely, other.likely
        return loss + max(error, other_error) < other_loss


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

    def holds(self, errors: float = 1.0) -> bool:
        """Tell whether the best so far loses little enough."""
        return self.best is not None and self.best.holds(self.max_drop, errors)

    def try_with(self, what: str, base: Pass, options: dict[str, Any], *, costly: bool = False) -> bool:
        """Try `base` with other options; tell whether that holds.

        It becomes the best if it beats that. What makes the model slower becomes the best if it holds, as only less is
        tried after what holds, or else if it loses less, beyond doubt.
        """
        attempt = self._tried(what, type(base)(**base.options() | options))
        holds, best = attempt.holds(self.max_drop), self.best
        if best is None or (holds and (costly or not self.holds())):
            better = True
        else:
            better = attempt.loses_less(best) if costly else attempt.beats(best)
        self.best = attempt if better else best
        return holds

    def _tried(self, what: str, step: Pass) -> Attempt:
        plan = step.plan(self.model, self.context)
        assert isinstance(plan, QuantizePlan)
        if not plan.nodes:
            return Attempt(None, step, plan)
        found = self.judge.compare(step, plan)
        self.notes.append(f"{what}: {_described(found)}")
        self.context.progress("attempts", len(self.notes), 0)
        return Attempt(found, step, plan)


def _described(found: Comparison) -> str:
    """Return what was measured, in words."""
    error = "" if found.drop_error is None else f" ± {found.drop_error:.2g}"
    text = f"{found.metric} {found.value_b:.4f}, lost {found.drop:.3g}{error} on {found.count} samples"
    if found.expected is not None and found.expected_error is not None:
        text += f"; its margins lead to expect {found.expected:.3g} ± {found.expected_error:.2g}"
    return text if found.sqnr is None else f"{text}; {found.sqnr:.1f} dB"
