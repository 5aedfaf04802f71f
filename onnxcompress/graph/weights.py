"""Which constants are weights: what a compute operator multiplies by, directly or behind a data-movement node."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from . import constants, edit


@dataclass(frozen=True)
class Weight:
    """A weight constant and the node that multiplies by it.

    Attributes
    ----------
    value : onnx_ir.Value
        The constant itself.
    node : onnx_ir.Node
        The operator that uses it.
    axis : int
        The axis of `value` that becomes the operator's output channels; -1 when a node in between moved it.
    """

    value: ir.Value
    node: ir.Node
    axis: int


OPERANDS: dict[str, tuple[int, ...]] = {
    "Conv": (1,),
    "ConvTranspose": (1,),
    "Gemm": (0, 1),
    "GRU": (1, 2),
    "LSTM": (1, 2),
    "MatMul": (0, 1),
    "RNN": (1, 2),
}


def find_weights(graph: ir.Graph) -> Iterator[Weight]:
    """Yield each weight of the graph and of its inner graphs once, at its first use."""
    seen: set[ir.Value] = set()
    for node in graph.all_nodes():
        for index in OPERANDS.get(edit.op_of(node), ()):
            operand = node.inputs[index] if index < len(node.inputs) else None
            value = constants.root(operand, dequantized=True)
            direct = value is operand
            tensor = edit.constant(value)
            if value is None or tensor is None or value in seen or not tensor.dtype.is_floating_point():
                continue
            if tensor.size > 1:
                seen.add(value)
                yield Weight(value, node, output_axis(node, index, len(tensor.shape)) if direct else -1)


def output_axis(node: ir.Node, index: int, rank: int) -> int:
    """Return the axis of operand `index`, of that rank, that becomes the operator's output channels."""
    op = node.op_type
    if op == "Conv":
        return 0
    if op == "Gemm" and index == 1:
        return 0 if edit.int_attribute(node, "transB", 0) else 1
    if op in ("ConvTranspose", "LSTM", "GRU", "RNN"):
        return 1
    return rank - 1 if index == 1 else max(rank - 2, 0)
