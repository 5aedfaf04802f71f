"""What training minimises: operators behind the logits, and the arrays that they are fed with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ..errors import DataError
from ..graph import edit

Arrays = Mapping[str, npt.NDArray[Any]]
LABELS = "onnxcompress.labels"


class Behind:
    """Adds operators to the end of a graph.

    Parameters
    ----------
    graph : onnx_ir.Graph
        Changed in place.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph

    def fed(self, name: str, dtype: ir.DataType, shape: ir.Shape | None) -> ir.Value:
        """Add an input."""
        return edit.add_input(self.graph, name, dtype, shape)

    def add(self, op_type: str, *inputs: ir.Value, **attributes: int | str) -> ir.Value:
        """Add an operator, and return its output."""
        node = ir.node(op_type, inputs, attributes)
        node.outputs[0].name = f"onnxcompress.{op_type}.{len(self.graph)}"
        self.graph.append(node)
        return node.outputs[0]

    def constant(self, name: str, array: npt.ArrayLike) -> ir.Value:
        """Add a constant."""
        return edit.Inserter(self.graph).constant(name, np.asarray(array))

    def scaled(self, value: ir.Value, factor: float, name: str) -> ir.Value:
        """Multiply by a number."""
        return self.add("Mul", value, self.constant(f"onnxcompress.{name}_weight", np.float32(factor)))


class Loss(Protocol):
    """What is minimised."""

    def targets(self, classes: int | None) -> dict[str, npt.NDArray[Any]]:
        """Return what is fed beside the model's inputs, a row for each sample.

        Parameters
        ----------
        classes : int or None
            How many the logits have, where the model says so.

        Raises
        ------
        DataError
            They do not fit.
        """

    def add(self, behind: Behind, logits: ir.Value) -> ir.Value:
        """Add the operators that compute the loss of a batch, and the inputs that `targets` names."""


@dataclass(frozen=True)
class CrossEntropy:
    """``-log softmax(logits)[label]``, a mean over the batch.

    Attributes
    ----------
    labels : numpy.ndarray
        A class number for each sample.
    """

    labels: npt.NDArray[Any]

    def targets(self, classes: int | None) -> dict[str, npt.NDArray[Any]]:
        """Check the labels."""
        labels = self.labels
        if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
            raise DataError(f"labels must be class numbers of shape [samples], not {labels.dtype} {list(labels.shape)}")
        if labels.size and (labels.min() < 0 or (classes is not None and labels.max() >= classes)):
            raise DataError(f"labels go from {labels.min()} to {labels.max()}, but the model has {classes} classes")
        return {LABELS: labels.astype(np.int64)}

    def add(self, behind: Behind, logits: ir.Value) -> ir.Value:
        """Add the operator."""
        labels = behind.fed(LABELS, ir.DataType.INT64, ir.Shape(["batch"]))
        column = behind.add("Unsqueeze", labels, behind.constant("onnxcompress.last_axis", np.array([1])))
        picked = behind.add("GatherElements", behind.add("LogSoftmax", logits, axis=-1), column, axis=1)
        return behind.add("Neg", behind.add("ReduceMean", picked, keepdims=0))
