"""The distance from the teacher's values, squared where it is small."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from .mse import variance
from .output_loss import OutputLoss
from .rows import Rows
from .tensors import Kind


@dataclass(frozen=True)
class Huber(OutputLoss):
    """``d²/2`` up to a distance of 1, ``|d| - 1/2`` beyond; the unit is the deviation of the teacher's values.

    P. J. Huber, "Robust Estimation of a Location Parameter", 1964.
    """

    kinds: ClassVar[frozenset[Kind]] = frozenset({"values", "embedding"})
    others: ClassVar[frozenset[Kind]] = frozenset({"classes", "binary"})

    def compare(self, rows: Rows) -> ir.Value:
        """Add the operators."""
        add = rows.behind.add
        distance = add("Abs", add("Div", add("Sub", rows.student, rows.teacher), add("Sqrt", variance(rows))))
        near = add("Min", distance, rows.number(1))
        # With near = min(d, 1) this is d²/2 on one side and d - 1/2 on the other.
        return rows.mean_of_all(add("Mul", near, add("Sub", distance, add("Mul", near, rows.number(0.5)))))
