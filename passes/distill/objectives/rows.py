"""Tensors as rows: a row for each position of each sample, a column for each class or feature."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_ir as ir

from onnxcompress.graph.output_kinds import Tensor
from onnxcompress.training import Behind

from .tensors import Output

TINY = 1e-12


@dataclass(frozen=True)
class Rows:
    """What a loss on an output compares.

    Attributes
    ----------
    behind : Behind
    student, teacher : onnx_ir.Value
        Of shape (rows, features).
    counted : onnx_ir.Value or None
        Of shape (rows,): 1 for what counts, 0 for padding.
    features : int
    """

    behind: Behind
    student: ir.Value
    teacher: ir.Value
    counted: ir.Value | None
    features: int

    def mean(self, value: ir.Value) -> ir.Value:
        """Return the mean of a number for each row over the rows that count."""
        return self.behind.mean(value, self.counted)

    def sum(self, value: ir.Value) -> ir.Value:
        """Return the sum of each row."""
        return self.behind.add(
            "ReduceSum", value, self.behind.constant("onnxcompress.last", np.array([-1])), keepdims=0
        )

    def mean_of_all(self, value: ir.Value) -> ir.Value:
        """Return the mean over all features of the rows that count."""
        return self.behind.scaled(self.mean(self.sum(value)), 1 / self.features, "share")

    def number(self, number: float) -> ir.Value:
        """Return a constant."""
        return self.behind.constant("onnxcompress.number", np.float32(number))

    def squares(self, value: ir.Value) -> ir.Value:
        """Return the square of each element."""
        return self.behind.add("Mul", value, value)


def make_rows(behind: Behind, output: Output, student: ir.Value) -> Rows:
    """Bring an output's two tensors into rows."""
    taught = fed(behind, output.teacher)
    rows = f"onnxcompress.rows/{output.name}"
    return Rows(
        behind,
        as_rows(behind, student, output.student, rows),
        as_rows(behind, taught, output.teacher, rows),
        counted_rows(behind, output.mask),
        output.student.features,
    )


def teacher_input(tensor: Tensor) -> str:
    """Return the name of the input that is fed with a tensor of the teacher."""
    return f"onnxcompress.teacher/{tensor.name}"


def fed(behind: Behind, tensor: Tensor) -> ir.Value:
    """Add the input that is fed with a tensor of the teacher."""
    name, axis = teacher_input(tensor), tensor.axis % len(tensor.shape)
    dims = [n if place == axis else f"{name}/{place}" for place, n in enumerate(tensor.shape)]
    return behind.fed(name, ir.DataType.FLOAT, ir.Shape(["batch", *dims[1:]]))


def as_rows(behind: Behind, value: ir.Value, tensor: Tensor, rows: str) -> ir.Value:
    """Return a tensor with one row for each position; `rows` names their number."""
    rank = len(tensor.shape)
    if rank == 2:
        return value
    axis = tensor.axis % rank
    if prod(tensor.shape[axis + 1 :]) > 1:
        value = behind.add("Transpose", value, perm=[*(i for i in range(rank) if i != axis), axis])
    shape = behind.constant("onnxcompress.rows_shape", np.array([-1, tensor.features]))
    return known(behind.add("Reshape", value, shape), rows, tensor.features)


def known(value: ir.Value, *dims: int | str) -> ir.Value:
    """Write down the shape of a tensor, which inference would not find."""
    value.shape, value.type = ir.Shape(dims), ir.TensorType(ir.DataType.FLOAT)
    return value


def counted_rows(behind: Behind, mask: str) -> ir.Value | None:
    """Return, for each row, 1 where the mask that the model is fed with is not 0."""
    if not mask:
        return None
    kept = behind.add("Cast", behind.model_input(mask), to=ir.DataType.BOOL)
    return behind.number(behind.add("Reshape", kept, behind.constant("onnxcompress.flat", np.array([-1]))))
