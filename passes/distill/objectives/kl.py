"""The teacher's softened probabilities as targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from .output_loss import OutputLoss
from .rows import Rows, known
from .tensors import Kind


@dataclass(frozen=True)
class KullbackLeibler(OutputLoss):
    """``T²·KL(softmax(teacher/T) || softmax(student/T))``; ``T²`` keeps its gradients' size independent of ``T``.

    Of logits of yes or no it is the divergence of the two probabilities, a mean over the features.

    Attributes
    ----------
    temperature : float
        Softens both distributions, so that the small probabilities count.

    References
    ----------
    G. Hinton, O. Vinyals, J. Dean, "Distilling the Knowledge in a Neural Network", 2015, arXiv:1503.02531.
    """

    temperature: float = 4.0
    kinds: ClassVar[frozenset[Kind]] = frozenset({"classes", "binary"})

    def compare(self, rows: Rows) -> ir.Value:
        """Add the operators."""
        both = [soften(rows, value, self.temperature) for value in (rows.student, rows.teacher)]
        if self.output.kind == "binary":
            both = [_against_zero(rows, value, self.output.name) for value in both]
        found = divergence(rows, *both)
        if self.output.kind == "binary":
            shape = rows.behind.constant("onnxcompress.rows_shape", np.array([-1, rows.features]))
            found = rows.mean_of_all(rows.behind.add("Reshape", found, shape))
        else:
            found = rows.mean(found)
        return rows.behind.scaled(found, self.temperature**2, "temperature")


def soften(rows: Rows, logits: ir.Value, temperature: float) -> ir.Value:
    """Divide logits by the temperature."""
    return logits if temperature == 1 else rows.behind.scaled(logits, 1 / temperature, "softer")


def divergence(rows: Rows, student: ir.Value, teacher: ir.Value) -> ir.Value:
    """Return the divergence of each row's probabilities from the teacher's."""
    add = rows.behind.add
    surprise = add("Sub", add("LogSoftmax", teacher, axis=1), add("LogSoftmax", student, axis=1))
    return rows.sum(add("Mul", add("Softmax", teacher, axis=1), surprise))


def _against_zero(rows: Rows, logits: ir.Value, name: str) -> ir.Value:
    """Return each logit and a zero: a softmax over the two is the sigmoid of the logit."""
    behind = rows.behind
    column = behind.add("Reshape", logits, behind.constant("onnxcompress.column", np.array([-1, 1])))
    column = known(column, f"onnxcompress.decisions/{name}", 1)
    return behind.add("Mul", column, behind.constant("onnxcompress.yes_no", np.array([[1, 0]], np.float32)))
