"""A use of an operator, as far as shape inference knows it."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any

import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx import shape_inference
from onnx_ir import serde

from .. import edit
from ..dims import Dim, Dims
from .schemas import Signature

FIRST_OPSET = 18
"""Of ONNX, for those of its operators that others are understood as; their shapes have not changed since."""


class Call:
    """The inputs and attributes of one node, as onnx's shape inference hands them over.

    Parameters
    ----------
    signature : Signature
        Of its operator.
    context : onnx.shape_inference.InferenceContext
    """

    def __init__(self, signature: Signature, context: shape_inference.InferenceContext) -> None:
        self.signature, self._context = signature, context

    def type(self, index: int) -> onnx.TypeProto | None:
        """Return the type of an input; None where it is not known or there is none."""
        if index >= self._context.get_num_inputs():
            return None
        found = self._context.get_input_type(index)
        return found if found is not None and found.HasField("tensor_type") else None

    def dtype(self, index: int) -> int:
        """Return the element type of an input; 0 where it is not known or there is none."""
        found = self.type(index)
        return 0 if found is None else int(found.tensor_type.elem_type)

    def has(self, index: int) -> bool:
        """Tell whether an input is given."""
        return index < self._context.get_num_inputs() and self._context.has_input(index)

    def shape(self, index: int) -> Dims:
        """Return the shape of an input; raises `LookupError` where it is not known or there is no such input."""
        found = self.type(index)
        if found is None or not found.tensor_type.HasField("shape"):
            raise LookupError(index)
        dims = found.tensor_type.shape.dim
        return tuple(d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in dims)

    def values(self, index: int) -> npt.NDArray[Any]:
        """Return the numbers of an input; raises `LookupError` where they are not known."""
        found = self._context.get_input_data(index) if index < self._context.get_num_inputs() else None
        if found is None:
            raise LookupError(index)
        return onnx.numpy_helper.to_array(found)

    @cached_property
    def node(self) -> ir.Node:
        """A node with its attributes, and values that have no name."""
        given = self._context.get_num_inputs()
        attributes = [serde.deserialize_attribute(a) for a in self._attributes()]
        inputs = [ir.Value() if self.has(index) else None for index in range(given)]
        return ir.Node(self.signature.domain, self.signature.name, inputs, attributes)

    def _attributes(self) -> Iterable[onnx.AttributeProto]:
        found = (self._context.get_attribute(name) for name, _, _ in self.signature.attributes)
        return [attribute for attribute in found if attribute is not None]

    def number(self, name: str, default: int = 0) -> int:
        """Return an integer attribute or its default."""
        return edit.int_attribute(self.node, name, default)

    def as_onnx(self, op: str, *ports: int, turned: tuple[int, ...] = (), **extra: int) -> list[Dims | None]:
        """Return what an operator of ONNX gives of some of the inputs, with those attributes that it has as well.

        Parameters
        ----------
        op : str
        *ports : int
            The inputs that it reads, in its order; they count as floats.
        turned : tuple of int
            Those of them whose channels are their last axis, as are those of what it gives then.
        **extra : int
            Further attributes.
        """
        schema = onnx.defs.get_schema(op, FIRST_OPSET, "")
        shapes = [_channels_first(self.shape(i)) if i in turned else self.shape(i) for i in ports if self.has(i)]
        attributes = [a for a in self._attributes() if a.name in schema.attributes]
        attributes += [onnx.helper.make_attribute(name, value) for name, value in extra.items()]
        names = [f"input_{i}" for i in range(len(shapes))]
        node = onnx.NodeProto(op_type=op, input=names, output=["output"], attribute=attributes)
        given = {
            name: onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, shape)
            for name, shape in zip(names, shapes, strict=True)
        }
        opset = onnx.helper.make_opsetid("", FIRST_OPSET)
        found = shape_inference.infer_node_outputs(schema, node, given, opset_imports=[opset]).get("output")
        if found is None or not found.tensor_type.HasField("shape"):
            return [None]
        dims: Dims = tuple(d.dim_value if d.HasField("dim_value") else None for d in found.tensor_type.shape.dim)
        return [_channels_last(dims) if turned else dims]


def _channels_first(shape: Dims) -> Dims:
    return (shape[0], shape[-1], *shape[1:-1])


def _channels_last(shape: Dims) -> Dims:
    return (shape[0], *shape[2:], shape[1])


def last(shape: Dims, dim: Dim) -> Dims:
    """Return a shape with another extent of its last axis."""
    return (*shape[:-1], dim)
