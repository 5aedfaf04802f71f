"""Compute on 8-bit integers whose scale each run chooses for itself: dynamic quantization."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.contract import Changes, Context, Plan, Refusal
from onnxcompress.errors import OptionError
from onnxcompress.graph import constants, edit, operators
from onnxcompress.graph.layer import Layer
from onnxcompress.runtime.saturation import products_saturate
from onnxcompress.selection import OverridablePass, node_subjects
from onnxcompress.targets import computes, load_target, quantize_options

from .dynamic.apply import ATTENTION, ATTENTION_INPUTS, DynamicApplication, matrix_of
from .prepare.prepare import FORMS, prepare, prepared
from .shared import scales
from .shared.units import OBSTACLES, layer_of

ELSEWHERE = "; quantize-weights makes its file smaller"
FUSED = "it is fused already; quantize the model before it is fused"


def _lacking(op: str) -> str:
    """Say why an operator with weights stays in float."""
    if "::" in op:
        return FUSED
    return f"onnxruntime has no {'dynamic' if op in operators.RECURRENT else 'integer'} {op}{ELSEWHERE}"


UNSUPPORTED = {
    "Einsum": "onnxruntime has no integer Einsum",
    **{op: _lacking(op) for op in operators.LAYERS if op not in operators.DYNAMIC},
}
"""Operator with weights → why it stays in float."""

WEIGHTED = {*operators.DYNAMIC, *UNSUPPORTED}
SLOW_CONV = (
    "onnxruntime computes ConvInteger several times slower than Conv in float; quantize (with samples) is for "
    "convolutions, conv=true computes it on integers all the same"
)


def _written(op: str) -> str:
    name = operators.facts(op).dynamic
    return name if name in operators.INTEGER_OPERATORS else f"com.microsoft::{name}"


WRITTEN = {op: _written(op) for op in operators.DYNAMIC}
"""Operator → what takes its place."""


@dataclasses.dataclass(frozen=True)
class DynamicWeight:
    """A weight stored as integers.

    Attributes
    ----------
    node : str
        The node that reads it, by its first output that has a name.
    input : int
    scale : ndarray of float32
        Shape () for the whole tensor or (channels,); of an LSTM (directions,) or (directions, 4 · hidden).
    dtype : str
        ``int8`` (zero point 0) or ``uint8`` (zero point 128).
    largest : int
        The largest magnitude of an integer, without its zero point.
    """

    node: str
    input: int
    scale: npt.NDArray[np.float32]
    dtype: str = "int8"
    largest: int = 127


@dataclasses.dataclass(frozen=True, kw_only=True)
class DynamicPlan(Plan):
    """The weights that become integers."""

    weights: tuple[DynamicWeight, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizeDynamic(OverridablePass):
    """Let MatMul, Gemm, LSTM and Attention compute on integers, with scales of activations measured in each run.

    ``y = (q_x − zero_point) W_q · (scale_x · scale_W)``: DynamicQuantizeLinear makes ``q_x`` (uint8) of each tensor
    once, however many nodes read it; MatMulInteger, Cast and Mul follow, which onnxruntime fuses into one kernel, with
    the bias. ``scale_W = max|W| / 127``. An LSTM becomes com.microsoft's DynamicQuantizeLSTM, and
    com.microsoft's Attention its QAttention. No samples are needed.

    Parameters
    ----------
    target : str, optional
        What engine it is for, as in `quantize`; what it has no integer operator for stays in float. None: onnxruntime
        on a CPU.
    weights : {"int8", "uint8"}
        int8 with zero point 0, or uint8 with zero point 128: the same steps.
    granularity : {"tensor", "channel"}
        One scale for a weight, or one for each of its output channels.
    reduce_range : bool, optional
        Weights in [-64, 64]. On x86 without VNNI onnxruntime adds pairs of products uint8 · int8 in 16 bits, which
        saturate; 7 bits cannot. ``weights="uint8"`` does not saturate either, is as fine as int8, and slower there.
        None: where int8 would saturate on the target, or on this machine where there is none.
    conv : bool
        Conv becomes ConvInteger too, which is smaller but several times slower in onnxruntime.

    Notes
    -----
    Activations have one scale for a tensor. One for each token and block, a fifth of the error and as fast for one
    token, is what `quantize-weights` gives with ``dtype="uint8"``, ``block_size=128``, ``format="matmulnbits"`` and
    ``accuracy_level=4``. A matrix of more than two axes has one scale. Local functions are inlined; inner graphs
    (If, Loop, Scan) are quantized like the outer one. A model with an opset below 13 is raised to 13. Jacob et al.
    2018, arXiv:1712.05877, equation 4.
    """

    target: str | None = None
    weights: Literal["int8", "uint8"] = "int8"
    granularity: Literal["tensor", "channel"] = "channel"
    reduce_range: bool | None = None
    conv: bool = False

    overridable = ("weights", "granularity", "reduce_range", "conv")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.target is not None and all(self._lacks(op) for op in WRITTEN):
            raise OptionError(
                f"{self.name}: target = '{self.target}': {load_target(self.target).title} has no "
                f"{', '.join(sorted(set(WRITTEN.values())))}; use quantize, which needs samples"
            )

    def _lacks(self, op: str) -> bool:
        """Tell whether the target lacks what takes the place of an operator."""
        if self.target is None or op not in WRITTEN:
            return False
        engine = load_target(self.target)
        scaled = "::" in WRITTEN[op] or computes(engine, "DynamicQuantizeLinear")
        return not (scaled and computes(engine, WRITTEN[op]))

    def plan(self, model: ir.Model, context: Context) -> DynamicPlan:
        """Choose the nodes, and the scales of their weights."""
        work = prepared(model, context, FORMS["quantize-dynamic"]).model
        found: list[DynamicWeight] = []
        refused: list[Refusal] = []
        subjects = node_subjects(work.graph)
        selected = self.select(model, {n: known for n, known in subjects.items() if edit.op_of(n) in WEIGHTED})
        for node in selected.subjects:
            own = selected.settings(node)
            reason = own._obstacle(node, selected.why_not.get(node, ""))
            if reason:
                refused.append(Refusal(edit.label(node), reason))
            else:
                found += own._weights(node)
        refused += selected.idle
        if not found:
            refused.append(Refusal("model", "no node has a constant float32 weight that could be quantized"))
        return DynamicPlan(weights=tuple(found), refused=tuple(refused))

    def apply(self, model: ir.Model, plan: DynamicPlan) -> Changes:
        """Put integer nodes in the place of those in the plan."""
        if not plan.weights:
            return Changes(refused=plan.refused)
        done = prepare(model, FORMS["quantize-dynamic"])
        application = DynamicApplication(model)
        by_node: dict[str, list[DynamicWeight]] = {}
        for weight in plan.weights:
            by_node.setdefault(weight.node, []).append(weight)
        for name, parts in by_node.items():
            done.append(application.replace(name, [part.scale for part in parts], parts[0].dtype, parts[0].largest))
        application.finish()
        return Changes(tuple(done), plan.refused)

    def _obstacle(self, node: ir.Node, left_alone: str) -> str:
        """Return why a node stays in float; empty if it does not."""
        op = edit.op_of(node)
        if op in UNSUPPORTED:
            return UNSUPPORTED[op]
        if left_alone:
            return left_alone
        if op == "Conv" and not self.conv:
            return SLOW_CONV
        if self._lacks(op):
            return f"the target, {self.target}, has no {WRITTEN[op]}"
        data = node.inputs[0]
        if data is None or data.dtype is None:
            return "the type of its input is not known"
        if data.dtype != ir.DataType.FLOAT:
            return f"it computes in {data.dtype.name.lower()}; DynamicQuantizeLinear takes float32"
        own = {"LSTM": _lstm_obstacle, ATTENTION: _attention_obstacle}.get(op)
        return own(node) if own else OBSTACLES[op](node) or _matrix_obstacle(node)

    def _saturates(self) -> bool:
        return (
            products_saturate() if self.target is None else quantize_options(load_target(self.target))["reduce_range"]
        )

    def _weights(self, node: ir.Node) -> list[DynamicWeight]:
        name, per_channel, reduced = edit.output_name(node), self.granularity == "channel", self.reduce_range
        if reduced is None:
            reduced = self.weights == "int8" and self._saturates()
        largest = (scales.SEVEN_BITS if reduced else scales.SYMMETRIC).high
        if node.op_type == "LSTM":
            layers = Layer.each_of(node, constants.find)
            known = {layer.index: _lstm_scale(layer.stored, largest, per_channel) for layer in layers}
            return [DynamicWeight(name, i, scale, self.weights, largest) for i, scale in known.items()]
        layer, array = layer_of(node), matrix_of(node)
        axis = 0 if layer.is_convolution else None if layer.is_stack else 1
        rows = scales.rows(array, axis if per_channel else None)
        scale = _scale(np.abs(rows).max(axis=1, initial=0), largest)
        scale = scale if per_channel and axis is not None else scale.reshape(())
        return [DynamicWeight(name, layer.index, scale, self.weights, largest)]


def _matrix_obstacle(node: ir.Node) -> str:
    layer = layer_of(node)
    if layer.transposes_input:
        return "it transposes its input (transA), which MatMulInteger does not"
    if not constants.is_constant(layer.value):
        side = "the left" if constants.is_constant(layer.data) else "neither"
        return f"{side} of its operands is a constant; the right one must be"
    if constants.is_constant(layer.data):
        return "its input is a constant; put fold-constants before it"
    array = matrix_of(node)
    return "its weight is a vector" if array.ndim < 2 else ""


def _attention_obstacle(node: ir.Node) -> str:
    if any(value is not None for value in node.inputs[ATTENTION_INPUTS:]):
        return "onnxruntime's QAttention takes no bias of the attention, and no length of the past"
    for name in ("qkv_hidden_sizes", "rotary_embedding_dim"):
        if name in node.attributes:
            return f"onnxruntime's QAttention has no attribute {name}"
    return _weight_obstacle(layer_of(node).value)


LSTM_DEFAULTS: dict[str, Any] = {"layout": 0}
"""Attributes that DynamicQuantizeLSTM does not have, with the value that it computes by."""


def _lstm_obstacle(node: ir.Node) -> str:
    for name, only in LSTM_DEFAULTS.items():
        if edit.int_attribute(node, name, only) != only:
            return f"onnxruntime's dynamic LSTM has no attribute {name}"
    return next(filter(None, (_weight_obstacle(layer.value) for layer in Layer.each_of(node))), "")


def _weight_obstacle(value: ir.Value | None) -> str:
    array = constants.find(value)
    if array is None or array.dtype != np.float32 or not array.size:
        return "its weight is not a constant of float32; fold-constants may make it one"
    return "" if np.isfinite(array).all() else "its weight holds NaN or Inf"


def _lstm_scale(array: npt.NDArray[Any], largest: int, per_channel: bool) -> npt.NDArray[np.float32]:
    return _scale(np.abs(array).max(axis=2 if per_channel else (1, 2)), largest)


def _scale(most: npt.NDArray[Any], largest: int) -> npt.NDArray[np.float32]:
    steps = most.astype(np.float64) / largest
    return np.where(most == 0, 1.0, np.maximum(steps, scales.SMALLEST)).astype(np.float32)
