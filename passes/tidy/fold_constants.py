"""Compute at compression time what does not depend on any input."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterator

import onnx_ir as ir

from onnxcompress.contract import Change, Changes, Context, Plan, Promise, Refusal
from onnxcompress.graph import edit, operators
from onnxcompress.runtime.computed import compute_node
from onnxcompress.selection import SelectivePass, node_subjects

from .folding.never_larger import LARGER, never_larger
from .folding.signature import signature

KEPT = {"Constant", "DequantizeLinear", "QuantizeLinear"}
"""Constant is one already; quantized weights stay small."""

GROWTH = 1 << 20
"""Bytes by which the model may grow on the way: what is large is often read by what is folded next."""

MOVES = operators.KEEP_ELEMENTS - {"Identity"} | {"Slice"}
"""What gives another form of the constant that is its first input; an Identity costs no copy."""

SHARED = "others read its constant too, which would be stored twice"
UNKNOWN = "onnxruntime cannot compute it by itself"
OUTPUT = "it gives an output of its graph"


@dataclasses.dataclass(frozen=True, kw_only=True)
class FoldPlan(Plan):
    """Names of the first outputs of the nodes to fold, in graph order."""

    nodes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class FoldConstants(SelectivePass):
    """Replace nodes whose inputs are all constant by what ONNX Runtime computes of them, inner graphs included.

    Nodes that draw random numbers, run inner graphs or dequantize weights stay, and so do those whose results would
    make the file larger than it was. What is computed alike is stored once; an Identity goes without a
    copy.

    Parameters
    ----------
    keep_shared : bool
        A Transpose, Reshape, Cast or the like of a constant that others read too stays as well, however small:
        computed, the constant would be stored twice.
    """

    keep_shared: bool = False

    promise = Promise(tolerance=1e-5)

    def plan(self, model: ir.Model, context: Context) -> FoldPlan:
        """Fold on a copy, node after node, and note which could be."""
        refused: list[Refusal] = []

        def fold(copy: ir.Model, left: Collection[str]) -> dict[str, list[ir.Value]]:
            folding, selected, touched = _Folding(copy), self.select(model, node_subjects(copy.graph)), list[ir.Node]()
            refused.clear()
            made = {}
            for node in folding.nodes():
                if not _is_constant(node):
                    continue
                touched.append(node)
                reason = selected.why_not.get(node) or (SHARED if self.keep_shared and _moves_shared(node) else "")
                reason = reason or (LARGER if edit.output_name(node) in left else folding.fold(node, room=True))
                if reason:
                    refused.append(Refusal(edit.label(node), reason))
                else:
                    made[edit.output_name(node)] = folding.made
            refused.extend(selected.idle_but(touched))
            return made

        names, _ = never_larger(model, fold)
        return FoldPlan(nodes=names, refused=tuple(refused))

    def apply(self, model: ir.Model, plan: FoldPlan) -> Changes:
        """Fold the nodes of the plan and remove what is then dead."""
        wanted, folding = set(plan.nodes), _Folding(model)
        chosen = (node for node in folding.nodes() if edit.output_name(node) in wanted)
        done = [Change(edit.label(node), "computed") for node in chosen if not folding.fold(node, room=False)]
        if done:
            edit.remove_dead(model)
        return Changes(tuple(done), plan.refused)


def _is_constant(node: ir.Node) -> bool:
    op = edit.op_of(node)
    if op in KEPT or "::" in op or op in edit.RANDOM or edit.inner_graphs(node):
        return False
    present = [v for v in node.inputs if v is not None]
    return bool(present) and all(edit.constant(v) is not None for v in present)


def _moves_shared(node: ir.Node) -> bool:
    given = node.inputs[0] if edit.op_of(node) in MOVES else None
    return given is not None and len(given.uses()) > 1


class _Folding:
    """Folds nodes of a model one after another, and remembers what is there already."""

    def __init__(self, model: ir.Model) -> None:
        self._model, self._room = model, GROWTH
        self._insert = edit.Inserter(model.graph)  # results are there for all graphs inside
        self._known: dict[bytes, list[ir.Value]] = {}
        self.made: list[ir.Value] = []  # by the last node

    def nodes(self) -> Iterator[ir.Node]:
        """Yield the nodes of the graph and of its inner graphs."""
        for graph in (self._model.graph, *self._model.graph.subgraphs()):
            yield from list(graph)

    def fold(self, node: ir.Node, *, room: bool) -> str:
        """Fold one node; return why not, or nothing. `room` asks whether the result is too large."""
        self.made = []
        if any(value.is_graph_output() for value in node.outputs):
            return OUTPUT
        if edit.op_of(node) == "Identity":
            edit.replace_uses(node.outputs[0], edit.required(node, 0))
            return ""
        key = signature(node)
        if key not in self._known:
            reason = self._compute(node, key, room=room)
            if reason:
                return reason
        for value, new in zip(_named(node), self._known[key], strict=True):
            edit.replace_uses(value, new)
        return ""

    def _compute(self, node: ir.Node, key: bytes, *, room: bool) -> str:
        tensors = [edit.constant(value) for value in node.inputs]
        if room and self._growth(node, sum(map(_declared_bytes, node.outputs))) > self._room:
            return LARGER
        arrays = compute_node(node, tensors, self._model)
        outputs = _named(node)
        if arrays is None:
            return UNKNOWN
        growth = self._growth(node, sum(array.nbytes for array in arrays))
        if room and growth > self._room:
            return LARGER
        self._room -= max(growth, 0)
        self.made = [self._insert.constant(f"{v.name}_folded", a) for v, a in zip(outputs, arrays, strict=True)]
        self._known[key] = self.made
        return ""

    def _growth(self, node: ir.Node, size: int) -> int:
        """Return by how much the model grows if `size` bytes take the place of what only such nodes read.

        What several of them read, such as a weight whose gates are put in order, goes with the last: each has its part.
        """
        for value in {value for value in node.inputs if value is not None and not value.is_graph_output()}:
            readers, tensor = set(value.consumers()), edit.constant(value)
            if tensor is not None and all(map(_is_constant, readers)):
                size -= tensor.nbytes // len(readers)
        return size


def _named(node: ir.Node) -> list[ir.Value]:
    return [value for value in node.outputs if value.name]


def _declared_bytes(value: ir.Value) -> int:
    """Return the bytes of a value as far as its shape is known before it is computed."""
    sizes = None if value.shape is None else [n for n in value.shape if isinstance(n, int)]
    if sizes is None or value.dtype is None or value.shape is None or len(sizes) < len(value.shape):
        return 0
    return math.ceil(math.prod(sizes) * value.dtype.itemsize)
