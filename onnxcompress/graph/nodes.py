"""What a node is called, and what its inputs and attributes are."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from ..errors import ModelError


def values(graph: ir.Graph) -> Iterator[ir.Value]:
    """Every value of the graph and of its inner graphs, once."""
    for inner in (graph, *graph.subgraphs()):
        yield from inner.inputs
        yield from (value for value in inner.initializers.values() if not value.is_graph_input())
        for node in inner:
            yield from node.outputs


def inner_graphs(node: ir.Node) -> list[ir.Graph]:
    """Return the graphs that a node runs: the branches of an If, the body of a Loop or a Scan."""
    return [graph for attribute in node.attributes.values() for graph in graphs_in(attribute)]


def graphs_in(attribute: ir.Attr) -> list[ir.Graph]:
    """Return the graphs that an attribute holds: mostly none."""
    if attribute.is_ref() or attribute.type not in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
        return []
    return [attribute.as_graph()] if attribute.type == ir.AttributeType.GRAPH else list(attribute.as_graphs())


RANDOM = {
    "Bernoulli",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
}
"""Operators that draw random numbers; a Dropout does so only where it trains."""


def op_of(node: ir.Node) -> str:
    """Return ``OpType``, or ``domain::OpType`` for another domain than ONNX's own."""
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"


def output_name(node: ir.Node) -> str:
    """Return the name of a node's first output that has one, which identifies the node even where it has no name."""
    return next((value.name for value in node.outputs if value.name), "")


def label(node: ir.Node) -> str:
    """Return what messages call a node: its name (or its first output's) and its operator."""
    return f"{node.name or output_name(node) or '?'} ({op_of(node)})"


def int_attribute(node: ir.Node, name: str, default: int) -> int:
    """Return an integer attribute or its default."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()


def ints_attribute(node: ir.Node, name: str) -> tuple[int, ...] | None:
    """Return an integer-list attribute, or None when it is not there."""
    attribute = node.attributes.get(name)
    return None if attribute is None else tuple(attribute.as_ints())


def required(node: ir.Node, index: int) -> ir.Value:
    """Return an input that the operator cannot do without.

    Raises
    ------
    ModelError
        The model leaves it out.
    """
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None:
        raise ModelError(f"{label(node)} lacks its input {index}, which {node.op_type} cannot do without")
    return value


def producer(value: ir.Value | None) -> ir.Node:
    """Return the node that gives a value; raises `ModelError` where none does."""
    node = None if value is None else value.producer()
    if node is None:
        raise ModelError(f"no node gives {'an input that is left out' if value is None else repr(value.name)}")
    return node


def graph_of(item: ir.Value | ir.Node) -> ir.Graph:
    """Return the graph that a node or value is in; raises `ModelError` where it is in a local function, or in none."""
    graph = item.graph
    if not isinstance(graph, ir.Graph):
        raise ModelError(f"'{item.name}' is in no graph, but perhaps in a local function")
    return graph


def required_attribute(node: ir.Node, name: str) -> ir.Attr:
    """Return an attribute that the operator cannot do without; raises `ModelError` where the model leaves it out."""
    attribute = node.attributes.get(name)
    if attribute is None:
        raise ModelError(f"{label(node)} lacks its attribute '{name}', which {node.op_type} cannot do without")
    return attribute
