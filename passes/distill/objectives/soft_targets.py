"""The teacher's softened probabilities as targets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.training import LOGITS, Behind, CrossEntropy, Loss, Shapes

TEACHER = "onnxcompress.teacher"


@dataclass(frozen=True)
class SoftTargets(Loss):
    """``(1 - hard_weight)·T²·KL(softmax(teacher/T) || softmax(student/T)) + hard_weight·CE(labels)``.

    Both are means over the batch; ``T²`` keeps the size of its gradients independent of the temperature. Without labels
    only the teacher counts; a term whose weight is zero is left out.

    Attributes
    ----------
    labels : numpy.ndarray or None
        A class number for each sample.
    temperature, hard_weight : float

    Notes
    -----
    G. Hinton, O. Vinyals, J. Dean, "Distilling the Knowledge in a Neural Network", 2015, arXiv:1503.02531.
    """

    labels: npt.NDArray[Any] | None
    temperature: float = 4.0
    hard_weight: float = 0.5

    @property
    def hard(self) -> float:
        """The weight of the labels, where there are any."""
        return 0.0 if self.labels is None else self.hard_weight

    @property
    def reads(self) -> tuple[str, ...]:
        """The logits."""
        return (LOGITS,)

    @property
    def teacher(self) -> dict[str, str]:
        """Its logits, where they count."""
        return {TEACHER: LOGITS} if self.hard < 1 else {}

    def targets(self, shapes: Shapes) -> dict[str, npt.NDArray[Any]]:
        """Check the labels."""
        return CrossEntropy(self.labels).targets(shapes) if self.labels is not None and self.hard > 0 else {}

    def add(self, behind: Behind, student: Mapping[str, ir.Value]) -> ir.Value:
        """Add the terms."""
        terms = []
        if self.labels is not None and self.hard > 0:
            terms.append(behind.scaled(CrossEntropy(self.labels).add(behind, student), self.hard, "hard"))
        if self.hard < 1:
            weight = (1 - self.hard) * self.temperature**2
            terms.append(behind.scaled(self._divergence(behind, student[LOGITS]), weight, "soft"))
        return terms[0] if len(terms) == 1 else behind.add("Add", *terms)

    def score(self, behind: Behind, student: Mapping[str, ir.Value]) -> ir.Value:
        """Add the accuracy, or without labels the agreement with the teacher."""
        if self.labels is not None and self.hard > 0:
            return CrossEntropy(self.labels).score(behind, student)
        logits = student[LOGITS]
        answers = [behind.add("ArgMax", value, axis=-1) for value in (logits, self._fed(behind, logits))]
        return behind.mean(behind.number(behind.add("Equal", *answers)))

    def _fed(self, behind: Behind, logits: ir.Value) -> ir.Value:
        return behind.fed(TEACHER, ir.DataType.FLOAT, logits.shape)

    def _divergence(self, behind: Behind, logits: ir.Value) -> ir.Value:
        """KL divergence from the teacher's softened probabilities to the student's, a mean over the batch."""
        softer = behind.constant("onnxcompress.temperature", np.float32(self.temperature))
        student = behind.add("LogSoftmax", behind.add("Div", logits, softer), axis=-1)
        softened = behind.add("Div", self._fed(behind, logits), softer)
        expected = behind.add("Softmax", softened, axis=-1)
        surprise = behind.add("Sub", behind.add("LogSoftmax", softened, axis=-1), student)
        weighted = behind.add("Mul", expected, surprise)
        axes = behind.constant("onnxcompress.classes_axis", np.array([-1]))
        return behind.mean(behind.add("ReduceSum", weighted, axes, keepdims=0))
