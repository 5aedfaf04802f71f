"""Carrying out a `QuantizePlan`."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.contract import Change, Changes, Refusal
from onnxcompress.errors import PassError
from onnxcompress.graph import constants, edit
from onnxcompress.graph.layer import Layer

from ..prepare.keep_float import keep_float
from ..prepare.keep_moved import keep_moved
from ..shared import scales
from ..shared.dequantize import dequantize, dequantized, stored
from ..shared.units import bias_of, channel_axis, layer_of
from .plan import Activation, Operand, QuantizePlan, WeightScale


class Application:
    """Applies one plan to one model, in place.

    Parameters
    ----------
    model : onnx_ir.Model
        Opset 13 or later.
    plan : QuantizePlan
    """

    def __init__(self, model: ir.Model, plan: QuantizePlan) -> None:
        self.model = model
        self.plan = plan
        names = edit.Names(model.graph)
        graphs = (model.graph, *model.graph.subgraphs())
        self._inserters = {graph: edit.Inserter(graph, names, home=model.graph) for graph in graphs}
        self._inside = {graph: edit.Inserter(graph, names) for graph in graphs}
        self._nodes = {edit.output_name(node): node for node in model.graph.all_nodes()}
        self._stored: dict[tuple[object, ...], list[ir.Value]] = {}
        self._weights: dict[tuple[object, ...], ir.Value] = {}
        self._points: dict[tuple[float, int, str], list[ir.Value]] = {}
        self._replaced: dict[ir.Value, None] = {}
        self._biases: dict[str, ir.Value] = {}
        self._readers: dict[ir.Value | None, set[ir.Graph]] = {}

    def run(self) -> Changes:
        """Edit the model."""
        whats = dict.fromkeys(self.plan.nodes, "computes on integers")
        whats |= dict.fromkeys(self.plan.int16, f"computes on integers, activations of {self.plan.scheme.int16}")
        labels = {name: edit.label(self.node(name)) for name in self.plan.nodes}
        for weight in self.plan.weights:
            reader = self.node(weight.node)
            self._readers.setdefault(reader.inputs[weight.input], set()).add(edit.graph_of(reader))
        for weight in self.plan.weights:
            whats[weight.node] += f", {self._add_weight(weight)}"
        for operand in self.plan.operands:
            self._add_operand(operand)
        for conv, add in self.plan.bias_nodes.items():
            if self.node(conv).op_type == "Conv":
                edit.take_over(self.node(add), self.node(conv).outputs[:1])
        values = {value.name: value for value in edit.values(self.model.graph)}
        for activation in self.plan.activations:
            if activation.tensor not in values:
                raise PassError(f"the plan names the tensor '{activation.tensor}', which the model does not have")
            self._add_activation(activation, values[activation.tensor])
        edit.remove_dead(self.model)
        done = [Change(labels[name], what) for name, what in whats.items()]
        done += [
            Change(label, "stays in float; a Max behind it keeps engines from it") for label in keep_float(self.model)
        ]
        keep_moved(self.model)
        return Changes(tuple(done), (*self.plan.refused, *self._stored_twice()))

    def _stored_twice(self) -> list[Refusal]:
        """Name the weights that something reads as floats as well, such as embeddings that are tied to an output."""
        found = []
        for value in self._replaced:
            readers = sorted({edit.label(node) for node, _ in value.uses()})
            if readers:
                reason = f"{', '.join(readers)} reads it in float, so that it is stored twice"
                found.append(Refusal(str(value.name), f"{reason}; quantize-weights behind quantize makes it small"))
        return found

    def node(self, name: str) -> ir.Node:
        """Return the node that the plan names by its first output; also when it has been renamed since."""
        if name not in self._nodes:
            raise PassError(f"the plan names the node that gives '{name}', which the model does not have")
        return self._nodes[name]

    def _add_weight(self, plan: WeightScale) -> str:
        """Replace a weight, and the bias, by integers; says how."""
        node = self.node(plan.node)
        layer = layer_of(node)
        array = layer.single_weight
        source = node.inputs[plan.input]
        insert = self._inserter(node)
        # onnxruntime (1.32) has failed on a MatMul in an inner graph whose integers lie in another; what two branches
        # read must lie there all the same, or it would be stored twice.
        several = len(self._readers[source]) > 1
        keeper = self._inside[insert.graph] if node.op_type == "MatMul" and not several else insert
        key = (keeper.home, source, plan.axis, layer.alpha, plan.scale.tobytes())
        root = constants.root(source)
        if root is not None:
            self._replaced[root] = None
        bias = None if channel_axis(layer) is None else self._bias(plan, layer)
        grid = self.plan.scheme.weight_grid
        name = str(source.name) if source is not None else plan.node
        if key not in self._stored:
            integers = plan.integers
            if integers is None:
                integers = scales.encode(array, plan.scale, grid, zero_point=grid.middle, axis=plan.axis)
            zeros = np.full(plan.scale.shape, grid.middle).astype(grid.dtype)
            self._stored[key] = stored(keeper, name, integers, plan.scale, zeros, plan.axis)
        if (insert, key) not in self._weights:  # once in each graph: engines fuse within one
            given = dequantize(insert, self._stored[key], f"{name}_dequantized", plan.axis)
            self._weights[insert, key] = given
        node.replace_input_with(plan.input, self._weights[insert, key])
        if bias is not None:
            self._add_bias(plan, layer, bias)
        layer.drop_factors()
        how = f"one scale for each of {plan.scale.size} channels" if plan.axis is not None else "one scale"
        return f"weight of shape {list(array.shape)} as {self.plan.scheme.weights} ({how})"

    def _bias(self, plan: WeightScale, layer: Layer) -> npt.NDArray[Any] | None:
        """Return the bias as it is stored; None where there is none, or where it stays as it is."""
        if plan.bias is not None:
            return plan.bias
        add = self.plan.bias_nodes.get(plan.node)
        bias = bias_of(layer, None if add is None else self.node(add))
        if plan.bias_scale is not None:
            return scales.encode_bias(np.zeros(layer.outputs) if bias is None else bias, plan.bias_scale)
        nowhere = not layer.takes_bias and add is None
        return None if bias is None or nowhere else bias.astype(np.float32)

    def _add_bias(self, plan: WeightScale, layer: Layer, bias: npt.NDArray[Any]) -> None:
        """Give a Conv or Gemm its bias, or the Add behind a MatMul its constant."""
        add = None if layer.takes_bias else self.node(self.plan.bias_nodes[plan.node])
        index = 1 if add is not None and add.inputs[0] is layer.node.outputs[0] else 0
        old = layer.bias_value if add is None else add.inputs[index]
        name = str(old.name) if old is not None else f"{plan.node}_bias"
        axis, insert = 0 if plan.axis is not None else None, self._inserter(layer.node)
        if plan.bias_scale is None:
            self._biases[plan.node] = given = insert.constant(f"{name}_corrected", bias)
        else:
            given = dequantized(insert, name, bias, plan.bias_scale, axis=axis)
            self._biases[plan.node] = _integers(given)
        if add is None:
            layer.set_bias(given)
        else:
            add.replace_input_with(index, given)

    def set_weight(self, plan: WeightScale) -> None:
        """Change a weight and a bias that have been added."""
        if plan.integers is not None:
            edit.set_constant(_integers(self.node(plan.node).inputs[plan.input]), plan.integers)
        if plan.bias is not None:
            edit.set_constant(self._biases[plan.node], plan.bias)

    def _add_operand(self, plan: Operand) -> None:
        node = self.node(plan.node)
        array = constants.find(node.inputs[plan.input])
        if array is None:
            raise PassError(f"the plan has a constant at input {plan.input} of '{plan.node}', and the model has none")
        grid = self.plan.scheme.grid_of(int16=plan.int16)
        scale, zero_point = np.float32(plan.scale), np.array(plan.zero_point, grid.dtype)
        integers = scales.encode(array, np.array(scale), grid, zero_point=plan.zero_point)
        name = str(node.inputs[plan.input].name)  # type: ignore[union-attr]
        given = dequantized(self._inserter(node), name, integers, np.array(scale), zero_point)
        node.replace_input_with(plan.input, given)

    def _add_activation(self, plan: Activation, value: ir.Value) -> None:
        """Put QuantizeLinear and DequantizeLinear between a tensor and its readers."""
        readers = None if plan.readers is None else [(self.node(name), index) for name, index in plan.readers]
        graph = edit.graph_of(value if readers is None else readers[0][0])
        # It may come out of another pair by now: that of the outer graph, or one of another type for other readers.
        given = value if readers is None else edit.required(*readers[0])
        insert = self._inserters[graph]
        producer = given.producer() if given.graph is graph else None
        if plan.gain != 1 and producer is not None:
            given = next(v for v in producer.inputs if v is not None and not constants.is_constant(v))
            edit.take_over(producer, [given])
            producer = given.producer()
        name, dtype = plan.tensor, self.plan.scheme.grid_of(int16=plan.int16).dtype
        before = self._point(insert, name, float(np.float32(plan.scale / plan.gain)), plan.zero_point, dtype)
        quantized = insert.node(
            "QuantizeLinear", [given, *before], f"{name}_quantized", after=producer, before=insert.first
        )
        after = self._point(insert, name, plan.scale, plan.zero_point, dtype)
        behind = None if producer is None else edit.producer(quantized)
        result = dequantize(insert, [quantized, *after], f"{name}_dequantized", after=behind)
        if readers is None:
            edit.replace_uses(given, result, except_for=[edit.producer(quantized)])
        else:
            for reader, index in readers:
                reader.replace_input_with(index, result)

    def _inserter(self, node: ir.Node) -> edit.Inserter:
        """Return what adds to the graph that a node is in."""
        return self._inserters[edit.graph_of(node)]

    def _point(self, insert: edit.Inserter, name: str, scale: float, zero_point: int, dtype: str) -> list[ir.Value]:
        """Return constants for a scale and a zero point; tensors with the same ones share them."""
        key = (scale, zero_point, dtype)
        if key not in self._points:
            self._points[key] = [
                insert.constant(f"{name}_scale", np.array(scale, np.float32)),
                insert.constant(f"{name}_zero_point", np.array(zero_point, dtype)),
            ]
        return self._points[key]


def _integers(dequantized: ir.Value | None) -> ir.Value:
    """Return what the DequantizeLinear that gives a value reads."""
    return edit.required(edit.producer(dequantized), 0)
