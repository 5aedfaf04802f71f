"""Remove what nothing reads."""

from __future__ import annotations

import dataclasses
from collections.abc import MutableSequence

import onnx_ir as ir

from onnxcompress.contract import Change, Changes, Context, Plan, Promise, Refusal
from onnxcompress.graph import edit
from onnxcompress.selection import SelectivePass, Subject, node_subjects


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeadPlan(Plan):
    """Names of what stays although it is dead: first outputs of nodes, initializers, functions."""

    keep: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class RemoveDead(SelectivePass):
    """Remove nodes, initializers and local functions that no output depends on."""

    promise = Promise(tolerance=1e-5)

    def plan(self, model: ir.Model, context: Context) -> DeadPlan:
        """Choose what stays; what is dead follows from the graph."""
        alive = model.clone()
        edit.remove_dead(alive)
        left = _subjects(alive)
        selected = self.select(model, {name: known for name, known in _subjects(model).items() if name not in left})
        refused = [Refusal(name, reason) for name, reason in selected.why_not.items()]
        return DeadPlan(keep=tuple(selected.why_not), refused=(*refused, *selected.idle))

    def apply(self, model: ir.Model, plan: DeadPlan) -> Changes:
        """Remove it."""
        before, keep = _count(model), set(plan.keep)
        held = [value for value in edit.values(model.graph) if value.name in keep and not value.is_graph_output()]
        functions = {key: function for key, function in model.functions.items() if function.name in keep}
        for value in held:  # an output of its graph is never dead, nor is what it depends on
            _outputs(value).append(value)
        edit.remove_dead(model)
        for value in held:
            _outputs(value).remove(value)
        model.functions.update({key: function for key, function in functions.items() if key not in model.functions})
        names = ("nodes", "initializers", "functions")
        gone = [(a - b, name) for a, b, name in zip(before, _count(model), names, strict=True) if a > b]
        return Changes(tuple(Change("model", f"{count} dead {name} removed") for count, name in gone), plan.refused)


def _outputs(value: ir.Value) -> MutableSequence[ir.Value]:
    assert isinstance(value.graph, ir.Graph)
    return value.graph.outputs


def _subjects(model: ir.Model) -> dict[str, Subject]:
    """Return whatever may be dead, by the name that plans call it by."""
    found = {edit.output_name(node): known for node, known in node_subjects(model.graph).items()}
    for graph in (model.graph, *model.graph.subgraphs()):
        found |= {name: Subject({name}) for name in graph.initializers}
    return found | {function.name: Subject({function.name}) for function in model.functions.values()}


def _count(model: ir.Model) -> tuple[int, int, int]:
    nodes = sum(1 for _ in model.graph.all_nodes())
    return nodes, sum(len(graph.initializers) for graph in model.graphs()), len(model.functions)
