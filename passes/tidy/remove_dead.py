"""Remove what nothing reads."""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

from onnxcompress.contract import Change, Changes, Context, Pass, Plan, Promise
from onnxcompress.graph import edit


@dataclasses.dataclass(frozen=True, kw_only=True)
class RemoveDead(Pass):
    """Remove nodes, initializers and local functions that no output depends on."""

    promise = Promise(tolerance=1e-5)

    def plan(self, model: ir.Model, context: Context) -> Plan:
        """Nothing to decide: what is dead follows from the graph."""
        return Plan()

    def apply(self, model: ir.Model, plan: Plan) -> Changes:
        """Remove it."""
        before = _count(model)
        edit.remove_dead(model)
        names = ("nodes", "initializers", "functions")
        gone = [(a - b, name) for a, b, name in zip(before, _count(model), names, strict=True) if a > b]
        return Changes(tuple(Change("model", f"{count} dead {name} removed") for count, name in gone))


def _count(model: ir.Model) -> tuple[int, int, int]:
    nodes = sum(1 for _ in model.graph.all_nodes())
    return nodes, sum(len(graph.initializers) for graph in model.graphs()), len(model.functions)
