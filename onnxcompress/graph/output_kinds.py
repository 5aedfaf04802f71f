"""What an output of a model is, told from its name, its shape and the operators before it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from . import edit, operators
from .layer import Layer
from .shapes import FLOATS

OutputKind: TypeAlias = Literal["classes", "binary", "embedding", "boxes", "values", "state", "decisions"]
"""Of scores the highest decides; yes or no each; a direction; corners; numbers; what goes in again; whole numbers."""

MOVES = operators.KEEP_ELEMENTS | {"DequantizeLinear", "Dropout", "Flatten", "QuantizeLinear"}
AFFINE = frozenset({"Add", "Div", "Mul", "Sub"})
"""With a constant they scale and shift; what an output is does not change with that."""

PROBABILITIES: dict[str, OutputKind] = {"Softmax": "classes", "LogSoftmax": "classes", "Sigmoid": "binary"}
"""What makes probabilities; the tensor before it holds the logits."""

NAMES: tuple[tuple[str, OutputKind], ...] = (
    ("hidden_state|embed|pooler|pooled|feature|vector|latent", "embedding"),
    ("present|past_key|cache|state|(^|[._/])(hn|cn|mems?)([._/]|$)", "state"),
    ("box", "boxes"),
    ("loc|landmark|anchor|coord|offset|delta|regress|reg_", "values"),
    ("logit|prob|class|cls|softmax", "classes"),
)
"""Patterns in the names of outputs; the first holds."""

_NORMS = {op: operators.facts(op).channels == -1 for op in operators.NORMALISATIONS}
NORMS = {"SimplifiedLayerNormalization", "SkipLayerNormalization", *(op for op, last in _NORMS.items() if last)}
"""Those over the last axis."""

IMAGES = {*operators.CONVOLUTIONS, "AveragePool", "MaxPool", *(op for op, last in _NORMS.items() if not last)}
"""What makes images and signals, with channels on axis 1."""
ACTIVATIONS = frozenset({"Clip", "Elu", "Gelu", "HardSwish", "LeakyRelu", "PRelu", "Relu", "Sigmoid", "Tanh"})
POOLS = {"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool", "ReduceMax", "ReduceMean"}
VECTORS = NORMS | POOLS | {"Add", "Div", "Gelu", "LpNormalization", "Relu", "Tanh"}
"""What the last operator of an embedding is: a norm, pooling, an activation, the sum behind a residual block."""

MASK = re.compile(r"(attention|input|padding|pad)_?mask|^mask$", re.IGNORECASE)
"""Names of inputs that are 0 where a position is padding."""

CACHE = re.compile(r"past|cache", re.IGNORECASE)
"""Names of inputs that hold what came before."""

WIDTH = 16
"""Widths of features are multiples of it; numbers of classes (10, 100, 1000) seldom are."""


@dataclass(frozen=True)
class Tensor:
    """A tensor that tells what an output is.

    Attributes
    ----------
    name : str
    shape : tuple of int
        For the samples that were tried.
    axis : int
        That of classes or features; the others, beside the batch, are positions. One number for each sample has none.
    """

    name: str
    shape: tuple[int, ...]
    axis: int

    @property
    def features(self) -> int:
        """How many classes or features."""
        return self.shape[self.axis] if len(self.shape) > 1 else 1

    @property
    def positions(self) -> tuple[int, ...]:
        """The extents beside the batch and the features."""
        axis = self.axis % len(self.shape)
        return tuple(n for place, n in enumerate(self.shape) if place not in (0, axis))

    def __str__(self) -> str:
        """Return its name and its shape."""
        return f"'{self.name}' {['batch', *self.shape[1:]]}".replace("'batch'", "batch")


class OutputReader:
    """Tells what the outputs of a model are.

    Parameters
    ----------
    model : onnx_ir.Model
        Without local functions. Not changed.
    shapes : dict of str to tuple of int
        Those that tensors have for some samples, as far as they are known.
    count : int
        How many samples that are.
    """

    def __init__(self, model: ir.Model, shapes: Mapping[str, tuple[int, ...]], count: int) -> None:
        self.shapes, self.count = shapes, count
        self._opset = model.opset_imports.get("", 13)

    def tensor(self, value: ir.Value, kind: OutputKind) -> Tensor | None:
        """Return the tensor that tells what an output is, whose first dimension is the batch; None where none is."""
        node = _maker(value)
        start = logits(value) if node is not None and PROBABILITIES.get(node.op_type) == kind else value
        for each in backward(start):
            shape = self.shapes.get(str(each.name), ())
            if shape and shape[0] == self.count and prod(shape) > 0:
                return Tensor(str(each.name), shape, self.axis(node, kind, shape))
        return None

    def axis(self, node: ir.Node | None, kind: OutputKind, shape: tuple[int, ...]) -> int:
        """Return the axis of classes or features of a tensor that this node makes."""
        if node is not None and kind == "classes" and node.op_type in PROBABILITIES:
            old = self._opset < LAST_AXIS
            axis = edit.int_attribute(node, "axis", 1 if old else -1) % len(shape)
            # An old Softmax is one over all axes from this on; the classes are on that which has any.
            return next((a for a in range(axis, len(shape)) if shape[a] > 1), axis) if old else axis
        if node is not None and (node.op_type in NORMS or node.op_type in IMAGES):
            return 1 if node.op_type in IMAGES else len(shape) - 1
        return 1 if len(shape) > IMAGE_RANK - 1 else len(shape) - 1

    def kind(self, value: ir.Value, labels: npt.NDArray[Any] | None) -> tuple[OutputKind, str]:
        """Return what an output is, and what tells so. When in doubt, it is no vector of logits but an embedding."""
        name = str(value.name)
        if value.dtype not in FLOATS:
            return "decisions", "it holds no numbers with fractions"
        hint = next(((kind, found[0]) for text, kind in NAMES if (found := re.search(text, name, re.IGNORECASE))), None)
        node = _maker(value)
        if node is not None and node.op_type in PROBABILITIES and (hint is None or hint[0] == "classes"):
            return PROBABILITIES[node.op_type], f"a {node.op_type} makes it"
        tensor = self.tensor(value, "values")
        if hint is not None:
            single = hint[0] == "classes" and tensor is not None and tensor.features == 1
            return "binary" if single else hint[0], f"'{hint[1]}' in its name"
        shape = () if tensor is None else tensor.shape
        if labels is not None and len(shape) > 1 and fits(labels, tensor):
            return "classes", "the labels fit it"
        return self._kind_by_structure(value, shape)

    def _kind_by_structure(self, value: ir.Value, shape: tuple[int, ...]) -> tuple[OutputKind, str]:
        last = _scaled(value)
        op = "" if last is None else last.op_type
        makes = f"{'an' if op[:1] in 'AEIOU' else 'a'} {op} makes it" if op else "nothing tells what it is"
        if len(shape) < 2 or shape[-1] == 1 or prod(shape[1:]) == 1:
            return "values", "one number for each position" if len(shape) > 1 else "one number for each sample"
        image = op in operators.CONVOLUTIONS and len(shape) > 2 and prod(shape[2:]) > 1
        if op in operators.PRODUCTS and not image:
            return "classes", makes
        if last is not None and len(shape) == 2 and shape[1] % WIDTH and self._pools_classes(last):
            return "classes", f"a {op} of {shape[1]} maps makes it"
        if op in VECTORS and (len(shape) < IMAGE_RANK or op != "Tanh"):
            return "embedding", makes
        if image or len(shape) > IMAGE_RANK - 1 or op == "Concat":
            return "values", makes
        return "embedding", makes

    def _pools_classes(self, node: ir.Node) -> bool:
        """Tell whether maps of a pointwise convolution are pooled, as SqueezeNet does with one for each class."""
        if node.op_type not in POOLS or node.inputs[0] is None:
            return False
        layer = Layer.of(unactivated(node.inputs[0]), among=operators.CONVOLUTIONS)
        return layer is not None and all(size == 1 for size in layer.kernel)


LAST_AXIS = 13
"""Opset from which on a Softmax is over its last axis, and over no more than one."""

IMAGE_RANK = 4


def backward(value: ir.Value | None) -> list[ir.Value]:
    """Return a tensor and those before it, as far as elements are only moved."""
    found = []
    while value is not None:
        found.append(value)
        node = value.producer()
        value = node.inputs[0] if node is not None and node.op_type in MOVES else None
    return found


def _maker(value: ir.Value) -> ir.Node | None:
    """Return the node that computes an output's elements, before they were moved."""
    return backward(value)[-1].producer()


