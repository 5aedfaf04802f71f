"""What training minimises: operators behind tensors of the student, and the arrays that they are fed with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ..errors import DataError
from ..graph import edit

Arrays = Mapping[str, npt.NDArray[Any]]
Shapes = Mapping[str, tuple[int | None, ...] | None]
"""The shape of each tensor that a loss reads, without the batch; None for what is not known before the model runs."""
LABELS = "onnxcompress.labels"
LOGITS = ""
"""Stands for the model's first output, or what the Softmax there reads."""


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
        """Add an input, or return the one that is there."""
        known = (value for value in self.graph.inputs if value.name == name)
        return next(known, None) or edit.add_input(self.graph, name, dtype, shape)

    def model_input(self, name: str) -> ir.Value:
        """Return an input that the model has."""
        return next(value for value in self.graph.inputs if value.name == name)

    def add(self, op_type: str, *inputs: ir.Value | None, **attributes: int | str | Sequence[int]) -> ir.Value:
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

    def parameter(self, name: str) -> ir.Value:
        """Return one of the loss' own weights."""
        return self.graph.initializers[name]

    def mean(self, value: ir.Value, counted: ir.Value | None = None) -> ir.Value:
        """Return the mean over all elements, or over those where `counted`, of the same shape, is 1 and not 0."""
        if counted is None:
            return self.add("ReduceMean", value, keepdims=0)
        total = self.add("ReduceSum", self.add("Mul", value, counted), keepdims=0)
        at_least_one = self.constant("onnxcompress.one", np.float32(1))
        return self.add("Div", total, self.add("Max", self.add("ReduceSum", counted, keepdims=0), at_least_one))

    def as_float(self, value: ir.Value) -> ir.Value:
        """Return a tensor of another type in float32."""
        return value if value.dtype in (None, ir.DataType.FLOAT) else self.add("Cast", value, to=ir.DataType.FLOAT)

    def number(self, condition: ir.Value) -> ir.Value:
        """Return 1 where a condition holds, 0 where not."""
        return self.add("Cast", condition, to=ir.DataType.FLOAT)


