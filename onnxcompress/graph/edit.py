"""The one place that changes a graph: resize a constant, insert, replace, take an output over, remove.

A constant whose `Value.shape` went stale passes the plain checker, so nobody else writes `const_value`, registers
initializers or changes the lists of inputs and outputs of a graph.
"""

from __future__ import annotations

import copy
import mmap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes import common

from .constants import MAPPED, is_mapped
from .constants import array as array
from .constants import constant as constant
from .constants import stored as stored
from .constants import stored_in as stored_in
from .constants import tensor as tensor
from .nodes import RANDOM as RANDOM
from .nodes import graph_of as graph_of
from .nodes import graphs_in as graphs_in
from .nodes import inner_graphs as inner_graphs
from .nodes import int_attribute as int_attribute
from .nodes import ints_attribute as ints_attribute
from .nodes import label as label
from .nodes import op_of as op_of
from .nodes import output_name as output_name
from .nodes import producer as producer
from .nodes import required as required
from .nodes import required_attribute as required_attribute
from .nodes import values as values


def set_constant(value: ir.Value, array: npt.NDArray[Any]) -> None:
    """Give an initializer, or the output of a Constant node, a new array; its shape and type follow.

    Parameters
    ----------
    value : onnx_ir.Value
        An initializer or a Constant node's output.
    array : numpy.ndarray
        Any shape; the dtype becomes the value's dtype.
    """
    tensor = ir.tensor(np.ascontiguousarray(array).reshape(array.shape), name=value.name)
    if value.const_value is not None:
        tensor.meta[MAPPED] = is_mapped(value.const_value)  # so that it is written as the other was, into a data file
        release_pages(value.const_value)
    node = value.producer()
    if node is not None:
        node.attributes.clear()
        node.attributes["value"] = ir.AttrTensor("value", tensor)
    if node is None or value.const_value is not None:
        value.const_value = tensor
    value.shape = ir.Shape(tensor.shape.numpy())
    value.type = ir.TensorType(tensor.dtype)


def store_elsewhere(value: ir.Value, tensor: ir.TensorProtocol | None) -> None:
    """Let a tensor that holds the same take the place of an initializer's: in memory, in a file, or nowhere for now."""
    value.const_value = tensor


def make_input(value: ir.Value) -> None:
    """Make an initializer an input of its graph, which has to be given."""
    graph, tensor = graph_of(value), value.const_value
    if tensor is not None:
        value.type, value.shape = ir.TensorType(tensor.dtype), ir.Shape(tensor.shape.numpy())
    value.const_value = None
    graph.initializers.pop(str(value.name))
    if not value.is_graph_input():
        graph.inputs.append(value)


def make_constant(value: ir.Value, tensor: ir.TensorProtocol | None = None, *, optional: bool = False) -> None:
    """Make an input an initializer that holds `tensor`, or its default; `optional` leaves it on the list of inputs."""
    graph = graph_of(value)
    if tensor is not None:
        value.const_value = tensor
        graph.register_initializer(value)
    if not optional and value.is_graph_input():
        graph.inputs.remove(value)


def lift_constants(graph: ir.Graph) -> None:
    """Make initializers, of the same names, of the floating-point constants that Constant nodes of a graph hold."""
    for node in list(graph):
        old, held = node.outputs[0], constant(node.outputs[0]) if node.op_type == "Constant" else None
        if held is None or not held.dtype.is_floating_point() or held.size < 2 or old.is_graph_output():
            continue
        value = ir.Value(name=old.name, shape=old.shape, type=ir.TensorType(held.dtype), const_value=held)
        value.shape = ir.Shape(held.shape.numpy())
        old.replace_all_uses_with(value)
        graph.remove(node, safe=True)
        graph.register_initializer(value)


