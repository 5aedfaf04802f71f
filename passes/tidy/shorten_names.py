"""Give constants, and what passes have added, short names."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Literal

import onnx_ir as ir

from onnxcompress.contract import MODEL, Change, Changes, Context, Plan, Promise, Refusal
from onnxcompress.graph import edit
from onnxcompress.selection import SelectivePass, value_subjects

DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


@dataclasses.dataclass(frozen=True, kw_only=True)
class NamesPlan(Plan):
    """Name of a value → its short one, and whether nodes lose theirs."""

    names: dict[str, str] = dataclasses.field(default_factory=dict)
    nodes: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShortenNames(SelectivePass):
    """Give constants, and tensors that the original model does not have, names as short as can be.

    In a small quantized model the names of scales, zero points and what lies between take a tenth of the file. Nodes
    keep their names, and so do the tensors of the original model, inputs and outputs. Shapes that can be inferred are
    not stored any more. It is for the end of a recipe: behind it constants have other names than the user knows.

    Parameters
    ----------
    names : {"added", "all"}
        "all": what lies between nodes in the original model gets short names too, and nodes have none any more. Of the
        graph of a language model this leaves a fifth; reports and debuggers then tell nodes apart by numbers.
    """

    names: Literal["added", "all"] = "added"

    promise = Promise(tolerance=1e-5)

    def plan(self, model: ir.Model, context: Context) -> NamesPlan:
        """Choose the names."""
        every = self.names == "all"
        original = () if every else edit.values(context.original.graph)
        kept = {value.name for value in original if edit.constant(value) is None}
        fixed = {*model.graph.inputs, *model.graph.outputs}
        own = [value for value in _named(model.graph) if value.name not in kept and value not in fixed]
        selected = self.select(model, value_subjects(own))
        renamed = [str(value.name) for value in own if value not in selected.why_not]
        taken = {value.name for value in edit.values(model.graph)} - set(renamed)
        free = (name for name in _names() if name not in taken)
        names = dict(zip(sorted(renamed, key=len, reverse=True), free, strict=False))
        refused = [Refusal(str(value.name), reason) for value, reason in selected.why_not.items()]
        shorter = {old: new for old, new in names.items() if len(new) < len(old)}
        if set(shorter.values()) & (set(renamed) - shorter.keys()):
            shorter = {}  # what is short already has these names
        named = every and any(node.name for node in model.graph) and not (self.include or self.exclude)
        return NamesPlan(names=shorter, nodes=named, refused=(*refused, *selected.idle))

    def apply(self, model: ir.Model, plan: NamesPlan) -> Changes:
        """Rename."""
        if not plan.names and not plan.nodes:
            return Changes(refused=plan.refused)
        named = {str(value.name): value for value in _named(model.graph)}
        edit.rename(model.graph, {named[old]: new for old, new in plan.names.items() if old in named})
        for value in _inner(model.graph):
            value.type = value.shape = None
        for node in model.graph if plan.nodes else ():
            node.name = ""
        done = [Change(old, f"is called {new}") for old, new in plan.names.items()]
        done += [Change(MODEL, "nodes have no names any more")] if plan.nodes else []
        return Changes((*done, Change(MODEL, "shapes that can be inferred are not stored")), plan.refused)


def _named(graph: ir.Graph) -> Iterator[ir.Value]:
    """Yield the values of the main graph that have names of their own."""
    yield from (value for value in graph.initializers.values() if not value.is_graph_input())
    yield from (value for node in graph for value in node.outputs if value.name)


def _inner(graph: ir.Graph) -> Iterator[ir.Value]:
    """Yield the values of the main graph whose types and shapes follow from the rest."""
    yield from (value for value in _named(graph) if not value.is_graph_output())


def _names() -> Iterator[str]:
    """Yield names, the shortest first."""
    length = 1
    while True:
        for number in range(len(DIGITS) ** length):
            yield "".join(DIGITS[number // len(DIGITS) ** place % len(DIGITS)] for place in reversed(range(length)))
        length += 1