def logits(value: ir.Value) -> ir.Value | None:
    """Return what the Softmax or Sigmoid reads that makes an output."""
    node = _maker(value)
    return node.inputs[0] if node is not None and node.op_type in PROBABILITIES else None


def unactivated(value: ir.Value) -> ir.Node | None:
    """Return the node that makes a tensor, before its activation."""
    node = value.producer()
    while node is not None and node.op_type in ACTIVATIONS and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node


def _scaled(value: ir.Value) -> ir.Node | None:
    """Return the node that makes an output, before it was moved, scaled and shifted."""
    node = _maker(value)
    while node is not None and node.op_type in AFFINE:
        # An old model lists its weights among its inputs.
        open_ = [v for v in node.inputs if v is not None and v.const_value is None and edit.constant(v) is None]
        if len(open_) != 1:
            return node
        node = _maker(open_[0])
    return node


def fits(labels: npt.NDArray[Any], tensor: Tensor | None) -> bool:
    """Tell whether labels can be classes of a tensor: one for each position, none too large."""
    if tensor is None or not np.issubdtype(labels.dtype, np.integer) or not labels.size:
        return False
    positions = tuple(n for n in tensor.positions if n > 1)
    wanted = tuple(n for n in labels.shape[1:] if n > 1)
    return positions == wanted and labels.max() < tensor.features and tensor.features > 1