def release_pages(tensor: ir.TensorProtocol | None) -> None:
    """Let the system take back the memory of a mapped tensor; it is read from its file again when it is needed."""
    if isinstance(tensor, ir.ExternalTensor) and isinstance(tensor.raw, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        tensor.raw.madvise(mmap.MADV_DONTNEED)


class Names:
    """Gives names that are free in a graph and its inner graphs; each costs the same, however large the graph."""

    def __init__(self, graph: ir.Graph) -> None:
        self._values = {value.name for value in values(graph) if value.name}
        self._nodes = {node.name for node in graph.all_nodes() if node.name}

    def value(self, base: str) -> str:
        """Return `base`, or `base_1`, `base_2`, … : the first that no value has. It is then taken."""
        return _take(base, self._values)

    def node(self, base: str) -> str:
        """Like `value`, for nodes."""
        return _take(base, self._nodes)


def _take(base: str, taken: set[str]) -> str:
    name, number = base, 0
    while name in taken:
        number += 1
        name = f"{base}_{number}"
    taken.add(name)
    return name


class Inserter:
    """Adds constants and nodes to a graph, under free names.

    Parameters
    ----------
    graph : onnx_ir.Graph
    names : Names, optional
        Those of the outermost graph, where `graph` is an inner one.
    home : onnx_ir.Graph, optional
        Where constants go: `graph` itself, or one around it, where several inner graphs may share them.

    Attributes
    ----------
    first : onnx_ir.Node or None
        The first node: what reads constants only, or an input of the graph, may stand before it.
    """

    def __init__(self, graph: ir.Graph, names: Names | None = None, home: ir.Graph | None = None) -> None:
        self.graph, self.home = graph, graph if home is None else home
        self.names = Names(graph) if names is None else names
        self.first = next(iter(graph), None)

    def constant(self, name: str, array: npt.NDArray[Any]) -> ir.Value:
        """Add an initializer."""
        return self.tensor(name, ir.tensor(np.ascontiguousarray(array).reshape(array.shape)))

    def tensor(self, name: str, tensor: ir.TensorProtocol) -> ir.Value:
        """Add an initializer that holds this tensor, which gets its name."""
        tensor.name = self.names.value(name)
        value = ir.val(tensor.name, const_value=tensor)
        self.home.register_initializer(value)
        return value

    def node(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        name: str = "",
        *,
        attributes: Mapping[str, Any] | None = None,
        before: ir.Node | None = None,
        after: ir.Node | None = None,
        dtype: ir.DataType | None = None,
        shape: ir.Shape | None = None,
    ) -> ir.Value:
        """Add a node with one output, and return that; it stands `after` or `before` a node, or at the end.

        Node and output are called `name`, if one is given. Without a `dtype` the type is left for inference: written
        down for every node, types take a tenth of a small model.
        """
        node = ir.node(op_type, list(inputs), dict(attributes or {}), name=self.names.node(name or op_type))
        output = node.outputs[0]
        output.name = self.names.value(name or f"{node.name}_output")
        output.type = ir.TensorType(dtype) if dtype is not None else None
        output.shape = shape
        if after is not None:
            self.graph.insert_after(after, node)
        elif before is not None:
            self.graph.insert_before(before, node)
        else:
            self.graph.append(node)
        return output

    def behind(self, value: ir.Value, op_type: str, *others: ir.Value, shape: ir.Shape | None = None) -> ir.Value:
        """Add a node that reads a node's output and `others`, between that output and all that read it."""
        result = self.node(op_type, [value, *others], after=value.producer(), dtype=value.dtype, shape=shape)
        replace_uses(value, result, except_for=[producer(result)])
        return result


def insert_behind(value: ir.Value, node: ir.Node) -> None:
    """Put a node right behind the one that gives a value; at the start of the graph where none does."""
    maker, graph = value.producer(), graph_of(value)
    first = next(iter(graph), None)
    if maker is not None:
        graph.insert_after(maker, node)
    elif first is not None:
        graph.insert_before(first, node)
    else:
        graph.append(node)


def replace_uses(old: ir.Value, new: ir.Value, *, except_for: Iterable[ir.Node] = ()) -> None:
    """Let every consumer of `old` read `new`, and the graph return it; `except_for` nodes keep `old`.

    A graph output keeps its name: the two values swap names.
    """
    spared = set(except_for)
    for node, index in list(old.uses()):
        if node not in spared:
            node.replace_input_with(index, new)
    if old.is_graph_output():
        graph, name = graph_of(old), old.name
        if new.producer() is not None and not new.is_graph_output():
            new_name, old.name = new.name, f"{name}_inner"
            new.name = name
            old.name = Names(graph).value(new_name or f"{name}_inner")
        new.shape, new.type = old.shape, old.type
        return_instead(graph, old, new)


def return_instead(graph: ir.Graph, old: ir.Value, new: ir.Value) -> None:
    """Let a graph return `new` wherever it returns `old`; names and types stay as they are."""
    for position, output in enumerate(graph.outputs):
        if output is old:
            graph.outputs[position] = new


def add_input(graph: ir.Graph, name: str, dtype: ir.DataType, shape: ir.Shape | None) -> ir.Value:
    """Add an input behind the others, and return it."""
    value = ir.Value(name=name, type=ir.TensorType(dtype), shape=shape)
    graph.inputs.append(value)
    return value


def set_inputs(graph: ir.Graph, inputs: Iterable[ir.Value]) -> None:
    """Let a graph take these values, in this order, and nothing else."""
    graph.inputs[:] = list(inputs)


def set_outputs(graph: ir.Graph, outputs: Iterable[ir.Value]) -> None:
    """Let a graph return these values, and nothing else."""
    graph.outputs[:] = list(outputs)


def forget_shape(value: ir.Value) -> None:
    """Forget the extents of a tensor, which a change before it has made others; how many it has stays."""
    value.shape = None if value.shape is None else ir.Shape([None] * len(value.shape))


def rename(graph: ir.Graph, wanted: Mapping[ir.Value, str]) -> None:
    """Name values of a graph; what else has one of these names gets a free one."""
    taken = set(wanted.values())
    names = Names(graph)
    for value in list(values(graph)):
        if value in wanted or value.name in taken:
            if value.const_value is not None:  # clones share it, and a value names its tensor, too
                value.const_value = _own_name(value.const_value)
            value.name = names.value(f"{value.name}_other")
    for value, name in wanted.items():
        value.name = name


def _own_name(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """Return the same numbers under a name of their own."""
    if isinstance(tensor, (ir.ExternalTensor, ir.StringTensor, ir.Tensor)):
        return copy.copy(tensor)
    return ir.LazyTensor(lambda: tensor, dtype=tensor.dtype, shape=ir.Shape(tensor.shape.numpy()), name=tensor.name)


def replace_model(model: ir.Model, other: ir.Model) -> None:
    """Let a model be another in all that it computes, in place; `other` is of no use afterwards."""
    model.graph, model.ir_version = other.graph, other.ir_version
    model.functions.clear()
    model.functions.update(other.functions)
    model.device_configurations = other.device_configurations


def take_over(node: ir.Node, outputs: Sequence[ir.Value]) -> None:
    """Give a node's outputs, with their names, types and readers, to what computes them now; the node goes."""
    graph = graph_of(node)
    for old, new in zip(node.outputs, outputs, strict=False):
        name, new.type, new.shape = old.name, old.type or new.type, new.shape if old.shape is None else old.shape
        for user, index in list(old.uses()):
            user.replace_input_with(index, new)
        return_instead(graph, old, new)
        old.name, new.name = None, name
    graph.remove(node, safe=True)


def remove_unread(value: ir.Value | None) -> None:
    """Remove an initializer that nothing reads."""
    if value is None or value.uses() or value.is_graph_input() or value.is_graph_output():
        return
    if value.is_initializer():
        graph_of(value).initializers.pop(str(value.name))


def set_attribute(node: ir.Node, name: str, value: int | Sequence[int]) -> None:
    """Set an integer or integer-list attribute."""
    node.attributes[name] = ir.AttrInt64(name, value) if isinstance(value, int) else ir.AttrInt64s(name, value)


def remove_dead(model: ir.Model) -> int:
    """Remove nodes, initializers and functions that nothing reads; returns how many nodes went."""
    before = sum(1 for _ in model.graph.all_nodes())
    common.RemoveUnusedNodesPass()(model)
    for graph in model.graph.subgraphs():  # onnx-ir looks at the outermost graph's alone
        for name in [n for n, v in graph.initializers.items() if not (v.uses() or v.is_graph_output())]:
            graph.initializers.pop(name)
    common.RemoveUnusedFunctionsPass()(model)  # type: ignore[no-untyped-call]
    return before - sum(1 for _ in model.graph.all_nodes())


DEFAULT = "is also an input, which a caller may set; freeze-inputs makes it a constant"
"""What is said of a weight that nobody may change for that."""


def defaults(graph: ir.Graph) -> list[ir.Value]:
    """Return the inputs that need not be given, since an initializer of the same name gives a default."""
    return [value for value in graph.inputs if value.is_initializer()]


EXPLICIT_INITIALIZERS = 4
"""The first IR version whose initializers need not be inputs as well, and whose inputs may have defaults."""


def raise_ir_version(model: ir.Model) -> None:
    """Raise the IR version to the first in which constants and inputs with a default differ, in place."""
    if (model.ir_version or 0) < EXPLICIT_INITIALIZERS:
        for value in defaults(model.graph):
            make_constant(value)
        model.ir_version = EXPLICIT_INITIALIZERS
