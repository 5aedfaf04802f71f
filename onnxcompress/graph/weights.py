"""Which constants are weights: what an operator multiplies by, directly or behind what keeps their elements."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from . import constants, edit, operators
from .layer import axes_of


@dataclass(frozen=True)
class Weight:
    """A weight constant and the node that multiplies by it.

    Attributes
    ----------
    value : onnx_ir.Value
        The constant itself.
    node : onnx_ir.Node
        The operator that uses it.
    axis, summed : int
        The axis of `value` that becomes the operator's output channels, and the one that it sums over; -1 when a node
        in between moved it.
    """

    value: ir.Value
    node: ir.Node
    axis: int
    summed: int


def find_weights(graph: ir.Graph) -> Iterator[Weight]:
    """Yield each weight of the graph and of its inner graphs once, at its first use."""
    seen: set[ir.Value] = set()
    for node in graph.all_nodes():
        op = edit.op_of(node)
        for index in sorted(operators.facts(op).weights) if op in operators.LAYERS else ():
            operand = node.inputs[index] if index < len(node.inputs) else None
            value = constants.root(operand, dequantized=True)
            tensor = edit.constant(value)
            if value is None or tensor is None or value in seen or not tensor.dtype.is_floating_point():
                continue
            if tensor.size > 1:
                seen.add(value)
                axes = axes_of(node, index, len(tensor.shape)) if value is operand else (-1, -1)
                yield Weight(value, node, *axes)
