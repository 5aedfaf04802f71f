"""Carrying out a plan of `ConvertFloat`: one type for each tensor, and a cast wherever two meet."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.graph import edit, operators
from onnxcompress.graph.constants import MAPPED, is_mapped

from .roles import FLOAT, Roles, is_float, roles, set_output_type

EAGER = 1 << 20
"""Bytes up to which a constant is converted at once; larger ones each time they are read, so that one is in memory."""

LARGEST = {"float16": 65504.0, "bfloat16": 3.3895313892515355e38}
"""Type → its largest finite number."""


def narrowed(array: npt.NDArray[Any], dtype: str) -> npt.NDArray[Any]:
    """Return a float32 array as float16 or bfloat16; finite values beyond its range become half of its largest."""
    largest = LARGEST[dtype]
    beyond = np.isfinite(array) & (np.abs(array) > largest)
    cut = np.where(beyond, np.copysign(np.float32(largest / 2), array), array) if beyond.any() else array
    with np.errstate(over="ignore", under="ignore"):
        result: npt.NDArray[Any] = cut.astype(ir.DataType[dtype.upper()].numpy())
    return result


class Conversion:
    """Converts one model, in place; its values have types.

    Parameters
    ----------
    model : onnx_ir.Model
    narrow : onnx_ir.DataType
    nodes : set of str
        What computes in `narrow`; see `edit.output_name`.
    keep_io : bool
    """

    def __init__(self, model: ir.Model, narrow: ir.DataType, nodes: set[str], *, keep_io: bool) -> None:
        self.model, self.narrow, self.keep_io = model, narrow, keep_io
        self._names = edit.Names(model.graph)
        self._chosen = nodes
        self._floats = {value for value in edit.values(model.graph) if is_float(value)}
        self._constants = {value for value in self._floats if edit.constant(value) is not None}
        self._homes: dict[ir.Value, ir.DataType] = {}
        self._made: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
        self._casts = self._weights = 0

    def run(self) -> tuple[list[str], int, int]:
        """Edit the model; returns labels of the nodes converted, and how many casts and constants were added."""
        nodes = list(self.model.graph.all_nodes())
        graphs = (self.model.graph, *self.model.graph.subgraphs())
        if not self.keep_io:
            for value in self.model.graph.inputs:
                if value in self._floats and value not in self._constants:
                    self._homes[value] = self.narrow
        opset = self.model.opset_imports.get("", 1)
        wanted = {node: self._decide(node, opset) for node in nodes}
        labels = [edit.label(node) for node in nodes if wanted[node][1] and edit.output_name(node) in self._chosen]
        for value, home in self._homes.items():
            value.type = ir.TensorType(home)
            if value.is_initializer() and value.const_value is not None:  # an input's default
                edit.set_constant(value, narrowed(value.const_value.numpy(), home.name.lower()))
        for node, (inputs, output) in wanted.items():
            if output:
                set_output_type(node, self.narrow)
            for index, dtype in inputs.items():
                node.replace_input_with(index, self._as(edit.required(node, index), dtype))
        for graph in graphs:
            self._outputs(graph)
        self._drop_empty_casts(nodes)
        edit.remove_dead(self.model)
        return labels, self._casts, self._weights

    def _home(self, value: ir.Value) -> ir.DataType:
        return self._homes.get(value, FLOAT)

    def _decide(self, node: ir.Node, opset: int) -> tuple[dict[int, ir.DataType], bool]:
        """Return the type that each float32 input should have, and whether outputs become narrow; notes these."""
        floats = [i for i, value in enumerate(node.inputs) if value in self._floats]
        found = roles(node, opset, self.narrow) if edit.output_name(node) in self._chosen else None
        if edit.op_of(node) in operators.MOVE_ELEMENTS and not floats:
            return {}, False  # nothing says of what type it is that it moves
        if found is None or edit.inner_graphs(node) or not self._may_be_narrow(node, found):
            return {} if found is not None and edit.op_of(node) == "Cast" else dict.fromkeys(floats, FLOAT), False
        for index in found.outputs:
            self._homes[node.outputs[index]] = self.narrow
        if edit.op_of(node) == "Cast":
            return {}, True  # it reads any type
        return {i: self.narrow if i in found.inputs else FLOAT for i in floats}, bool(found.outputs)

    def _may_be_narrow(self, node: ir.Node, found: Roles) -> bool:
        """Tell whether it is of use that a node computes in the narrow type, by what it reads has already."""
        read = {self._home(v) for v in node.inputs if v in self._floats and v not in self._constants}
        if edit.op_of(node) == "Cast":
            return bool(found.outputs) and FLOAT not in read
        if not found.outputs:
            return read == {self.narrow}
        return read != {FLOAT} or edit.op_of(node) not in operators.MOVE_ELEMENTS

    def _as(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """Return a value in a type; whoever wants it so shares one cast or one constant."""
        if self._home(value) == dtype:
            return value
        if (value, dtype) not in self._made:
            constant = value in self._constants
            self._made[value, dtype] = self._constant(value) if constant else self._cast(value, dtype)
        return self._made[value, dtype]

    def _cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        base = f"{value.name}_{dtype.name.lower()}"
        node = ir.node("Cast", [value], {"to": int(dtype)}, name=self._names.node(base))
        result = node.outputs[0]
        result.name = self._names.value(base)
        result.type, result.shape = ir.TensorType(dtype), value.shape
        edit.insert_behind(value, node)
        self._casts += 1
        return result

    def _constant(self, value: ir.Value) -> ir.Value:
        tensor, graph = edit.tensor(value), edit.graph_of(value)
        dtype = self.narrow.name.lower()

        def convert() -> ir.TensorProtocol:
            return ir.tensor(narrowed(tensor.numpy(), dtype))

        lazy = ir.LazyTensor(convert, dtype=self.narrow, shape=ir.Shape(tensor.shape.numpy()))
        lazy.meta[MAPPED] = is_mapped(tensor)
        self._weights += 1
        insert = edit.Inserter(graph, self._names)
        return insert.tensor(f"{value.name}_{dtype}", convert() if tensor.nbytes <= EAGER else lazy)

    def _outputs(self, graph: ir.Graph) -> None:
        """Give the outputs of a graph the type that whoever reads them expects."""
        narrow = graph is self.model.graph and not self.keep_io
        dtype = self.narrow if narrow else FLOAT
        for value in list(dict.fromkeys(graph.outputs)):
            if value not in self._floats or self._home(value) == dtype or value.is_graph_input():
                continue
            name, new = value.name, self._as(value, dtype)
            edit.return_instead(graph, value, new)
            if value.producer() is None and value.is_initializer() and value not in graph.outputs:
                value.name = self._names.value(f"{name}_float")
                new.name = name
            elif value.producer() is not None and new.name != name and value not in graph.outputs:
                value.name = None
                free = new.name
                new.name = name
                value.name = self._names.value(f"{name}_{self._home(value).name.lower()}") if free else None

    def _drop_empty_casts(self, nodes: list[ir.Node]) -> None:
        """Remove casts that were there before and now give the type that they read."""
        for node in nodes:
            value = node.inputs[0] if edit.op_of(node) == "Cast" else None
            output = node.outputs[0] if node.outputs else None
            if value is None or output is None or output.is_graph_output() or value.dtype != output.dtype:
                continue
            edit.replace_uses(output, value)
