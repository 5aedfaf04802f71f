"""Lets what stands behind a block read what the block reads."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import onnx_ir as ir

from onnxcompress.contract import Change, Refusal
from onnxcompress.graph import edit


@dataclass(frozen=True)
class Bypass:
    """A block that is left out.

    Attributes
    ----------
    block : str
        What it is called.
    before, after : str
        The tensor that is read from now on in the place of the other.
    what : str
        What goes with it.
    """

    block: str
    before: str
    after: str
    what: str = ""


def leave_out(model: ir.Model, bypasses: Iterable[Bypass]) -> tuple[list[Change], list[Refusal]]:
    """Leave blocks out, in place, and remove what nothing reads any more."""
    known = {value.name: value for value in (*model.graph.inputs, *(v for node in model.graph for v in node.outputs))}
    places = {value: place for place, node in enumerate(model.graph) for value in node.outputs}
    instead: dict[ir.Value, ir.Value] = {}
    done, refused = [], []
    for bypass in bypasses:
        before, after = known.get(bypass.before), known.get(bypass.after)
        if before is None or after is None or places.get(before, -1) >= places.get(after, -1):
            reason = f"the model has no '{bypass.after}' behind a '{bypass.before}'"
            refused.append(Refusal(bypass.block, reason))
            continue
        before = instead.get(before, before)
        instead[after] = before
        _bypass(model.graph, before, after)
        done.append(Change(bypass.block, f"left out: {bypass.what}" if bypass.what else "left out"))
    edit.remove_dead(model)
    return done, refused


def _bypass(graph: ir.Graph, before: ir.Value, after: ir.Value) -> None:
    if after.is_graph_output():  # it keeps a name of its own
        insert, node = edit.Inserter(graph), before.producer()
        place = {"before": insert.first} if node is None else {"after": node}
        before = insert.node("Identity", [before], dtype=after.dtype, shape=after.shape, **place)
    edit.replace_uses(after, before)
