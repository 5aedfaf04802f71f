"""ONNX's own shape inference, on a protobuf of the graph that leaves the weights out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.message import Error as ProtobufError
from onnx_ir import serde

from . import edit
from .contrib import register
from .dims import Dim

register()

Types = dict[str, onnx.TypeProto]
"""Value name → type and shape."""

PARAMETER = 128
"""Elements up to which whole numbers are kept: target shapes, axes and pads decide about shapes."""

SCALES = 8
"""Elements up to which other constants are kept, as Resize needs its scales."""


class Skeleton:
    """A model's graphs as a protobuf for shape inference: weights are there by type and shape alone.

    Parameters
    ----------
    model : onnx_ir.Model
        Read once; never changed.
    annotated : bool
        Take over the shapes that the model says its tensors have. Without, all is inferred from the inputs.
    """

    def __init__(self, model: ir.Model, *, annotated: bool) -> None:
        self._model, self._annotated = model, annotated
        opsets = [onnx.OperatorSetIdProto(domain=d, version=v) for d, v in model.opset_imports.items()]
        functions = [serde.serialize_function(function) for function in model.functions.values()]
        self._proto = onnx.ModelProto(ir_version=onnx.IR_VERSION, opset_import=opsets, functions=functions)
        self._renamed = _once(model.graph)
        self._fill(self._proto.graph, model.graph)

    def infer(self, sizes: Mapping[str, Sequence[Dim]] | None = None) -> Iterator[tuple[ir.Graph, Types]]:
        """Infer with inputs of these shapes; yields what is known of each graph, the main graph first.

        What cannot be inferred is absent. Extents that are given as names are passed on by name.
        """
        for value in self._proto.graph.input:
            if sizes is not None and value.name in sizes:
                value.type.tensor_type.shape.CopyFrom(_shape(sizes[value.name]))
        try:
            inferred = onnx.shape_inference.infer_shapes(self._proto, check_type=False, data_prop=True)
        except (onnx.shape_inference.InferenceError, ProtobufError, RuntimeError, ValueError):
            inferred = self._proto  # shapes stay unknown, which callers report by node name
        yield from self._types(self._model.graph, inferred.graph)

    def _name(self, value: ir.Value) -> str:
        return self._renamed.get(value, value.name or "")

    def _types(self, graph: ir.Graph, proto: onnx.GraphProto) -> Iterator[tuple[ir.Graph, Types]]:
        found = {i.name: i.type for i in (*proto.value_info, *proto.input, *proto.output) if i.HasField("type")}
        for value in _own(graph) if self._renamed else ():
            if (name := self._name(value)) != value.name and name in found:
                found[value.name or ""] = found.pop(name)
        yield graph, found
        nodes = (node for node in graph if not _is_large_constant(node))
        for node, made in zip(nodes, proto.node, strict=True):
            if not made.attribute:
                continue
            protos = [g for a in made.attribute for g in ((a.g,) if a.HasField("g") else a.graphs)]
            for each, other in zip(edit.inner_graphs(node), protos, strict=True):
                yield from self._types(each, other)

    def _fill(self, proto: onnx.GraphProto, graph: ir.Graph) -> None:
        proto.name = graph.name or "graph"
        for value in graph.inputs:
            serde.serialize_value_into(proto.input.add(), value)
            proto.input[-1].name = self._name(value)
        for value in graph.initializers.values():
            self._constant(proto, value, value.const_value)
        for node in graph:
            if not _is_large_constant(node):
                self._node(proto.node.add(), node)
            for value in node.outputs:
                self._value(proto, value, node)
        for value in graph.outputs:  # an inner graph's must have a type to be inferred
            made = proto.output.add()
            serde.serialize_value_into(made, value)
            made.name = self._name(value)
            if not self._annotated and made.type.HasField("tensor_type"):
                made.type.tensor_type.ClearField("shape")

    def _constant(self, proto: onnx.GraphProto, value: ir.Value, tensor: ir.TensorProtocol | None) -> None:
        if tensor is None or _is_large(tensor):
            if not value.is_graph_input():
                proto.value_info.append(_typed(self._name(value), value, tensor))
            return
        serde.serialize_tensor_into(proto.initializer.add(), tensor)
        proto.initializer[-1].name = self._name(value)

    def _node(self, proto: onnx.NodeProto, node: ir.Node) -> None:
        proto.op_type, proto.domain, proto.overload = node.op_type, node.domain, node.overload
        proto.input.extend("" if value is None else self._name(value) for value in node.inputs)
        proto.output.extend(self._name(value) for value in node.outputs)
        for attribute in node.attributes.values():
            if attribute.is_ref():
                serde.serialize_reference_attribute_into(proto.attribute.add(), attribute)
            elif inner := edit.graphs_in(attribute):
                made = proto.attribute.add(name=attribute.name, type=attribute.type.value)
                for graph in inner:
                    self._fill(made.g if attribute.type == ir.AttributeType.GRAPH else made.graphs.add(), graph)
            else:
                serde.serialize_attribute_into(proto.attribute.add(), attribute)

    def _value(self, proto: onnx.GraphProto, value: ir.Value, node: ir.Node) -> None:
        """Note what the model says of a node's output: all of it, or only what could not be inferred."""
        if not value.name:
            return
        if _is_large_constant(node):
            proto.value_info.append(_typed(self._name(value), value, edit.constant(value)))
        elif value.type is not None and self._annotated:
            serde.serialize_value_into(proto.value_info.add(), value)
            proto.value_info[-1].name = self._name(value)
        elif value.type is not None and node.domain not in ("", "ai.onnx"):
            serde.serialize_type_into(proto.value_info.add(name=self._name(value)).type, value.type)


