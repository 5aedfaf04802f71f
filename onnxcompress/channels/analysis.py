"""Walk the graph once, in order, and let each operator's rule speak; then freeze what must stay."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..graph import edit
from ..graph.caches import find_caches
from ..graph.interface import Interface
from ..graph.shapes import FLOATS
from ..graph.sizes import BROADCASTING, READS
from .engine import Engine
from .labels import Rows
from .movement import MOVES
from .rules import no_rule, rule_of
from .shift import note_shift


def analyse(model: ir.Model, interface: Interface = "stays") -> Engine:
    """Label every axis of the main graph; inner graphs freeze what they read.

    Where the interface "may change", inputs that are a cache, and the outputs in which it comes back, do not freeze
    what they hold.
    """
    engine = Engine(model, interface)
    caches = find_caches(model.graph) if interface == "may change" else []
    for value in model.graph.inputs:
        if edit.constant(value) is None:
            engine.fixed[value] = f"it meets graph input '{value.name}'"
    for cache in caches:
        _label_cache(engine, cache.past)
    computed: set[ir.Value] = set()
    for node in model.graph:
        engine.labels.addition = FOLD if _is_constant(node, computed) else ""
        _visit(engine, node)
    engine.labels.addition = ""
    for value, node in _captured(model.graph).items():
        engine.freeze_all(value, f"{edit.label(node)}: its inner graph reads '{value.name}'")
    returned = {cache.present for cache in caches}
    for value in model.graph.outputs:
        if value not in returned:
            engine.freeze_all(value, f"it reaches graph output '{value.name}'")
    _freeze_whole_axes(engine)
    return engine


def _label_cache(engine: Engine, value: ir.Value) -> None:
    """Give the axes of an input labels, where the model fixes their extents and they are no samples."""
    shape, dims = engine.shape(value), value.shape or ()
    if len(shape) == len(dims) and value.dtype in FLOATS:
        fixed = [isinstance(dim, int) and dim > 1 and axis > 0 for axis, dim in enumerate(dims)]
        engine.set(value, [engine.labels.fresh(n) if f else None for n, f in zip(shape, fixed, strict=True)])


FOLD = " (this is computed from constants alone: FoldConstants first)"


def _is_constant(node: ir.Node, computed: set[ir.Value]) -> bool:
    """Tell whether a node computes from constants alone, and note its outputs if so."""
    inputs = [v for v in node.inputs if v is not None]
    constant = bool(inputs) and all(v in computed or edit.constant(v) is not None for v in inputs)
    if constant:
        computed.update(node.outputs)
    return constant


def _visit(engine: Engine, node: ir.Node) -> None:
    known = engine.known
    numbers = all(v in known.values and known.values[v].dtype.kind in "iub" for v in node.outputs)
    if numbers and not (edit.op_of(node) in MOVES and engine.is_weight(node.inputs[0])):
        engine.followed.add(node)
        return  # integers that are known already carry sizes and indices, never channels
    rule = rule_of(node)
    reason = "" if rule is no_rule else _why_not(engine, node)
    if not reason:
        engine.followed.add(node)
        rule(engine, node)
        note_shift(engine, node)
        return
    for value in node.inputs:
        if value is not None:
            engine.freeze_all(value, f"{edit.label(node)}: {reason}")


def _why_not(engine: Engine, node: ir.Node) -> str:
    """Say why no rule can speak of a node: a shape that is not known, or operands that do not fit together."""
    shapes, used = engine.known.shapes, [v for v in node.outputs if v.uses() or v.is_graph_output()]
    unknown = [v for v in (*node.inputs, *used) if v is not None and v not in shapes]
    if unknown:
        return f"the shape of '{unknown[0].name}' is not known"
    reads = READS.get(edit.op_of(node))
    read = [() if v is None else shapes[v] for v in node.inputs]
    pairs = [] if reads is None else reads(node, list(read))
    if any(one != other for one, other in pairs):
        return f"it reads an extent of {pairs[0][0]} with weights for {pairs[0][1]}"
    whole = shapes.get(node.outputs[0])  # what nothing reads need not be known
    if edit.op_of(node) in BROADCASTING and whole is not None and not all(_fits(shape, whole) for shape in read):
        return "its operands do not fit together"
    return ""


def _fits(shape: tuple[int, ...], whole: tuple[int, ...]) -> bool:
    """Tell whether a shape can be broadcast to another."""
    return len(shape) <= len(whole) and all(one in (1, n) for one, n in zip(shape[::-1], whole[::-1], strict=False))


def _captured(graph: ir.Graph) -> dict[ir.Value, ir.Node]:
    """Values of the main graph that inner graphs read, each with the node whose inner graph it is."""
    found: dict[ir.Value, ir.Node] = {}
    for node in graph:
        for inner in edit.inner_graphs(node):
            read = [value for each in inner.all_nodes() for value in each.inputs]
            ends = [value for each in (inner, *inner.subgraphs()) for value in each.outputs]
            found |= dict.fromkeys((v for v in (*read, *ends) if v is not None and v.graph is graph), node)
    return found


def _freeze_whole_axes(engine: Engine) -> None:
    """Freeze labels that stand at every position of an axis: without them nothing would be left."""
    first: dict[int, tuple[ir.Value, Rows]] = {}  # many values share the rows of an axis
    for value, axes in engine.known_axes():
        for rows in axes:
            if rows is not None:
                first.setdefault(id(rows), (value, rows))
    for value, rows in first.values():
        resolved = engine.labels.resolve(rows)
        whole = [label for label in resolved[:, 0] if label and (resolved == label).any(0).all()]
        if whole:
            engine.labels.freeze(np.array([whole]), f"'{value.name}' would have nothing left")
