"""The angle between the student's vector and the teacher's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from .output_loss import OutputLoss, cosines
from .rows import Rows
from .tensors import Kind


@dataclass(frozen=True)
class Cosine(OutputLoss):
    """One minus the cosine of the angle between the two vectors of a sample or a position.

    As in V. Sanh et al., "DistilBERT", 2019, arXiv:1910.01108.
    """

    kinds: ClassVar[frozenset[Kind]] = frozenset({"embedding"})
    others: ClassVar[frozenset[Kind]] = frozenset({"classes", "binary", "values"})

    def compare(self, rows: Rows) -> ir.Value:
        """Add the operators."""
        return rows.behind.add("Sub", rows.number(1), rows.mean(cosines(rows)))
