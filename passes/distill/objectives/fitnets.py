"""Hints: the student's features, projected, are to be the teacher's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.training import Behind

from .regressor import Regressor


@dataclass(frozen=True)
class Hint(Regressor):
    """Half of the mean squared error between the teacher's features and a projection of the student's.

    Where widths differ, the projection is a 1 by 1 convolution or a matrix that is trained along and thrown away; where
    they are the same, there is none. The error is divided by the variance of the teacher's features in the batch.

    References
    ----------
    A. Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015, arXiv:1412.6550.
    """

    kernel = 1

    def parameters(self) -> dict[str, npt.NDArray[np.float32]]:
        """Return the projection's weight and bias."""
        return super().parameters() if self.student.features != self.its.features else {}

    def regressed(self, behind: Behind, student: ir.Value) -> ir.Value:
        """Return the projection."""
        return super().regressed(behind, student) if self.parameters() else student

    def compare(self, behind: Behind, student: ir.Value, teacher: ir.Value) -> ir.Value:
        """Add the operators."""
        return behind.scaled(super().compare(behind, student, teacher), 0.5, "half")
