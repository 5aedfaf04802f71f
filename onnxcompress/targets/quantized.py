"""What is stored as integers in a model, and who reads it, in QuantizeLinear/DequantizeLinear and QLinear form."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes import common

from ..graph import edit, operators, shapes
from ..graph.constants import find, is_constant
from ..graph.functions import inline
from ..graph.operators import Role

QUANTIZE = {"QuantizeLinear", "com.microsoft::QuantizeLinear"}
DEQUANTIZE = {"DequantizeLinear", "com.microsoft::DequantizeLinear"}

WEIGHTED = ("convolution", "product", "lookup")
"""Families of operators whose weights engines store as integers."""

MOVING = operators.KEEP_ELEMENTS - {"Cast"}
"""What may stand between integers and who reads them."""


@dataclass(frozen=True, eq=False)
class Stored:
    """A tensor that is stored as integers.

    Attributes
    ----------
    node : onnx_ir.Node
        The QuantizeLinear, DequantizeLinear or integer operator that says how.
    role : {"activation", "weight", "bias"}
        Weights and biases are constants.
    dtype : str
        As in ONNX, in lower case.
    data, scale, zero : onnx_ir.Value, optional
        The integers (of a DequantizeLinear or an operator's input), the scale and the zero point.
    axis : int
        Of a DequantizeLinear or QuantizeLinear with several scales.
    block : int
        Elements that share a scale along `axis`; 0 where there are no blocks.
    """

    node: ir.Node
    role: Role
    dtype: str
    data: ir.Value | None
    scale: ir.Value | None
    zero: ir.Value | None
    axis: int = 1
    block: int = 0

    @property
    def scales(self) -> npt.NDArray[Any] | None:
        """The scales, where they are constants."""
        return find(self.scale)


@dataclass(frozen=True, eq=False)
class Reader:
    """A node that reads a dequantized constant, maybe behind a Transpose.

    `perm` leads from the node's axes to the constant's; None where another operator in between moved them.
    """

    node: ir.Node
    index: int
    perm: tuple[int, ...] | None


class Quantized:
    """A copy of a model as the rules read it: functions inlined, without what nothing reads, types inferred."""

    def __init__(self, model: ir.Model) -> None:
        self.model = model.clone()
        if self.model.functions:
            inline(self.model)
        common.RemoveUnusedNodesPass()(self.model)
        shapes.infer(self.model)
        self.nodes = list(self.model.graph.all_nodes())

    @cached_property
    def stored(self) -> list[Stored]:
        """Every tensor that is stored as integers; a pair of Q and DQ counts once."""
        return [tensor for node in self.nodes for tensor in self.at(node)]

    def at(self, node: ir.Node) -> Iterator[Stored]:
        """Yield what one node stores; a DequantizeLinear that undoes a QuantizeLinear adds nothing."""
        op = edit.op_of(node)
        if op in QUANTIZE and not is_constant(node.inputs[0]):
            yield self._linear(node, "activation", quantized_type(node), None)
        elif op in DEQUANTIZE and not _repeats(node):
            yield self._linear(node, self.role(node), dequantized_type(node), node.inputs[0])
        for role, data, scale, zero in operators.OPERANDS.get(op, ()):
            value, at = _input(node, data), _input(node, zero)
            known = value if value is not None and value.dtype is not None else at
            if role == "weight" and not is_constant(value):
                role = "activation"
            dtype = "uint8" if known is None or known.dtype is None else known.dtype.name.lower()
            yield Stored(node, role, dtype, value, _input(node, scale), at)

    def _linear(self, node: ir.Node, role: Role, dtype: str, data: ir.Value | None) -> Stored:
        axis, block = edit.int_attribute(node, "axis", 1), edit.int_attribute(node, "block_size", 0)
        return Stored(node, role, dtype, data, node.inputs[1], _input(node, 2), axis, block)

    def role(self, node: ir.Node) -> Role:
        """Return what a DequantizeLinear's tensor is: a constant's role is that of the input that reads it."""
        data = node.inputs[0]
        producer = None if data is None else data.producer()
        if producer is not None and edit.op_of(producer) in QUANTIZE:
            data = producer.inputs[0]
        if not is_constant(data):
            return "activation"
        if dequantized_type(node) == "int32":
            return "bias"
        for reader in readers(node.outputs[0]):
            known = operators.facts(edit.op_of(reader.node))
            if known.family in WEIGHTED and reader.index == known.bias:
                return "bias"
            if known.family in WEIGHTED and reader.index in known.weights:
                return "weight"
        scales = find(node.inputs[1])
        # Another operator's constant operand is stored like an activation, unless it is only stored small.
        return "weight" if scales is not None and scales.size > 1 else "activation"


def _input(node: ir.Node, index: int | None) -> ir.Value | None:
    return node.inputs[index] if index is not None and index < len(node.inputs) else None


def quantized_type(node: ir.Node) -> str:
    """Return the type that a QuantizeLinear writes."""
    zero = _input(node, 2)
    if zero is not None and zero.dtype is not None:
        return zero.dtype.name.lower()
    code = edit.int_attribute(node, "output_dtype", 0)
    return ir.DataType(code).name.lower() if code else "uint8"


def dequantized_type(node: ir.Node) -> str:
    """Return the type that a DequantizeLinear reads."""
    for value in (node.inputs[0], _input(node, 2)):
        if value is not None and value.dtype is not None:
            return value.dtype.name.lower()
    producer = node.inputs[0].producer() if node.inputs[0] is not None else None
    return quantized_type(producer) if producer is not None and edit.op_of(producer) in QUANTIZE else "uint8"


def _repeats(node: ir.Node) -> bool:
    """Tell whether a DequantizeLinear only undoes the QuantizeLinear of an activation, with the same numbers."""
    producer = node.inputs[0].producer() if node.inputs[0] is not None else None
    if producer is None or edit.op_of(producer) not in QUANTIZE or is_constant(producer.inputs[0]):
        return False
    return same_grid(producer, node)


def same_grid(first: ir.Node, second: ir.Node) -> bool:
    """Tell whether two QuantizeLinear or DequantizeLinear have the same scale and zero point."""
    for index in (1, 2):
        one, other = _input(first, index), _input(second, index)
        if one is other:
            continue
        left, right = find(one), find(other)
        if index == 2 and one is None:
            left = None if right is None else np.zeros_like(right)
        if index == 2 and other is None:
            right = None if left is None else np.zeros_like(left)
        if left is None or right is None or left.dtype != right.dtype or not np.array_equal(left, right):
            return False
    return True


def readers(value: ir.Value, perm: tuple[int, ...] | None = ()) -> Iterator[Reader]:
    """Yield who reads a dequantized constant; ``perm = ()`` stands for axes in their own order."""
    for use in value.uses():
        op = edit.op_of(use.node)
        if op == "Identity":
            yield from readers(use.node.outputs[0], perm)
        elif op == "Transpose":
            order = edit.ints_attribute(use.node, "perm")
            moved = None if order is None or perm is None else tuple(perm[i] for i in order) if perm else order
            yield from readers(use.node.outputs[0], moved)
        elif op in MOVING:
            yield from readers(use.node.outputs[0], None)
        else:
            yield Reader(use.node, use.idx, perm)


def dequantize_of(value: ir.Value | None) -> ir.Node | None:
    """Return the DequantizeLinear that a value comes from, also behind what `readers` follows a constant through."""
    node = None if value is None else value.producer()
    moved = False
    while node is not None and edit.op_of(node) in MOVING:
        moved = True
        value = node.inputs[0]
        node = None if value is None else value.producer()
    if node is None or edit.op_of(node) not in DEQUANTIZE:
        return None
    data = node.inputs[0]
    source = None if data is None else data.producer()
    constant = is_constant(data) or (
        source is not None and edit.op_of(source) in QUANTIZE and is_constant(source.inputs[0])
    )
    return node if constant or not moved else None
