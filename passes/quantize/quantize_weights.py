"""Store weights as 8-bit integers and compute in float."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.contract import Change, Changes, Context, Pass, Plan, Refusal
from onnxcompress.errors import PassError
from onnxcompress.graph import edit
from onnxcompress.graph.weights import find_weights

from . import scales
from .insert import Inserter, drop_unused_inputs
from .opset import raise_opset


@dataclasses.dataclass(frozen=True)
class StoredWeight:
    """How one tensor is stored.

    Attributes
    ----------
    axis : int, optional
        The axis with a scale for each index; None: one scale for the tensor.
    scale : ndarray of float32, shape (channels,) or (1,)
    zero_point : ndarray of int8, same shape
    """

    axis: int | None
    scale: npt.NDArray[np.float32]
    zero_point: npt.NDArray[np.int8]


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightPlan(Plan):
    """Constant's name → how it is stored."""

    weights: dict[str, StoredWeight] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizeWeights(Pass):
    """Store the weights as int8, a quarter of their size, and go on computing in float.

    ``W ≈ scale · (q − zero_point)`` with ``|W − scale · (q − zero_point)| ≤ scale / 2``: an int8 initializer and a
    DequantizeLinear take the place of each weight of Conv, ConvTranspose, Gemm, MatMul, LSTM, GRU and RNN, and of each
    table that Gather looks up by rows (there DequantizeLinear stands behind Gather, so that only the rows looked up
    are converted).

    Parameters
    ----------
    per_channel : bool
        One scale for each output channel, else one for each tensor.
    symmetric : bool
        ``zero_point = 0`` and ``q`` in [-127, 127], as engines expect it. False covers [min, max] with [-128, 127]:
        finer where weights lie to one side of 0.
    minimum_size : int
        Tensors with fewer elements stay as they are.

    Notes
    -----
    It needs no samples. onnxruntime converts the weights back to float in each run, so that the file is smaller and
    the model not faster; only a MatMul with a constant matrix becomes MatMulNBits, which is (onnxruntime 1.32; it may
    round activations to 8 bits as well). `Quantize` is for speed; put this pass after it for what is left, such as
    embeddings. Krishnamoorthi 2018, arXiv:1806.08342, section 3.1.1. A model with an opset below 13 is raised to 13.
    """

    per_channel: bool = True
    symmetric: bool = True
    minimum_size: Annotated[int, msgspec.Meta(ge=1)] = 1024

    def plan(self, model: ir.Model, context: Context) -> WeightPlan:
        """Choose the tensors and their scales."""
        found, refused = _candidates(model)
        weights = {}
        for number, (value, axis) in enumerate(found.items()):
            context.progress("quantize-weights", number, len(found))
            name, array = str(value.name), _array(value)
            if array.size < self.minimum_size:
                continue
            if array.dtype != np.float32:
                refused.append(Refusal(name, f"it is {array.dtype}; only float32 weights are stored as int8"))
            elif not np.isfinite(array).all():
                refused.append(Refusal(name, "it holds NaN or Inf"))
            else:
                weights[name] = self._store(array, axis if self.per_channel and axis >= 0 else None)
        refused += _unreached(model, found, self.minimum_size)
        if not weights:
            refused.append(Refusal("model", f"no float32 weight has {self.minimum_size} elements or more"))
        return WeightPlan(weights=weights, refused=tuple(refused))

    def _store(self, array: npt.NDArray[Any], axis: int | None) -> StoredWeight:
        if self.symmetric:
            scale = scales.symmetric(array, axis)
            return StoredWeight(axis, scale, np.zeros(scale.shape, np.int8))
        matrix = scales.rows(array, axis)
        scale, zero_point = scales.affine(matrix.min(axis=1), matrix.max(axis=1), scales.INT8)
        return StoredWeight(axis, scale, zero_point.astype(np.int8))

    def apply(self, model: ir.Model, plan: WeightPlan) -> Changes:
        """Replace the tensors of the plan."""
        if not plan.weights:
            return Changes(refused=plan.refused)
        done = [Change("model", "opset raised to 13")] if raise_opset(model) else []
        inputs = {value for value in model.graph.inputs if value.uses()}
        values = {value.name: value for value in edit.values(model.graph)}
        names = edit.Names(model.graph)
        for name, stored in plan.weights.items():
            if name not in values or edit.constant(values[name]) is None:
                raise PassError(f"the plan names the weight '{name}', which the model does not have")
            done.append(Change(name, _replace(values[name], stored, names)))
        edit.remove_dead(model)
        drop_unused_inputs(model.graph, inputs)
        return Changes(tuple(done), plan.refused)


