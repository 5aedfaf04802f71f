"""What a model costs: bytes, parameters, multiply-accumulates per node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir

from . import edit, operators, shapes
from . import macs as counters
from .shared_vectors import joined


@dataclass(frozen=True)
class Cost:
    """Bytes of the saved model, parameters, multiply-accumulates of one sample."""

    bytes: int
    parameters: int
    macs: int


def cost(model: ir.Model, sizes: Mapping[str, tuple[int, ...]] | None = None) -> Cost:
    """Count bytes, parameters and MACs; `sizes` are input shapes for models with unknown extents."""
    model = joined(model)
    return Cost(model_bytes(model), sum(parameters(model).values()), sum(macs(model, sizes).values()))


def model_bytes(model: ir.Model) -> int:
    """Return the bytes that the model takes when saved, external data included."""
    from .save import SMALL_BYTES, needs_external_data, weights
    from .written import written

    model = written(model)
    external = sum(tensor.nbytes for tensor in weights(model) if isinstance(tensor, ir.ExternalTensor))
    if needs_external_data(model):  # those that are not in a data file yet will be
        external += REFERENCE * sum(
            t.nbytes > SMALL_BYTES and not isinstance(t, ir.ExternalTensor) for t in weights(model)
        )
    copy, large = model.clone(), dict[str, ir.TensorProtocol]()
    for name, value in copy.graph.initializers.items():
        tensor = value.const_value
        if isinstance(tensor, (ir.Tensor, ir.LazyTensor)) and tensor.nbytes > COPIED:
            large[name] = tensor
            edit.store_elsewhere(value, ir.Tensor(np.zeros(0, np.uint8), name=tensor.name))
    proto = ir.to_proto(copy)
    more = sum(_add_bytes(made, large[made.name]) for made in proto.graph.initializer if made.name in large)
    size, graph = int(proto.ByteSize()), int(proto.graph.ByteSize())
    return size - _field(graph) + _field(graph + more) + external


REFERENCE = 72
"""Bytes that say where a weight lies in a data file: three entries, the file's name among them."""

COPIED = 1 << 16
"""Bytes up to which a weight may be copied to see how long it is in a protobuf."""


def _add_bytes(proto: onnx.TensorProto, tensor: ir.TensorProtocol) -> int:
    """Describe a tensor in its message, which is empty; returns how many bytes longer the message is with its data."""
    proto.dims[:] = tensor.shape.numpy()
    proto.data_type = tensor.dtype.value
    empty = int(proto.ByteSize())
    return _field(empty - _field(0) + _field(tensor.nbytes)) - _field(empty)


def _field(length: int) -> int:
    """Return the bytes of a protobuf field that holds so many: a tag, their count in groups of 7 bits, and they."""
    return 1 + max(-(-length.bit_length() // 7), 1) + length


def parameters(model: ir.Model) -> dict[str, int]:
    """Return the elements of each weight tensor: floats of any width, and integers that stand for some.

    Scales and zero points do not count; of weights that stand several to a byte each does.
    """
    found: dict[str, int] = {}
    for graph in model.graphs():
        for value in edit.values(graph):
            tensor = _held(value)
            if tensor is not None and value.name and (count := _weights_in(value, tensor)):
                found[value.name] = count
    return found


def _held(value: ir.Value | None) -> ir.TensorProtocol | None:
    """Return what the model holds of a value: a constant, or an input's default."""
    default = value.const_value if value is not None and value.is_initializer() else None
    return edit.constant(value) if default is None else default


def _weights_in(value: ir.Value, tensor: ir.TensorProtocol) -> int:
    """Return how many weights a constant holds; 0 where it is none."""
    uses = [(node, index, *_quantized(node)) for node, index in value.uses()]
    if any(index in weights for _, index, weights, _ in uses):
        return max(_unpacked(node, tensor) for node, index, weights, _ in uses if index in weights)
    scales = any(index in scales for _, index, _, scales in uses)
    return tensor.size if tensor.dtype.is_floating_point() and tensor.size > 1 and not scales else 0


def _quantized(node: ir.Node) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the inputs of a node that hold integers for weights, and those with their scales and zero points."""
    op = edit.op_of(node)
    if op in operators.PACKED:
        return operators.PACKED[op]
    if node.op_type in ("DequantizeLinear", "QuantizeLinear"):
        return (0,) if node.op_type == "DequantizeLinear" else (), (1, 2)
    operands = operators.OPERANDS.get(op, ())
    weights = tuple(data for role, data, _, _ in operands if role == "weight" and data is not None)
    return weights, tuple(i for _, _, scale, zero in operands for i in (scale, zero) if i is not None)


def _unpacked(node: ir.Node, tensor: ir.TensorProtocol) -> int:
    """Return how many weights a tensor holds that an operator reads as such."""
    if edit.op_of(node) not in operators.PACKED:
        return tensor.size
    columns = edit.int_attribute(node, "N", 0)
    return columns * edit.int_attribute(node, "K", 0) or tensor.size * counters.in_a_byte(node, tensor.dtype)


def layer_bytes(model: ir.Model) -> dict[str, int]:
    """Return, for each node that reads constants, the bytes of those it reads, directly or dequantized."""
    found: dict[str, int] = {}
    for node in model.graph:
        if edit.op_of(node) in NOT_LAYERS:
            continue
        size = sum(tensor.nbytes for tensor in constants(node))
        if size:
            found[node.name or edit.output_name(node)] = size
    return found


NOT_LAYERS = {"Constant", "DequantizeLinear", "QuantizeLinear"}


def constants(node: ir.Node) -> list[ir.TensorProtocol]:
    """Return what a node reads of constants, directly or dequantized, each once."""
    return list({id(t): t for value in node.inputs for t in _constants_behind(value)}.values())


def _constants_behind(value: ir.Value | None) -> list[ir.TensorProtocol]:
    tensor = _held(value)
    if tensor is not None:
        return [tensor]
    node = value.producer() if value is not None else None
    if node is None or node.op_type != "DequantizeLinear":
        return []
    found = [_held(v) for v in node.inputs]
    return [t for t in found if t is not None] if found and found[0] is not None else []


def macs(model: ir.Model, sizes: Mapping[str, tuple[int, ...]] | None = None) -> dict[str, int]:
    """Return multiply-accumulates per node, for nodes that multiply and whose shapes are known.

    In inner graphs each node counts once: both branches of an If, one round of a Loop.
    """
    known = shapes.concrete(model, sizes)
    found: dict[str, int] = {}
    for node in model.graph.all_nodes():
        count = counters.count(node, known.shapes.get)
        if count is not None and node.outputs and counters.multiplies(node):
            name = node.name or edit.output_name(node)
            found[name] = found.get(name, 0) + count  # names may repeat from branch to branch
    return found
