"""Ranges of tensors wherever they are: in the main graph, or inside the branches and bodies of If, Loop and Scan.

Statistics are taken of the outermost graph. So a copy of the model is made in which a tensor from inside is one of
the outputs of the node around it: of an If, its other branch gives an empty tensor; of a Loop or Scan, it is stacked
over the iterations, or reduced to its smallest and largest value where its shape may change from one to the next.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from onnxcompress.contract import Context
from onnxcompress.graph import edit

if TYPE_CHECKING:
    from onnxcompress.statistics.calibration import Method
    from onnxcompress.statistics.summaries import Range

    from .scheme import Scheme

NEVER_RUN = "no sample runs the branch that it is in, so that its ranges are not known; give samples that do"


class Observer:
    """Finds ranges of a model's tensors, those of inner graphs included.

    Parameters
    ----------
    model : onnx_ir.Model
        Not changed; no two tensors of it share a name.
    context : Context
        What has the samples.
    method : Method
        How a range is found; see `onnxcompress.statistics.calibration`.
    scheme : Scheme
        For how many integers it is, and whether they lie symmetrically.
    """

    def __init__(self, model: ir.Model, context: Context, method: Method, scheme: Scheme) -> None:
        self._model, self._context, self._method, self._scheme = model, context, method, scheme
        self._places = {str(v.name): inner for inner in model.graph.subgraphs() for v in _own(inner) if v.name}
        self._main = context if context.model is model else context.on(model)
        self._found: dict[str, Range] = {}
        self._ran: dict[ir.Graph, bool] = {}

    def ranges(self, names: Iterable[str]) -> tuple[Mapping[str, Range], set[str]]:
        """Return the range of each tensor, and which are in a branch or body that no sample ran."""
        wanted = sorted(names)
        missing = [name for name in wanted if name in self._places and name not in self._found]
        if missing:
            self._observe(missing)
        outer = dict(self._ranges(self._main, [name for name in wanted if name not in self._places]))
        never = {name for name in wanted if name in self._places and not self._ran[self._places[name]]}
        return outer | {name: self._found[name] for name in wanted if name in self._places}, never

    def _observe(self, names: list[str]) -> None:
        copy = self._model.clone()
        graphs = dict(zip(self._model.graph.subgraphs(), copy.graph.subgraphs(), strict=True))
        seen, flags = {}, {}
        for graph in dict.fromkeys(self._places[name] for name in names):
            flag = edit.Inserter(graphs[graph], edit.Names(copy.graph)).node(
                "Constant", [], attributes={"value": ir.tensor(np.ones(1, np.float32))}, dtype=ir.DataType.FLOAT
            )
            flag.shape = ir.Shape([1])
            flags[graph] = str(expose(copy, flag).name)
        for name in names:
            value = next(v for v in _own(graphs[self._places[name]]) if v.name == name)
            seen[name] = str(expose(copy, value).name)
        context = self._context.on(copy)
        found = self._ranges(context, list(seen.values()))
        ran = context.ranges(list(flags.values()))
        self._found |= {name: found[outer] for name, outer in seen.items()}
        self._ran |= {graph: ran[flag].high == 1 for graph, flag in flags.items()}

    def _ranges(self, context: Context, names: list[str]) -> Mapping[str, Range]:
        grid = self._scheme.grid
        levels = grid.high - grid.low + 1
        return context.ranges(names, self._method, symmetric=self._scheme.symmetric, levels=levels)


def _own(graph: ir.Graph) -> list[ir.Value]:
    return [*graph.inputs, *(value for node in graph for value in node.outputs)]


def expose(model: ir.Model, value: ir.Value) -> ir.Value:
    """Make a tensor of an inner graph a tensor of the main graph, in place, and return that."""
    names = edit.Names(model.graph)
    around = {inner: node for node in model.graph.all_nodes() for inner in edit.inner_graphs(node)}
    graph = value.graph
    while isinstance(graph, ir.Graph) and graph in around:
        node = around[graph]
        value, graph = _through(node, graph, value, names), node.graph
    return value


def _through(node: ir.Node, graph: ir.Graph, value: ir.Value, names: edit.Names) -> ir.Value:
    """Add an output to an If, Loop or Scan that gives the tensor from inside."""
    insert = edit.Inserter(graph, names)
    if edit.op_of(node) == "If":
        given, shape = insert.node("Identity", [value], dtype=value.dtype), None
        for other in edit.inner_graphs(node):
            made = given if other is graph else _empty(edit.Inserter(other, names), value)
            edit.set_outputs(other, [*other.outputs, made])
    else:
        given, size = _of_one_iteration(insert, value)
        edit.set_outputs(graph, [*graph.outputs, given])
        shape = ir.Shape([None, *size])
        if edit.op_of(node) == "Scan":
            for name in ("scan_output_axes", "scan_output_directions"):
                known = edit.ints_attribute(node, name)
                if known is not None:
                    edit.set_attribute(node, name, [*known, 0])
    node.resize_outputs(len(node.outputs) + 1)
    output = node.outputs[-1]
    output.name = names.value(f"{value.name}_seen")
    output.type, output.shape = ir.TensorType(given.dtype or ir.DataType.FLOAT), shape
    return output


def _of_one_iteration(insert: edit.Inserter, value: ir.Value) -> tuple[ir.Value, tuple[int, ...]]:
    """Return what is stacked: the tensor if its shape is fixed, else its smallest and largest value."""
    dims = () if value.shape is None else tuple(value.shape)
    if value.shape is not None and all(isinstance(dim, int) for dim in dims):
        return insert.node("Identity", [value], dtype=value.dtype, shape=value.shape), dims  # type: ignore[return-value]
    line = insert.constant("one_line", np.array([-1], np.int64))
    flat = insert.node("Reshape", [value, line], dtype=value.dtype)
    # An empty tensor has neither; any range that is asked for holds 0.
    zero = insert.constant("one_zero", np.zeros(1, (value.dtype or ir.DataType.FLOAT).numpy()))
    full = insert.node("Concat", [flat, zero], attributes={"axis": 0}, dtype=value.dtype)
    extremes = [
        insert.node(op, [full], attributes={"keepdims": 1}, dtype=value.dtype) for op in ("ReduceMin", "ReduceMax")
    ]
    joined = insert.node("Concat", extremes, attributes={"axis": 0}, dtype=value.dtype, shape=ir.Shape([2]))
    return joined, (2,)


def _empty(insert: edit.Inserter, value: ir.Value) -> ir.Value:
    """Return a tensor without elements, of the type of `value` and as many axes."""
    rank = max(1 if value.shape is None else len(value.shape), 1)
    array = np.zeros((0,) * rank, (value.dtype or ir.DataType.FLOAT).numpy())
    return insert.node("Constant", [], attributes={"value": ir.tensor(array)}, dtype=value.dtype)