def _candidates(model: ir.Model) -> tuple[dict[ir.Value, int], list[Refusal]]:
    """Return each weight with the axis that gets the scales (-1: none), and what is out of reach."""
    found = {}
    for weight in find_weights(model.graph):
        found[weight.value] = weight.axis
    for node in model.graph.all_nodes():
        table = node.inputs[0] if edit.op_of(node) == "Gather" else None
        tensor = edit.constant(table)
        if table is not None and tensor is not None and tensor.dtype.is_floating_point() and _reads_rows(node):
            found[table] = 1 if len(tensor.shape) == 2 else -1
    refused = []
    integers = [n.inputs[0] for n in model.graph.all_nodes() if edit.op_of(n) == "DequantizeLinear"]
    count = sum(edit.constant(value) is not None for value in integers)
    if count:
        refused.append(Refusal("model", f"{count} of its weights and biases are stored as integers already"))
    for function in model.functions.values():
        refused.append(Refusal(function.name, "weights inside a local function are not reached"))
    return found, refused


def _unreached(model: ir.Model, found: dict[ir.Value, int], minimum_size: int) -> list[Refusal]:
    """Name the large float constants that are no operator's weight."""
    refused = []
    for value in edit.values(model.graph):
        tensor = edit.constant(value)
        if tensor is None or value in found or not value.uses():
            continue
        is_vector = sum(size > 1 for size in tensor.shape.numpy()) < 2  # biases, and what a normalisation scales by
        if tensor.size >= minimum_size and tensor.dtype.is_floating_point() and not is_vector:
            readers = sorted({node.op_type for node, _ in value.uses()})
            refused.append(
                Refusal(str(value.name), f"it is no operator's weight but an operand of {', '.join(readers)}")
            )
    return refused


def _array(value: ir.Value) -> npt.NDArray[Any]:
    tensor = edit.constant(value)
    assert tensor is not None
    return tensor.numpy()


def _replace(value: ir.Value, stored: StoredWeight, names: edit.Names) -> str:
    """Let the readers of a constant read integers through DequantizeLinear."""
    graph = value.graph
    assert isinstance(graph, ir.Graph)
    array = _array(value)
    zero_point = stored.zero_point.astype(np.int64)
    integers = scales.encode(array, stored.scale, scales.INT8, zero_point=zero_point, axis=stored.axis)
    inserter = Inserter(graph, names)
    shape = () if stored.axis is None else (-1,)
    name = str(value.name)
    inputs = [
        inserter.constant(f"{name}_quantized", integers),
        inserter.constant(f"{name}_scale", stored.scale.reshape(shape)),
        inserter.constant(f"{name}_zero_point", stored.zero_point.reshape(shape)),
    ]
    dequantized: ir.Value | None = None
    for user, index in list(value.uses()):
        if index == 0 and edit.op_of(user) == "Gather" and _reads_rows(user) and stored.axis != 0:
            _dequantize_rows(user, inputs, stored.axis, names)
            continue
        if dequantized is None:
            dequantized = inserter.add("DequantizeLinear", inputs, f"{name}_dequantized", axis=stored.axis)
        user.replace_input_with(index, dequantized)
    if value.is_graph_output():
        dequantized = dequantized or inserter.add("DequantizeLinear", inputs, f"{name}_dequantized", axis=stored.axis)
        edit.replace_uses(value, dequantized)
    how = "one scale" if stored.axis is None else f"{stored.scale.size} scales"
    return f"{array.size} weights of shape {list(array.shape)} as int8, {how}"


def _reads_rows(node: ir.Node) -> bool:
    return edit.int_attribute(node, "axis", 0) == 0


def _dequantize_rows(gather: ir.Node, inputs: list[ir.Value], axis: int | None, names: edit.Names) -> None:
    """Let Gather look up integers and convert what it found."""
    graph = gather.graph
    assert isinstance(graph, ir.Graph)
    rows = gather.outputs[0]
    gather.replace_input_with(0, inputs[0])
    last = None if axis is None else -1
    result = Inserter(graph, names).add(
        "DequantizeLinear", [rows, *inputs[1:]], f"{rows.name}_dequantized", axis=last, after=gather
    )
    reader = result.producer()
    assert reader is not None
    edit.replace_uses(rows, result, except_for=[reader])
    rows.type = ir.TensorType(ir.DataType.INT8)  # last: a graph output hands its type on to what replaces it
