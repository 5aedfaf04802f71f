"""Fold BatchNormalization into the weights before it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.contract import Change, Changes, Context, Pass, Plan, Refusal
from onnxcompress.graph import edit
from onnxcompress.graph.norms import batch_norm

OUTPUT_AXIS = {"Conv": 0, "ConvTranspose": 1, "Gemm": 1}
"""The axis of the weight that makes output channels (of a grouped ConvTranspose: within the group)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FoldPlan(Plan):
    """Names of the outputs of the BatchNormalization nodes to fold."""

    nodes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class FoldBatchNorm(Pass):
    """Fold BatchNormalization into the Conv, ConvTranspose or Gemm before it.

    With ``f = scale / sqrt(var + epsilon)`` per channel: ``W ← W · f``, ``b ← (b − mean) · f + B``, computed in
    float64. Jacob et al., arXiv:1712.05877, section 3.2.
    """

    tolerance = 1e-4

    def plan(self, model: ir.Model, context: Context) -> FoldPlan:
        """Find what can be folded, and say why the rest cannot."""
        names, refused = [], []
        for node in model.graph.all_nodes():
            if edit.op_of(node) == "BatchNormalization":
                reason = _obstacle(node)
                if node.graph is not model.graph:
                    reason = "it is inside an inner graph"
                if reason:
                    refused.append(Refusal(edit.label(node), reason))
                else:
                    names.append(edit.output_name(node))
        return FoldPlan(nodes=tuple(names), refused=tuple(refused))

    def apply(self, model: ir.Model, plan: FoldPlan) -> Changes:
        """Fold the nodes of the plan."""
        wanted = set(plan.nodes)
        done, insert = [], edit.Inserter(model.graph)
        for node in list(model.graph):
            if edit.op_of(node) == "BatchNormalization" and edit.output_name(node) in wanted:
                assert node.inputs[0] is not None
                before = node.inputs[0].producer()
                assert before is not None
                _fold(insert, before, node)
                done.append(Change(edit.label(node), f"folded into {edit.label(before)}"))
        if done:
            edit.remove_dead(model)
        return Changes(tuple(done), plan.refused)


def _obstacle(node: ir.Node) -> str:
    """Return why a BatchNormalization cannot be folded, or nothing."""
    data = node.inputs[0]
    before = data.producer() if data is not None else None
    if edit.int_attribute(node, "training_mode", 0) or any(v.uses() for v in node.outputs[1:]):
        return "it is in training mode"
    if any(edit.constant(v) is None for v in node.inputs[1:5]):
        return "its parameters are not constant"
    if data is None or before is None or edit.op_of(before) not in OUTPUT_AXIS:
        return "it does not follow a Conv, ConvTranspose or Gemm"
    if len(data.uses()) > 1 or data.is_graph_output():
        return f"something else reads the output of {edit.label(before)} too"
    if edit.constant(before.inputs[1]) is None:
        return f"the weight of {edit.label(before)} is not a constant"
    has_bias = len(before.inputs) > 2 and before.inputs[2] is not None
    bias = edit.constant(before.inputs[2]) if has_bias else None
    if has_bias and bias is None:
        return f"the bias of {edit.label(before)} is not a constant"
    scale = edit.constant(node.inputs[1])
    if bias is not None and scale is not None and bias.size not in (1, scale.size):
        return f"the bias of {edit.label(before)} has one value for each element"
    return ""


def _fold(insert: edit.Inserter, before: ir.Node, norm: ir.Node) -> None:
    found = batch_norm(norm)
    assert found is not None
    factor, mean, shift = found
    weight = edit.constant(before.inputs[1])
    assert weight is not None
    dtype = weight.numpy().dtype
    has_bias = len(before.inputs) > 2 and before.inputs[2] is not None
    bias: npt.NDArray[Any] = _double(before.inputs[2]) if has_bias else np.zeros(1)
    if before.op_type == "Gemm" and "beta" in before.attributes:
        bias = bias * before.attributes.pop("beta").as_float()
    folded = _scaled(weight.numpy().astype(np.float64), factor, before)
    shifted = ((np.ravel(bias) - mean) * factor + shift).astype(dtype)
    before.replace_input_with(1, insert.constant(f"{edit.output_name(before)}_weight", folded.astype(dtype)))
    if len(before.inputs) < 3:
        before.resize_inputs(3)
    before.replace_input_with(2, insert.constant(f"{edit.output_name(before)}_bias", shifted))
    edit.replace_uses(norm.outputs[0], before.outputs[0])


def _scaled(weight: npt.NDArray[np.float64], factor: npt.NDArray[np.float64], node: ir.Node) -> npt.NDArray[np.float64]:
    """Multiply each output channel of a weight by its factor."""
    if node.op_type == "Gemm":
        return weight * (factor[:, None] if edit.int_attribute(node, "transB", 0) else factor)
    if node.op_type == "Conv":
        return weight * factor.reshape(-1, *[1] * (weight.ndim - 1))
    groups = edit.int_attribute(node, "group", 1)
    blocks = weight.reshape(groups, -1, *weight.shape[1:])
    each = factor.reshape(groups, 1, -1, *[1] * (weight.ndim - 2))
    return (blocks * each).reshape(weight.shape)


def _double(value: ir.Value | None) -> npt.NDArray[np.float64]:
    tensor = edit.constant(value)
    assert tensor is not None
    return tensor.numpy().astype(np.float64)
