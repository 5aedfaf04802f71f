"""What all losses between inner tensors have in common: what they read and are fed with, and how sizes are matched."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxcompress.graph.output_kinds import Tensor
from onnxcompress.training import Behind, Loss

from .rows import TINY, fed, teacher_input


@dataclass(frozen=True)
class FeatureLoss(Loss):
    """A distance of an inner tensor of the student from one of the teacher.

    Attributes
    ----------
    student, teacher : Tensor
        Of the same rank.
    mask : str
        The input of the model that is 0 where a position is padding, or nothing.
    seed : int
        Draws what the loss' own weights start with.
    """

    student: Tensor
    its: Tensor
    mask: str = ""
    seed: int = 0

    @property
    def reads(self) -> tuple[str, ...]:
        """The student's tensor."""
        return (self.student.name,)

    @property
    def teacher(self) -> dict[str, str]:
        """The teacher's tensor."""
        return {teacher_input(self.its): self.its.name}

    @abstractmethod
    def compare(self, behind: Behind, student: ir.Value, teacher: ir.Value) -> ir.Value:
        """Add the operators that compute the mean distance."""

    def why_not(self) -> str:
        """Return why the two tensors cannot be compared, or an empty string."""
        mine, its = self.student, self.its
        if len(mine.shape) != len(its.shape) or mine.axis % len(mine.shape) != its.axis % len(its.shape):
            return "they need the same axes"
        pairs = zip(mine.positions, its.positions, strict=True)
        whole = all(max(pair) % min(pair) == 0 for pair in pairs)
        if mine.positions != its.positions and (not whole or mine.axis % len(mine.shape) != 1):
            return "the larger is pooled where it is a whole multiple of the smaller, in images and signals"
        return ""

    def add(self, behind: Behind, student: Mapping[str, ir.Value]) -> ir.Value:
        """Add the operators."""
        return self.compare(behind, student[self.student.name], fed(behind, self.its))

    def score(self, behind: Behind, student: Mapping[str, ir.Value]) -> ir.Value:
        """Add minus the loss."""
        return behind.add("Neg", self.add(behind, student))

    def pooled(self, behind: Behind, student: ir.Value, teacher: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Average the larger of two images to the size of the smaller."""
        pairs = list(zip(self.student.positions, self.its.positions, strict=True))
        shrink = [mine // min(mine, its) for mine, its in pairs], [its // min(mine, its) for mine, its in pairs]
        both = (student, teacher)
        found = [
            behind.add("AveragePool", value, kernel_shape=ratio, strides=ratio) if max(ratio, default=1) > 1 else value
            for value, ratio in zip(both, shrink, strict=True)
        ]
        return found[0], found[1]

    def counted(self, behind: Behind, value: ir.Value) -> ir.Value:
        """Let padding be zero in a tensor [batch, positions, ...]."""
        return behind.add("Mul", value, self._kept(behind)) if self.mask else value

    def relative_error(self, behind: Behind, student: ir.Value, teacher: ir.Value) -> ir.Value:
        """Return the mean squared error over the variance of the teacher's values in the batch."""
        add, mean = behind.add, behind.mean(self.counted(behind, teacher))
        if self.mask:
            mean = add("Div", mean, behind.mean(self._kept(behind)))
        error, spread = (self.counted(behind, add("Sub", value, teacher)) for value in (student, mean))
        tiny = behind.constant("onnxcompress.tiny", np.float32(TINY))
        variance = add("Max", behind.mean(add("Mul", spread, spread)), tiny)
        return add("Div", behind.mean(add("Mul", error, error)), variance)

    def _kept(self, behind: Behind) -> ir.Value:
        """Return 1 for what is no padding, of shape [batch, positions, 1]."""
        kept = behind.number(behind.add("Cast", behind.model_input(self.mask), to=ir.DataType.BOOL))
        return behind.add("Unsqueeze", kept, behind.constant("onnxcompress.last", np.array([2])))
