"""Correlations in the place of divergences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from .output_loss import OutputLoss
from .rows import Rows
from .tensors import Kind

TINY = 1e-20
SMALL = 1e-8
"""Keeps the correlation of what hardly varies at zero."""


@dataclass(frozen=True)
class Correlation(OutputLoss):
    """One minus the correlation of probabilities within each row, plus the same within each class over the batch.

    Probabilities are those of the logits as they are: there is no temperature. Padding does not count.

    References
    ----------
    T. Huang et al., "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022, arXiv:2205.10536.
    """

    kinds: ClassVar[frozenset[Kind]] = frozenset({"classes"})

    def compare(self, rows: Rows) -> ir.Value:
        """Add the operators."""
        behind = rows.behind
        both = [behind.add("Softmax", value, axis=1) for value in (rows.student, rows.teacher)]
        within = rows.mean(_correlation(rows, [_centred(rows, value, 1, None) for value in both], 1))
        column = None
        if rows.counted is not None:
            column = behind.add("Reshape", rows.counted, behind.constant("onnxcompress.column", np.array([-1, 1])))
        over = behind.mean(_correlation(rows, [_centred(rows, value, 0, column) for value in both], 0))
        return behind.add("Sub", rows.number(2), behind.add("Add", within, over))


def _centred(rows: Rows, value: ir.Value, axis: int, counted: ir.Value | None) -> ir.Value:
    """Take the mean along an axis away; rows that do not count become zeros."""
    add, axes = rows.behind.add, rows.behind.constant("onnxcompress.axis", np.array([axis]))
    if counted is None:
        many = rows.behind.number(add("Gather", add("Shape", value), axes))
        return add("Sub", value, add("Div", add("ReduceSum", value, axes, keepdims=1), many))
    many = add("Max", add("ReduceSum", counted, axes, keepdims=1), rows.number(1))
    mean = add("Div", add("ReduceSum", add("Mul", value, counted), axes, keepdims=1), many)
    return add("Mul", add("Sub", value, mean), counted)


def _correlation(rows: Rows, both: list[ir.Value], axis: int) -> ir.Value:
    add, axes = rows.behind.add, rows.behind.constant("onnxcompress.axis", np.array([axis]))
    sums = [add("ReduceSum", rows.squares(value), axes, keepdims=0) for value in both]
    lengths = [add("Sqrt", add("Add", total, rows.number(TINY))) for total in sums]
    product = add("ReduceSum", add("Mul", *both), axes, keepdims=0)
    return add("Div", product, add("Add", add("Mul", *lengths), rows.number(SMALL)))
