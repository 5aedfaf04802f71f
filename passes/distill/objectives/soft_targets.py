"""The teacher's softened probabilities as targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.errors import DataError
from onnxcompress.training import Behind, CrossEntropy

TEACHER = "onnxcompress.teacher"


@dataclass(frozen=True)
class SoftTargets:
    """``(1 - hard_weight)·T²·KL(softmax(teacher/T) || softmax(student/T)) + hard_weight·CE(labels)``.

    Both are means over the batch; ``T²`` keeps the size of its gradients independent of the temperature. Without labels
    only the teacher counts, without a teacher only the labels; a term whose weight is zero is left out.

    Attributes
    ----------
    labels : numpy.ndarray or None
        A class number for each sample.
    teacher : numpy.ndarray or None
        Its logits, (samples, classes).
    temperature, hard_weight : float

    Notes
    -----
    G. Hinton, O. Vinyals, J. Dean, "Distilling the Knowledge in a Neural Network", 2015, arXiv:1503.02531.
    """

    labels: npt.NDArray[Any] | None
    teacher: npt.NDArray[Any] | None
    temperature: float = 4.0
    hard_weight: float = 0.5

    @property
    def hard(self) -> float:
        """The weight of the labels, as far as there are both."""
        return 0.0 if self.labels is None else 1.0 if self.teacher is None else self.hard_weight

    def targets(self, classes: int | None) -> dict[str, npt.NDArray[Any]]:
        """Check labels and teacher."""
        if self.labels is None and self.teacher is None:
            raise DataError("training needs labels or a teacher's logits, and there are neither")
        found = {}
        if self.teacher is not None and self.hard < 1:
            if self.teacher.ndim != 2 or not np.isfinite(self.teacher).all():
                shape = list(self.teacher.shape)
                raise DataError(f"the teacher's logits must be finite numbers [samples, classes], not {shape}")
            classes = self.teacher.shape[1]
            found = {TEACHER: self.teacher.astype(np.float32)}
        if self.labels is not None and self.hard > 0:
            found = CrossEntropy(self.labels).targets(classes) | found
        return found

    def add(self, behind: Behind, logits: ir.Value) -> ir.Value:
        """Add the terms."""
        terms = []
        if self.labels is not None and self.hard > 0:
            terms.append(behind.scaled(CrossEntropy(self.labels).add(behind, logits), self.hard, "hard"))
        if self.hard < 1:
            weight = (1 - self.hard) * self.temperature**2
            terms.append(behind.scaled(self._divergence(behind, logits), weight, "soft"))
        return terms[0] if len(terms) == 1 else behind.add("Add", *terms)

    def _divergence(self, behind: Behind, logits: ir.Value) -> ir.Value:
        """KL divergence from the teacher's softened probabilities to the student's, a mean over the batch."""
        teacher = behind.fed(TEACHER, ir.DataType.FLOAT, logits.shape)
        softer = behind.constant("onnxcompress.temperature", np.float32(self.temperature))
        student = behind.add("LogSoftmax", behind.add("Div", logits, softer), axis=-1)
        softened = behind.add("Div", teacher, softer)
        expected = behind.add("Softmax", softened, axis=-1)
        surprise = behind.add("Sub", behind.add("LogSoftmax", softened, axis=-1), student)
        weighted = behind.add("Mul", expected, surprise)
        axes = behind.constant("onnxcompress.classes_axis", np.array([1]))
        return behind.add("ReduceMean", behind.add("ReduceSum", weighted, axes, keepdims=0), keepdims=0)