def static(kind: onnx.TypeProto | None) -> tuple[int, ...] | None:
    """Return the shape in a type if all of its extents are known, else None."""
    if kind is None or not kind.tensor_type.HasField("shape"):
        return None
    dims = kind.tensor_type.shape.dim
    return tuple(d.dim_value for d in dims) if all(d.HasField("dim_value") for d in dims) else None


def dims_of(kind: onnx.TypeProto | None) -> tuple[Dim, ...] | None:
    """Return the shape in a type, with the names of extents that are not known; None when there is none."""
    if kind is None or not kind.tensor_type.HasField("shape"):
        return None
    dims = kind.tensor_type.shape.dim
    return tuple(d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in dims)


def shape_of(kind: onnx.TypeProto) -> ir.Shape | None:
    """Return the shape in a type, unknown extents and all; None when there is none."""
    dims = dims_of(kind)
    return None if dims is None else ir.Shape(dims)


def type_of(kind: onnx.TypeProto) -> ir.TypeProtocol | None:
    """Return the type in a type, without its shape."""
    return serde.deserialize_type_proto_for_type(kind)


def _is_large_constant(node: ir.Node) -> bool:
    tensor = edit.constant(node.outputs[0]) if edit.op_of(node) == "Constant" else None
    return tensor is not None and _is_large(tensor)


def _is_large(tensor: ir.TensorProtocol) -> bool:
    dtype, size = tensor.dtype, tensor.size
    return dtype != ir.DataType.STRING and size > (PARAMETER if dtype.is_integer() else SCALES)


def _typed(name: str, value: ir.Value, tensor: ir.TensorProtocol | None) -> onnx.ValueInfoProto:
    if tensor is None:
        made = serde.serialize_value(value)
        made.name = name
        return made
    kind = onnx.TypeProto.Tensor(elem_type=tensor.dtype.value, shape=_shape(tensor.shape.numpy()))
    return onnx.ValueInfoProto(name=name, type=onnx.TypeProto(tensor_type=kind))


def _once(graph: ir.Graph) -> dict[ir.Value, str]:
    """Name anew the values of inner graphs that share a name: inference would take what it learns of one for another.

    The two branches of an If may name their values alike.
    """
    inner = list(graph.subgraphs())
    if not inner:
        return {}
    names, renamed = edit.Names(graph), {}
    seen = {value.name for value in _own(graph)}
    for each in inner:
        for value in _own(each):
            if value.name and value.name in seen:
                renamed[value] = names.value(value.name)
            seen.add(value.name)
    return renamed


def _own(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from (value for value in graph.initializers.values() if not value.is_graph_input())
    for node in graph:
        yield from node.outputs


def _shape(dims: Iterable[Dim]) -> onnx.TensorShapeProto:
    made = onnx.TensorShapeProto.Dimension
    return onnx.TensorShapeProto(
        dim=[made(dim_value=int(d)) if isinstance(d, (int, np.integer)) else made(dim_param=d or "") for d in dims]
    )
