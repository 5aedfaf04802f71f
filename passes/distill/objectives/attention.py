"""Where the student looks: how strong its features are at each position."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxcompress.training import Behind

from .feature_loss import FeatureLoss
from .rows import TINY


@dataclass(frozen=True)
class Attention(FeatureLoss):
    """Half of the squared distance of two attention maps: sums of squares over the channels, scaled to length 1.

    Widths may differ; a larger map is averaged to the size of the smaller.

    References
    ----------
    S. Zagoruyko, N. Komodakis, "Paying More Attention to Attention", ICLR 2017, arXiv:1612.03928.
    """

    def why_not(self) -> str:
        """Return why the two tensors cannot be compared, or an empty string."""
        positions = self.student.positions and self.its.positions
        return super().why_not() or ("" if positions else "there are no positions to pay attention to")

    def compare(self, behind: Behind, student: ir.Value, teacher: ir.Value) -> ir.Value:
        """Add the operators."""
        axis = behind.constant("onnxcompress.channels", np.array([self.student.axis]))
        maps = [behind.add("ReduceSum", behind.add("Mul", v, v), axis, keepdims=1) for v in (student, teacher)]
        maps = [self.counted(behind, value) for value in self.pooled(behind, maps[0], maps[1])]
        mine, its = (_unit(behind, behind.add("Flatten", value, axis=1)) for value in maps)
        difference = behind.add("Sub", mine, its)
        return behind.scaled(behind.mean(_total(behind, difference)), 0.5, "half")


def _unit(behind: Behind, value: ir.Value) -> ir.Value:
    tiny = behind.constant("onnxcompress.tiny", np.float32(TINY))
    return behind.add("Div", value, behind.add("Sqrt", behind.add("Add", _total(behind, value, 1), tiny)))


def _total(behind: Behind, value: ir.Value, keepdims: int = 0) -> ir.Value:
    """Return the sum of squares of each row."""
    last = behind.constant("onnxcompress.last", np.array([-1]))
    return behind.add("ReduceSum", behind.add("Mul", value, value), last, keepdims=keepdims)
