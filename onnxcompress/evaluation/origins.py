"""Which nodes of a model onnxruntime's kernels were made of, and what the kernels do with numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import onnx_ir as ir

from ..details import Kind
from ..graph import edit
from ..graph.operators import INTEGER_OPERATORS
from .profile import Kernel

CONVERSIONS = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}
INTEGER = {op.rpartition("::")[2] for op in INTEGER_OPERATORS} - CONVERSIONS
STORED = {"int2", "uint2", "int4", "uint4", "int8", "uint8", "int16", "uint16"}
FLOAT = {"float", "double", "float16", "bfloat16"}
REORDER = {"ReorderInput", "ReorderOutput"}
CONTROL = {"If", "Loop", "Scan"}

ADDED = re.compile(r"(_token_\d+|_nchwc)+$")
"""What onnxruntime appends to the name of a node that it rewrites."""

FARTHEST = 6
"""Operators that one kernel takes in, at most."""


@dataclass(frozen=True)
class Placed:
    """A kernel, the name of the node that it was made of (None where onnxruntime added it), and its kind."""

    kernel: Kernel
    node: str | None
    kind: Kind


def place(origins: Origins, kernels: Iterable[Kernel]) -> list[Placed]:
    """Find the node and the kind of each kernel."""
    found = []
    for kernel in kernels:
        node = origins.node_of(kernel)
        found.append(Placed(kernel, node, kind_of(kernel, added=node is None)))
    return found


def kind_of(kernel: Kernel, *, added: bool = False) -> Kind:
    """Return what a kernel does with numbers; a Transpose that onnxruntime added changes a layout."""
    if kernel.operator in CONVERSIONS:
        return "conversion"
    if kernel.operator in CONTROL:
        return "other"
    if kernel.operator in REORDER or (added and kernel.operator == "Transpose"):
        return "layout"
    if kernel.operator in INTEGER or kernel.dtype in STORED:
        return "integer"
    return "float" if kernel.dtype in FLOAT else "other"


class Origins:
    """Finds the node of a model that a kernel was made of.

    Parameters
    ----------
    model : onnx_ir.Model
        All its nodes have names.
    """

    def __init__(self, model: ir.Model) -> None:
        self.nodes = {node.name or "": node for node in model.graph.all_nodes()}
        self._makers = {value.name: node for node in self.nodes.values() for value in node.outputs}

    def node_of(self, kernel: Kernel) -> str | None:
        """Return the node's name; of several that were fused, the one that the kernel's operator is named after."""
        plain = ADDED.sub("", kernel.name)
        for name in (kernel.name, plain):
            if name in self.nodes and _is_in(self.nodes[name].op_type, kernel.operator):
                return name
        for tensor in (plain, *kernel.outputs):
            if tensor in self._makers:
                node = _main_node(self._makers[tensor], kernel.operator)
                return None if _moves(kernel) and not _is_in(node.op_type, kernel.operator) else node.name
        return plain if plain in self.nodes and not _moves(kernel) else None


def _moves(kernel: Kernel) -> bool:
    """Tell whether a kernel is of a kind that onnxruntime adds between others."""
    return kernel.operator in REORDER or kernel.operator in ("Transpose", *CONVERSIONS)


def _is_in(operator: str, kernel: str) -> bool:
    """Tell whether a kernel's name holds an operator's: FusedConv holds Conv, but FusedMatMul no Mul."""
    return operator.replace("MatMul", "Matmul") in kernel.replace("MatMul", "Matmul")


def _main_node(last: ir.Node, operator: str) -> ir.Node:
    """Return the node at or before a chain's last one whose operator the kernel's name holds, else the last."""
    node: ir.Node | None = last
    for _ in range(FARTHEST):
        if node is None or _is_in(node.op_type, operator):
            return node or last
        makers = [value.producer() for value in node.inputs if value is not None and edit.constant(value) is None]
        node = next((maker for maker in makers if maker is not None), None)
    return last
