"""ONNX's own shape inference, on a protobuf of the graph that leaves the weights out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import onnx
import onnx_ir as ir
from google.protobuf.message import Error as ProtobufError
from onnx_ir import serde

from . import edit

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
        self._fill(self._proto.graph, model.graph)

    def infer(self, sizes: Mapping[str, tuple[int, ...]] | None = None) -> Iterator[tuple[ir.Graph, Types]]:
        """Infer with inputs of these shapes; yields what is known of each graph, the main graph first.

        What cannot be inferred is absent.
        """
        for value in self._proto.graph.input:
            if sizes is not None and value.name in sizes:
                value.type.tensor_type.shape.CopyFrom(_shape(sizes[value.name]))
        try:
            inferred = onnx.shape_inference.infer_shapes(self._proto, check_type=False, data_prop=True)
        except (onnx.shape_inference.InferenceError, ProtobufError, RuntimeError, ValueError):
            inferred = self._proto  # shapes stay unknown, which callers report by node name
        yield from _types(self._model.graph, inferred.graph)

    def _fill(self, proto: onnx.GraphProto, graph: ir.Graph) -> None:
        proto.name = graph.name or "graph"
        for value in graph.inputs:
            serde.serialize_value_into(proto.input.add(), value)
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
            if not self._annotated and made.type.HasField("tensor_type"):
                made.type.tensor_type.ClearField("shape")

    def _constant(self, proto: onnx.GraphProto, value: ir.Value, tensor: ir.TensorProtocol | None) -> None:
        if tensor is None or _is_large(tensor):
            if not value.is_graph_input():
                proto.value_info.append(_typed(value, tensor))
            return
        serde.serialize_tensor_into(proto.initializer.add(), tensor)
        proto.initializer[-1].name = value.name or ""

    def _node(self, proto: onnx.NodeProto, node: ir.Node) -> None:
        proto.op_type, proto.domain, proto.overload = node.op_type, node.domain, node.overload
        proto.input.extend("" if value is None else value.name or "" for value in node.inputs)
        proto.output.extend(value.name or "" for value in node.outputs)
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
            proto.value_info.append(_typed(value, edit.constant(value)))
        elif value.type is not None and self._annotated:
            serde.serialize_value_into(proto.value_info.add(), value)
        elif value.type is not None and node.domain not in ("", "ai.onnx"):
            serde.serialize_type_into(proto.value_info.add(name=value.name).type, value.type)


def static(kind: onnx.TypeProto | None) -> tuple[int, ...] | None:
    """Return the shape in a type if all of its extents are known, else None."""
    if kind is None or not kind.tensor_type.HasField("shape"):
        return None
    dims = kind.tensor_type.shape.dim
    return tuple(d.dim_value for d in dims) if all(d.HasField("dim_value") for d in dims) else None


def shape_of(kind: onnx.TypeProto) -> ir.Shape | None:
    """Return the shape in a type, unknown extents and all; None when there is none."""
    if not kind.tensor_type.HasField("shape"):
        return None
    dims = kind.tensor_type.shape.dim
    return ir.Shape([d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in dims])


def type_of(kind: onnx.TypeProto) -> ir.TypeProtocol | None:
    """Return the type in a type, without its shape."""
    return serde.deserialize_type_proto_for_type(kind)


def _types(graph: ir.Graph, proto: onnx.GraphProto) -> Iterator[tuple[ir.Graph, Types]]:
    infos = (*proto.value_info, *proto.input, *proto.output)
    yield graph, {info.name: info.type for info in infos if info.HasField("type")}
    nodes = (node for node in graph if not _is_large_constant(node))
    for node, made in zip(nodes, proto.node, strict=True):
        if not made.attribute:
            continue
        protos = [g for a in made.attribute for g in ((a.g,) if a.HasField("g") else a.graphs)]
        for each, other in zip(edit.inner_graphs(node), protos, strict=True):
            yield from _types(each, other)


def _is_large_constant(node: ir.Node) -> bool:
    tensor = edit.constant(node.outputs[0]) if edit.op_of(node) == "Constant" else None
    return tensor is not None and _is_large(tensor)


def _is_large(tensor: ir.TensorProtocol) -> bool:
    dtype, size = tensor.dtype, tensor.size
    return dtype != ir.DataType.STRING and size > (PARAMETER if dtype.is_integer() else SCALES)


def _typed(value: ir.Value, tensor: ir.TensorProtocol | None) -> onnx.ValueInfoProto:
    if tensor is None:
        return serde.serialize_value(value)
    kind = onnx.TypeProto.Tensor(elem_type=tensor.dtype.value, shape=_shape(tensor.shape.numpy()))
    return onnx.ValueInfoProto(name=value.name, type=onnx.TypeProto(tensor_type=kind))


def _shape(dims: Iterable[int]) -> onnx.TensorShapeProto:
    return onnx.TensorShapeProto(dim=[onnx.TensorShapeProto.Dimension(dim_value=int(d)) for d in dims])
