"""Decoupled knowledge distillation: the target class and the others, each with a weight of its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.training import CrossEntropy, Shapes

from .kl import divergence, soften
from .output_loss import OutputLoss
from .rows import TINY, Rows
from .tensors import Kind

FAR = 1000.0
"""What is taken from a logit so that its probability becomes zero."""


@dataclass(frozen=True)
class Decoupled(OutputLoss):
    """``T²·(TCKD + beta·NCKD)``: the divergence of the target class against all others, and that among the others.

    The target is the label of a sample; where there are no labels, or a negative one, the class that the teacher finds.

    Attributes
    ----------
    temperature : float
    beta : float
        The weight of the divergence among the classes that are not the target.
    labels : CrossEntropy or None
        What is right.

    References
    ----------
    B. Zhao et al., "Decoupled Knowledge Distillation", CVPR 2022, arXiv:2203.08679.
    """

    temperature: float = 4.0
    beta: float = 8.0
    labels: CrossEntropy | None = field(default=None)
    kinds: ClassVar[frozenset[Kind]] = frozenset({"classes"})

    def targets(self, shapes: Shapes) -> dict[str, npt.NDArray[Any]]:
        """Check the labels."""
        return {} if self.labels is None else self.labels.targets(shapes)

    def compare(self, rows: Rows) -> ir.Value:
        """Add the operators."""
        add, target = rows.behind.add, self._target(rows)
        student, teacher = (soften(rows, value, self.temperature) for value in (rows.student, rows.teacher))
        others = add("Sub", student, rows.behind.scaled(target, FAR, "far"))
        their_others = add("Sub", teacher, rows.behind.scaled(target, FAR, "far"))
        among_others = rows.mean(divergence(rows, others, their_others))
        found = add(
            "Add", rows.mean(_against_others(rows, student, teacher, target)), self._weighted(rows, among_others)
        )
        return rows.behind.scaled(found, self.temperature**2, "temperature")

    def _weighted(self, rows: Rows, value: ir.Value) -> ir.Value:
        return rows.behind.scaled(value, self.beta, "beta")

    def _target(self, rows: Rows) -> ir.Value:
        """Return 1 for the target class of each row, 0 for the others."""
        behind = rows.behind
        target = behind.add("ArgMax", rows.teacher, axis=1, keepdims=0)
        if self.labels is not None:
            flat = behind.constant("onnxcompress.flat", np.array([-1]))
            labels = behind.add("Reshape", self.labels.fed(behind), flat)
            none = behind.add("Less", labels, behind.constant("onnxcompress.zero", np.int64(0)))
            target = behind.add("Where", none, target, labels)
        depth = behind.constant("onnxcompress.classes", np.array([rows.features]))
        return behind.add("OneHot", target, depth, behind.constant("onnxcompress.off_on", np.array([0, 1], np.float32)))


def _against_others(rows: Rows, student: ir.Value, teacher: ir.Value, target: ir.Value) -> ir.Value:
    """Return the divergence of two probabilities for each row: that of the target, and that of all others."""
    add = rows.behind.add
    other = add("Sub", rows.number(1), target)
    terms = []
    for chosen in (target, other):
        mine, its = (rows.sum(add("Mul", add("Softmax", value, axis=1), chosen)) for value in (student, teacher))
        logarithms = [add("Log", add("Max", value, rows.number(TINY))) for value in (its, mine)]
        terms.append(add("Mul", its, add("Sub", *logarithms)))
    return add("Add", *terms)
