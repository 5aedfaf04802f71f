"""A regressor that is trained along turns the student's features into the teacher's."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod, sqrt

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.training import Behind

from .feature_loss import FeatureLoss


@dataclass(frozen=True)
class Regressor(FeatureLoss):
    """The mean squared error between the teacher's feature map and a 3 by 3 convolution of the student's.

    The convolution has a bias, is trained along, and is thrown away; of vectors it is a matrix. The error is divided by
    the variance of the teacher's features in the batch. As in "Knowledge Distillation Tutorial" of PyTorch
    (https://docs.pytorch.org/tutorials/beginner/knowledge_distillation_tutorial.html).
    """

    kernel = 3

    def parameters(self) -> dict[str, npt.NDArray[np.float32]]:
        """Return the regressor's weight and bias, drawn after He et al., arXiv:1502.01852."""
        mine, its, spatial = self.student.features, self.its.features, self._spatial
        shape = (its, mine, *(self.kernel,) * spatial) if spatial else (mine, its)
        limit = sqrt(6 / (mine * self.kernel**spatial))
        random = np.random.default_rng([self.seed, *self.student.name.encode()])
        weight, bias = self._names
        return {
            weight: random.uniform(-limit, limit, prod(shape)).reshape(shape).astype(np.float32),
            bias: np.zeros(its, np.float32),
        }

    def compare(self, behind: Behind, student: ir.Value, teacher: ir.Value) -> ir.Value:
        """Add the operators."""
        student, teacher = self.pooled(behind, student, teacher)
        return self.relative_error(behind, self.regressed(behind, student), teacher)

    def regressed(self, behind: Behind, student: ir.Value) -> ir.Value:
        """Return what the regressor makes of the student's features."""
        weight, bias = map(behind.parameter, self._names)
        if not self._spatial:
            return behind.add("Add", behind.add("MatMul", student, weight), bias)
        pads = [self.kernel // 2] * 2 * self._spatial
        return behind.add("Conv", student, weight, bias, kernel_shape=[self.kernel] * self._spatial, pads=pads)

    @property
    def _names(self) -> tuple[str, str]:
        name = f"onnxcompress.{type(self).__name__}/{self.student.name}/{self.its.name}"
        return f"{name}/weight", f"{name}/bias"

    @property
    def _spatial(self) -> int:
        """How many axes an image or signal has; none for vectors, whose features are on the last axis."""
        rank = len(self.student.shape)
        return rank - 2 if rank > 2 and self.student.axis % rank == 1 else 0
