"""Compute at compression time what does not depend on any input."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.contract import Change, Changes, Context, Pass, Plan, Refusal
from onnxcompress.graph import edit
from onnxcompress.graph.shapes import run_node

KEPT = {"Constant", "DequantizeLinear", "QuantizeLinear"}
"""Constant is one already; quantized weights stay small."""

GROWTH = 1 << 20
"""Bytes by which folding one node may grow the model: expanding a constant is cheaper at run time than on disk."""

MOVES = {"Cast", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"}
"""What gives another form of the constant that is its first input."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FoldPlan(Plan):
    """Names of the first outputs of the nodes to fold, in graph order."""

    nodes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class FoldConstants(Pass):
    """Replace nodes whose inputs are all constant by what they compute, inner graphs included.

    Nodes that draw random numbers, run inner graphs, dequantize weights, or would grow the model by more than a
    megabyte stay.

    Parameters
    ----------
    keep_shared : bool
        A Transpose, Reshape, Cast or the like of a constant that others read too stays as well: computed, the constant
        would be stored twice.
    """

    keep_shared: bool = False

    tolerance = 1e-5

    def plan(self, model: ir.Model, context: Context) -> FoldPlan:
        """Fold on a copy, node after node, and note which could be."""
        copy, refused = model.clone(), []
        names = []
        for node, insert in _nodes(copy):
            if not _is_constant(node):
                continue
            if self.keep_shared and _moves_shared(node):
                refused.append(Refusal(edit.label(node), "others read its constant too, which would be stored twice"))
                continue
            folded = _fold(insert, node, copy.opset_imports.get("", 1))
            if folded is None:
                refused.append(Refusal(edit.label(node), "it cannot be computed here"))
            elif folded:
                names.append(edit.output_name(node))
            else:
                refused.append(Refusal(edit.label(node), "its result is much larger than what it is made from"))
        return FoldPlan(nodes=tuple(names), refused=tuple(refused))

    def apply(self, model: ir.Model, plan: FoldPlan) -> Changes:
        """Fold the nodes of the plan and remove what is then dead."""
        wanted = set(plan.nodes)
        done, opset = [], model.opset_imports.get("", 1)
        for node, insert in _nodes(model):
            if edit.output_name(node) in wanted and _fold(insert, node, opset):
                done.append(Change(edit.label(node), "computed"))
        if done:
            edit.remove_dead(model)
        return Changes(tuple(done), plan.refused)


def _nodes(model: ir.Model) -> Iterator[tuple[ir.Node, edit.Inserter]]:
    """Yield the nodes of the graph and of its inner graphs, with what adds constants beside each."""
    names = edit.Names(model.graph)
    for graph in (model.graph, *model.graph.subgraphs()):
        insert = edit.Inserter(graph, names)
        yield from ((node, insert) for node in list(graph))


def _is_constant(node: ir.Node) -> bool:
    op = edit.op_of(node)
    if op in KEPT or "::" in op or op.startswith("Random") or op in ("Bernoulli", "Multinomial"):
        return False
    if edit.inner_graphs(node):
        return False
    present = [v for v in node.inputs if v is not None]
    fixed = [v for v in present if edit.constant(v) is not None and not v.is_graph_input()]
    return bool(present) and len(fixed) == len(present)


def _moves_shared(node: ir.Node) -> bool:
    given = node.inputs[0] if edit.op_of(node) in MOVES else None
    return given is not None and len(given.uses()) > 1


def _fold(insert: edit.Inserter, node: ir.Node, opset: int) -> bool | None:
    """Fold one node; False when the result is too large, None when it cannot be computed."""
    tensors = [edit.constant(v) for v in node.inputs]
    before = sum(t.nbytes for t in tensors if t is not None)
    arrays: list[npt.NDArray[Any] | None] = [None if t is None else t.numpy() for t in tensors]
    results = run_node(node, arrays, opset)
    if results is None:
        return None
    if sum(r.nbytes for r in results) > before + GROWTH:
        return False
    for value, array in zip(node.outputs, results, strict=False):
        if value.dtype is not None and array.dtype != value.dtype.numpy():
            return None
        if value.is_graph_output():
            return None
        edit.replace_uses(value, insert.constant(f"{value.name}_folded", array))
    return True
