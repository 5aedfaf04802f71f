"""The squared distance from the teacher's values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from .output_loss import OutputLoss
from .rows import TINY, Rows
from .tensors import Kind


@dataclass(frozen=True)
class SquaredError(OutputLoss):
    """The mean squared error over the variance of the teacher's values in the batch: 1 is as bad as their mean.

    On logits it is what J. Ba, R. Caruana trained with ("Do Deep Nets Really Need to be Deep?", 2014, arXiv:1312.6184).
    """

    kinds: ClassVar[frozenset[Kind]] = frozenset({"values", "embedding"})
    others: ClassVar[frozenset[Kind]] = frozenset({"classes", "binary"})

    def compare(self, rows: Rows) -> ir.Value:
        """Add the operators."""
        difference = rows.behind.add("Sub", rows.student, rows.teacher)
        return rows.behind.add("Div", rows.mean_of_all(rows.squares(difference)), variance(rows))


def variance(rows: Rows) -> ir.Value:
    """Return the variance of the teacher's values in the batch."""
    add, mean = rows.behind.add, rows.mean_of_all(rows.teacher)
    return add("Max", rows.mean_of_all(rows.squares(add("Sub", rows.teacher, mean))), rows.number(TINY))