class Loss(ABC):
    """What is minimised, and what tells how good the student is. One that combines several is a loss too."""

    @property
    @abstractmethod
    def reads(self) -> tuple[str, ...]:
        """Tensors of the student that it is computed from: outputs or inner ones; `LOGITS` is one of them."""

    @property
    def teacher(self) -> Mapping[str, str]:
        """Inputs that are fed with what the teacher computes, and the tensor of the teacher for each."""
        return {}

    def targets(self, shapes: Shapes) -> dict[str, npt.NDArray[Any]]:
        """Return what is fed beside the model's inputs and the teacher's tensors, a row for each sample.

        Parameters
        ----------
        shapes : dict
            Those of `reads`.

        Raises
        ------
        DataError
            They do not fit.
        """
        return {}

    def parameters(self) -> dict[str, npt.NDArray[np.float32]]:
        """Return weights of its own, which are trained along and thrown away."""
        return {}

    @abstractmethod
    def add(self, behind: Behind, student: Mapping[str, ir.Value]) -> ir.Value:
        """Add the operators that compute the loss, a mean over the batch, and the inputs that it is fed with."""

    @abstractmethod
    def score(self, behind: Behind, student: Mapping[str, ir.Value]) -> ir.Value:
        """Add the operators that compute how good the student is, a mean over the batch; more is better."""


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """``-log softmax(logits)[label]``, a mean over all labels.

    Attributes
    ----------
    labels : numpy.ndarray
        A class number for each sample, or one for each position of each sample, of which those below 0 do not count.
    logits : str
        The student's tensor.
    axis : int
        Its axis of classes.
    smoothing : float
        This share of each label is spread over all classes evenly (Szegedy et al., arXiv:1512.00567).
    mask : str
        An input of the model, of the labels' shape, that is 0 at positions that do not count.
    """

    labels: npt.NDArray[Any]
    logits: str = LOGITS
    axis: int = -1
    smoothing: float = 0.0
    mask: str = ""

    @property
    def reads(self) -> tuple[str, ...]:
        """The logits."""
        return (self.logits,)

    def targets(self, shapes: Shapes) -> dict[str, npt.NDArray[Any]]:
        """Check the labels."""
        labels, shape = self.labels, shapes[self.logits]
        axis = None if shape is None else self.axis % (len(shape) + 1) - 1  # `shape` lacks the batch
        classes = None if shape is None or axis is None else shape[axis]
        wanted = labels.shape[1:] if shape is None or axis is None else (*shape[:axis], *shape[axis + 1 :])
        fits = len(wanted) == labels.ndim - 1 and all(
            w in (None, n) for w, n in zip(wanted, labels.shape[1:], strict=False)
        )
        if not fits or not np.issubdtype(labels.dtype, np.integer):
            text = ", ".join(["samples", *("?" if n is None else str(n) for n in wanted)])
            raise DataError(f"labels must be class numbers of shape [{text}], not {labels.dtype} {list(labels.shape)}")
        below = labels.ndim == 1 and (labels < 0).any()
        if labels.size and (below or labels.max() < 0 or (classes is not None and labels.max() >= classes)):
            raise DataError(f"labels go from {labels.min()} to {labels.max()}, but the model has {classes} classes")
        return {LABELS: labels.astype(np.int64)}

    def add(self, behind: Behind, student: Mapping[str, ir.Value]) -> ir.Value:
        """Add the operators."""
        logits, labels = student[self.logits], self.fed(behind)
        surprise = behind.add("Neg", behind.add("LogSoftmax", logits, axis=self.axis))
        axis = behind.constant("onnxcompress.class_axis", np.array([self.axis]))
        expected = behind.add("Mul", surprise, self._expected(behind, logits, labels))
        return behind.mean(behind.add("ReduceSum", expected, axis, keepdims=0), self._counted(behind, labels))

    def score(self, behind: Behind, student: Mapping[str, ir.Value]) -> ir.Value:
        """Add the accuracy."""
        labels = self.fed(behind)
        answers = behind.add("ArgMax", student[self.logits], axis=self.axis, keepdims=0)
        right = behind.number(behind.add("Equal", answers, labels))
        return behind.mean(right, self._counted(behind, labels))

    def fed(self, behind: Behind) -> ir.Value:
        """Add the input for the labels."""
        names = ["batch", *(f"labelled/{axis}" for axis in range(1, self.labels.ndim))]
        return behind.fed(LABELS, ir.DataType.INT64, ir.Shape(names))

    def _expected(self, behind: Behind, logits: ir.Value, labels: ir.Value) -> ir.Value:
        """Return the probabilities that the labels stand for."""
        axis = behind.constant("onnxcompress.class_axis", np.int64(self.axis))
        depth = behind.add("Gather", behind.add("Shape", logits), axis, axis=0)
        off_on = behind.constant("onnxcompress.off_on", np.array([0, 1], np.float32))
        chosen = behind.add("OneHot", labels, depth, off_on, axis=self.axis)
        if not self.smoothing:
            return chosen
        even = behind.constant("onnxcompress.smoothing", np.float32(self.smoothing))
        spread = behind.add("Div", even, behind.number(depth))
        return behind.add("Add", behind.scaled(chosen, 1 - self.smoothing, "certain"), spread)

    def _counted(self, behind: Behind, labels: ir.Value) -> ir.Value | None:
        """Return 1 where there is a label, 0 where there is none or padding."""
        if self.labels.ndim == 1:
            return None
        counts = behind.add("Greater", labels, behind.constant("onnxcompress.no_label", np.int64(-1)))
        if self.mask:
            kept = behind.add("Cast", behind.model_input(self.mask), to=ir.DataType.BOOL)
            counts = behind.add("And", counts, kept)
        return behind.number(counts)
