"""Compute once what is computed twice."""

from __future__ import annotations

import dataclasses
from collections import Counter

import onnx_ir as ir

from onnxcompress.contract import Change, Changes, Context, Plan, Promise, Refusal
from onnxcompress.graph import edit
from onnxcompress.selection import SelectivePass, node_subjects

from .folding.signature import SMALL, identity, signature


@dataclasses.dataclass(frozen=True, kw_only=True)
class NodesPlan(Plan):
    """First output of a node → that of the node before it that computes the same; constant → the equal one."""

    nodes: dict[str, str] = dataclasses.field(default_factory=dict)
    constants: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MergeNodes(SelectivePass):
    """Let nodes that compute the same of the same become one, and small constants that hold the same, too.

    Exporters write a Constant for each use, and the shape arithmetic of each block anew: of a language model of a few
    layers it takes a third of the nodes. Nodes that draw random numbers, run inner graphs or give an output of their
    graph stay; inner graphs are merged each by itself. It is for the end of a recipe: constants that two layers share
    cannot be changed for one of them alone.

    Notes
    -----
    Common subexpressions by value numbering: Cocke 1970, doi:10.1145/800028.808480.
    """

    promise = Promise(tolerance=1e-5)

    def plan(self, model: ir.Model, context: Context) -> NodesPlan:
        """Merge on a copy, node after node, and note which could be."""
        copy = model.clone()
        selected = self.select(model, node_subjects(copy.graph))
        constants = {
            str(old.name): str(new.name)
            for old, new in _equal_constants(copy.graph).items()
            if not any(reader in selected.why_not for reader, _ in old.uses())
        }
        named = Counter(
            edit.output_name(node) for node in copy.graph.all_nodes() if node.outputs
        )  # branches reuse names
        nodes, refused, touched = dict[str, str](), list[Refusal](), list[ir.Node]()
        for graph in (copy.graph, *copy.graph.subgraphs()):
            known: dict[bytes, ir.Node] = {}
            for node in graph:
                if not _may_merge(node) or named[edit.output_name(node)] > 1:
                    continue
                first = known.setdefault(signature(node), node)
                if first is node:
                    continue
                touched.append(node)
                if node in selected.why_not:
                    refused.append(Refusal(edit.label(node), selected.why_not[node]))
                    continue
                nodes[edit.output_name(node)] = edit.output_name(first)
                _read_instead(node, first)
        return NodesPlan(nodes=nodes, constants=constants, refused=(*refused, *selected.idle_but(touched)))

    def apply(self, model: ir.Model, plan: NodesPlan) -> Changes:
        """Merge what the plan says."""
        done = []
        found = {edit.output_name(node): node for node in model.graph.all_nodes() if node.outputs}
        for old, new in plan.nodes.items():
            if old in found and new in found:
                done.append(Change(edit.label(found[old]), f"is {edit.label(found[new])}"))
                _read_instead(found[old], found[new])
        values = model.graph.initializers
        for old, new in plan.constants.items():
            if old in values and new in values:
                edit.replace_uses(values[old], values[new])
                done.append(Change(old, f"is {new}"))
        if done:
            edit.remove_dead(model)
        return Changes(tuple(done), plan.refused)


def _may_merge(node: ir.Node) -> bool:
    op = edit.op_of(node)
    if op in edit.RANDOM or edit.inner_graphs(node) or any(value.is_graph_output() for value in node.outputs):
        return False
    held = edit.constant(node.outputs[0]) if op == "Constant" and node.outputs else None
    return held is None or (held.nbytes <= SMALL and held.dtype != ir.DataType.STRING)


def _read_instead(node: ir.Node, first: ir.Node) -> None:
    for old, new in zip(node.outputs, first.outputs, strict=True):
        edit.replace_uses(old, new)


def _equal_constants(graph: ir.Graph) -> dict[ir.Value, ir.Value]:
    """Return small initializers that hold what one before them does."""
    known: dict[str, ir.Value] = {}
    found = {}
    for value in graph.initializers.values():
        if value.is_graph_input() or value.is_graph_output():
            continue
        first = known.setdefault(identity(value), value)
        if first is not value:
            found[value] = first
    return found
