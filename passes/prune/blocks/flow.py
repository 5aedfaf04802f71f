"""Who reads what in the main graph, inner graphs counted to the node that runs them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import onnx_ir as ir

from onnxcompress.graph import edit, operators


class Flow:
    """What depends on what.

    Parameters
    ----------
    graph : onnx_ir.Graph
        Read once; must not change meanwhile.

    Attributes
    ----------
    order : dict
        Node → its place.
    reads, readers : dict
        Node → what it reads; value → the nodes that read it, in order.
    static : set
        Values that no input of the model decides.
    outputs : set
        What the graph gives.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self.order = {node: place for place, node in enumerate(graph)}
        self.reads = {node: _read(node, graph) for node in graph}
        self.readers: dict[ir.Value, list[ir.Node]] = defaultdict(list)
        self.outputs = set(graph.outputs)
        self.static = set[ir.Value]()
        for node, values in self.reads.items():
            for value in values:
                self.readers[value].append(node)
                if value.is_initializer() and not value.is_graph_input():
                    self.static.add(value)
            if self.static.issuperset(values) and node.op_type not in edit.RANDOM:
                self.static.update(node.outputs)

    def moving(self, node: ir.Node) -> list[ir.Value]:
        """Return what a node reads that inputs of the model decide."""
        return [value for value in self.reads[node] if value not in self.static]

    def is_read_once(self, value: ir.Value) -> bool:
        """Tell whether one node alone reads a value, and the graph does not give it."""
        return len(self.readers[value]) == 1 and value not in self.outputs

    def place(self, value: ir.Value) -> int:
        """Return the place of the node that gives a value; -1 for what comes from outside."""
        node = value.producer()
        return -1 if node is None else self.order.get(node, -1)

    def between(self, before: ir.Value, after: ir.Value) -> list[ir.Node]:
        """Return the nodes on the ways from one value to another, in order; none where there is no way.

        What depends on the shape alone of the first does not count.
        """
        start, found = self.place(before), set[ir.Node]()
        todo = [after.producer()]
        while todo:
            node = todo.pop()
            if node is not None and node not in found and self.order.get(node, -1) > start:
                found.add(node)
                todo += [value.producer() for value in self.reads[node]]
        behind, kept = {before}, []
        for node in sorted(found, key=self.order.__getitem__):
            read = behind.intersection(self.reads[node])
            if read and not (read == {before} and edit.op_of(node) in ("Shape", "Size")):
                kept.append(node)
                behind.update(node.outputs)
        return kept if after in behind else []

    def reached(self, nodes: Iterable[ir.Node]) -> set[ir.Node]:
        """Return some nodes and all that depends on them."""
        found, todo = set[ir.Node](), list(nodes)
        while todo:
            node = todo.pop()
            if node not in found:
                found.add(node)
                todo += [reader for value in node.outputs for reader in self.readers[value]]
        return found

    def is_layer(self, node: ir.Node) -> bool:
        """Tell whether a node multiplies by weights."""
        op = edit.op_of(node)
        known = op in operators.LAYERS or op in operators.INTEGER_OPERATORS
        return known and not self.static.isdisjoint(self.reads[node])


def _read(node: ir.Node, graph: ir.Graph) -> list[ir.Value]:
    found = [value for value in node.inputs if value is not None]
    for inner in edit.inner_graphs(node):
        for each in (inner, *inner.subgraphs()):
            values = [*(value for one in each for value in one.inputs), *each.outputs]
            found += [value for value in values if value is not None and value.graph is graph]
    return list(dict.fromkeys(found))
