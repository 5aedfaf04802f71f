"""Carrying out a plan of `QuantizeDynamic`: nodes that quantize their input in each run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.contract import Change
from onnxcompress.errors import PassError
from onnxcompress.graph import constants, edit
from onnxcompress.graph.layer import Layer

from ..shared import scales
from ..shared.units import bias_of, layer_of

CONTRIB = "com.microsoft"
LSTM_INPUTS = 8
ATTENTION = f"{CONTRIB}::Attention"
ATTENTION_INPUTS = 5
"""Input, weight, bias, mask and past: what Attention and QAttention both have."""
MIDDLE = {"int8": 0, "uint8": 128}
"""Type of the weights → their zero point."""


def matrix_of(node: ir.Node) -> npt.NDArray[Any]:
    """Return the weight of a Conv, or of a MatMul or Gemm as the right operand of a MatMul, with Gemm's alpha."""
    layer = layer_of(node)
    array = layer.single_weight
    return array if layer.is_convolution or layer.axes.output == array.ndim - 1 else array.T


class DynamicApplication:
    """Replaces nodes of one model, in place.

    Integers stand in the main graph, which inner graphs see; a tensor is quantized where it is made, once.

    Parameters
    ----------
    model : onnx_ir.Model
        Opset 13 or later.
    names : edit.Names, optional
        Of what else is added to the model.
    """

    def __init__(self, model: ir.Model, names: edit.Names | None = None) -> None:
        self.model = model
        self.names = names or edit.Names(model.graph)
        self._grid = scales.SYMMETRIC  # of the node that is being replaced
        self._constants = edit.Inserter(model.graph, self.names)
        self._nodes = {edit.output_name(node): node for node in model.graph.all_nodes()}
        self._quantized: dict[ir.Value, Sequence[ir.Value]] = {}
        self._integers: dict[tuple[object, ...], ir.Value] = {}

    @property
    def _middle(self) -> int:
        return MIDDLE[self._grid.dtype]

    def replace(self, name: str, scale: Sequence[npt.NDArray[np.float32]], dtype: str, largest: int) -> Change:
        """Replace the node that `edit.output_name` calls so.

        Parameters
        ----------
        name : str
        scale : sequence of ndarray
            Its weights' scales.
        dtype : {"int8", "uint8"}
            Of the weights.
        largest : int
            The largest magnitude of a weight's integer, without its zero point.
        """
        self._grid = scales.Grid(MIDDLE[dtype] - largest, MIDDLE[dtype] + largest, dtype)
        if name not in self._nodes:
            raise PassError(f"the plan names the node that gives '{name}', which the model does not have")
        node = self._nodes[name]
        label = edit.label(node)
        for op, replace, kernel in (
            ("LSTM", self._lstm, "DynamicQuantizeLSTM"),
            (ATTENTION, self._attention, "QAttention"),
        ):
            if edit.op_of(node) == op:
                replace(node, scale)
                return Change(label, f"computes on integers ({kernel}), weights as {self._grid.dtype}")
        how = "one scale" if not scale[0].ndim else f"{scale[0].size} scales"
        shape = list(matrix_of(node).shape)
        self._linear(node, scale[0])
        return Change(label, f"computes on integers, weight of shape {shape} as {self._grid.dtype} ({how})")

    def finish(self) -> None:
        """Remove what nothing reads any more."""
        edit.remove_dead(self.model)

    def _linear(self, node: ir.Node, scale: npt.NDArray[np.float32]) -> None:
        array, conv = matrix_of(node), layer_of(node).is_convolution
        axis = None if not scale.ndim else (0 if conv else array.ndim - 1)
        self.product(node, self._weight(layer_of(node).value, array, scale, axis), scale)

    def product(self, node: ir.Node, integers: ir.Value, scale: npt.NDArray[np.float32]) -> None:
        """Replace a Conv, MatMul or Gemm, whose weight is ``scale · integers``."""
        layer, array = layer_of(node), matrix_of(node)
        source, conv = layer.value, layer.is_convolution
        quantized, step, zero = self._quantize(layer.data)
        inputs = [quantized, integers, zero]
        if self._middle:
            inputs.append(self._zero_point(()))
        tail = (1,) * (array.ndim - 2) if conv else ()
        kept = dict(node.attributes) if conv else {}
        result = self._add(node, "ConvInteger" if conv else "MatMulInteger", inputs, kept)
        product = self._add(node, "Cast", [result], {"to": ir.AttrInt64("to", ir.DataType.FLOAT)})
        factor = self._constants.constant(f"{source.name}_scale", scale.reshape(-1, *tail) if scale.ndim else scale)
        last = self._add(node, "Mul", [product, self._add(node, "Mul", [step, factor])])
        bias = bias_of(layer, None)
        if bias is not None:
            added = bias.astype(np.float32).reshape(-1, *tail)
            last = self._add(node, "Add", [last, self._constants.constant(f"{source.name}_bias", added)])
        self._take_over(node, [last])

    def _attention(self, node: ir.Node, scale: Sequence[npt.NDArray[np.float32]]) -> None:
        """Quantize what makes queries, keys and values; the products of these stay in float."""
        layer, array = layer_of(node), matrix_of(node)
        source = layer.value
        quantized, step, zero = self._quantize(layer.data)
        integers = self._weight(source, array, scale[0], 1 if scale[0].ndim else None)
        factor = self._constants.constant(f"{source.name}_scale", scale[0])
        bias, (mask, past) = layer.bias_value, [*node.inputs, *[None] * ATTENTION_INPUTS][3:ATTENTION_INPUTS]
        if bias is None:
            bias = self._constants.constant(f"{source.name}_bias", np.zeros(array.shape[1], np.float32))
        inputs = [quantized, integers, bias, step, factor, mask, zero, self._zero_point(()), past]
        self._contrib(node, "QAttention", inputs, list(node.attributes.values()))

    def _lstm(self, node: ir.Node, scale: Sequence[npt.NDArray[np.float32]]) -> None:
        weights, points = [], []
        for layer, step in zip(Layer.each_of(node, constants.find), scale, strict=True):
            value, array = layer.value, layer.stored
            flat = array.reshape(step.size, -1)
            integers = scales.encode(flat, step.ravel(), self._grid, zero_point=self._middle, axis=0)
            turned = integers.reshape(array.shape).transpose(0, 2, 1)
            weights.append(self._constants.constant(f"{value.name}_quantized", turned))
            points += [self._constants.constant(f"{value.name}_scale", step), self._zero_point(step.shape)]
        rest = [*node.inputs[3:], *[None] * (LSTM_INPUTS - len(node.inputs))]
        kept = {name: value for name, value in node.attributes.items() if name != "layout"}
        inputs = [node.inputs[0], *weights, *rest, *points]
        self._contrib(node, "DynamicQuantizeLSTM", inputs, list(kept.values()))

    def _contrib(
        self, node: ir.Node, op_type: str, inputs: Sequence[ir.Value | None], attributes: list[ir.Attr]
    ) -> None:
        """Put one of onnxruntime's own operators in a node's place."""
        name = self.names.node(f"{node.name or edit.output_name(node)}_quantized")
        made = ir.Node(CONTRIB, op_type, inputs, attributes, num_outputs=len(node.outputs), name=name)
        self.model.opset_imports.setdefault(CONTRIB, 1)
        edit.graph_of(node).insert_before(node, made)
        self._take_over(node, made.outputs)

    def _weight(
        self,
        source: ir.Value,
        array: npt.NDArray[Any],
        scale: npt.NDArray[np.float32],
        axis: int | None,
    ) -> ir.Value:
        """Return the integers of a weight; nodes that share a weight share them."""
        key = (constants.root(source), array.shape, array.strides, scale.tobytes(), self._grid)
        if key not in self._integers:
            integers = scales.encode(array, scale, self._grid, zero_point=self._middle, axis=axis)
            self._integers[key] = self._constants.constant(f"{source.name}_quantized", integers)
        return self._integers[key]

    def _zero_point(self, shape: tuple[int, ...]) -> ir.Value:
        key = ("zero_point", shape, self._grid.dtype)
        if key not in self._integers:
            array = np.full(shape, self._middle, self._grid.dtype)
            self._integers[key] = self._constants.constant("weight_zero_point", array)
        return self._integers[key]

    def _quantize(self, value: ir.Value) -> Sequence[ir.Value]:
        """Return integers, scale and zero point of a tensor."""
        if value not in self._quantized:
            base = self.names.node(f"{value.name}_quantize")
            node = ir.Node("", "DynamicQuantizeLinear", [value], num_outputs=3, name=base)
            for output, part in zip(node.outputs, ("quantized", "scale", "zero_point"), strict=True):
                output.name = self.names.value(f"{value.name}_{part}")
            edit.insert_behind(value, node)
            self._quantized[value] = node.outputs
        return self._quantized[value]

    def _add(
        self, before: ir.Node, op_type: str, inputs: Sequence[ir.Value], attributes: dict[str, ir.Attr] | None = None
    ) -> ir.Value:
        base = f"{before.name or edit.output_name(before)}_{op_type}"
        node = ir.Node("", op_type, inputs, list((attributes or {}).values()), name=self.names.node(base))
        node.outputs[0].name = self.names.value(base)
        edit.graph_of(before).insert_before(before, node)
        return node.outputs[0]

    def _take_over(self, node: ir.Node, outputs: Sequence[ir.Value]) -> None:
        """Give a node's outputs, with their names and types, to what computes them now; the node goes."""
        for old, new in zip(node.outputs, outputs, strict=True):
            if old in self._quantized:
                self._quantized[new] = self._quantized.pop(old)
        edit.take_over(node, outputs)
