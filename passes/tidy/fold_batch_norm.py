"""Fold BatchNormalization into the weights before it."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

import onnx_ir as ir

from onnxcompress.contract import Change, Changes, Context, Plan, Promise, Refusal
from onnxcompress.errors import PassError
from onnxcompress.graph import edit
from onnxcompress.graph.layer import Array, Layer
from onnxcompress.graph.norms import batch_norm
from onnxcompress.selection import SelectivePass, Subject

from .folding.never_larger import LARGER, never_larger


@dataclasses.dataclass(frozen=True, kw_only=True)
class FoldPlan(Plan):
    """Names of the outputs of the BatchNormalization nodes to fold."""

    nodes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class FoldBatchNorm(SelectivePass):
    """Fold BatchNormalization into the Conv, ConvTranspose or Gemm before it.

    With ``f = scale / sqrt(var + epsilon)`` per channel: ``W ← W · f``, ``b ← (b − mean) · f + B``, computed in
    float64. Jacob et al., arXiv:1712.05877, section 3.2.
    """

    promise = Promise(tolerance=1e-4)

    def plan(self, model: ir.Model, context: Context) -> FoldPlan:
        """Find what can be folded, and say why the rest cannot."""
        norms = [node for node in model.graph.all_nodes() if _is_norm(node)]
        selected = self.select(model, {node: _subject(node) for node in norms})
        reasons: dict[ir.Node, str] = {}
        for node in norms:
            reason = _obstacle(node) if node.graph is model.graph else "it is inside an inner graph"
            reason = selected.why_not.get(node) or reason
            reasons |= {node: reason} if reason else {}
        wanted = {edit.output_name(node) for node in norms if node not in reasons}
        names, left = never_larger(model, lambda copy, left: _fold_all(copy, wanted.difference(left)))
        refused = [Refusal(edit.label(node), reason) for node, reason in reasons.items()]
        refused += [Refusal(label, LARGER) for label in left.values()]
        return FoldPlan(nodes=names, refused=(*selected.idle, *refused))

    def apply(self, model: ir.Model, plan: FoldPlan) -> Changes:
        """Fold the nodes of the plan."""
        norms = {edit.output_name(node): node for node in model.graph if _is_norm(node)}
        done = []
        for name in _fold_all(model, set(plan.nodes)):
            layer = edit.producer(edit.required(norms[name], 0))
            done.append(Change(edit.label(norms[name]), f"folded into {edit.label(layer)}"))
        if done:
            edit.remove_dead(model)
        return Changes(tuple(done), plan.refused)


def _subject(norm: ir.Node) -> Subject:
    """A BatchNormalization goes by the layer that it would be folded into, too: who excludes one keeps both."""
    found, data = Subject(), norm.inputs[0]
    for node in (norm, data.producer() if data is not None else None):
        if node is not None:
            found.add_node(node)
    return found


def _obstacle(node: ir.Node) -> str:
    """Return why a BatchNormalization cannot be folded, or nothing."""
    data, found = node.inputs[0], batch_norm(node)
    layer = Layer.of(data.producer()) if data is not None else None
    if edit.int_attribute(node, "training_mode", 0) or len(node.outputs) > 1:
        return "it is in training mode"
    if found is None:
        return "its parameters are not constant"
    if data is None or layer is None or not layer.takes_bias:
        return "it does not follow a Conv, ConvTranspose or Gemm"
    if len(data.uses()) > 1 or data.is_graph_output():
        return f"something else reads the output of {edit.label(layer.node)} too"
    if layer.node.graph is not node.graph:
        return f"{edit.label(layer.node)} is in another graph"
    why_not = layer.why_not()
    if why_not:
        return why_not
    if found[0].size != layer.outputs:
        return "it has parameters for each element, not for each channel"
    fits = layer.can_store(*_folded(layer, node))
    return "" if fits else f"the type of {edit.label(layer.node)}'s weights does not hold the product"


def _folded(layer: Layer, norm: ir.Node) -> tuple[Array, Array]:
    """Return the weight and the bias that do the work of both."""
    found = batch_norm(norm)
    if found is None:
        raise PassError(f"the parameters of {edit.label(norm)} are not constant")
    factor, mean, shift = found
    return layer.scaled_outputs(factor), (layer.bias - mean) * factor + shift


def _fold_all(model: ir.Model, names: Collection[str]) -> dict[str, list[ir.Value]]:
    """Fold the nodes of these names; returns the biases that layers get for them."""
    made, insert = {}, edit.Inserter(model.graph)
    for norm in list(model.graph):
        name = edit.output_name(norm)
        layer = Layer.of(edit.required(norm, 0).producer()) if name in names and _is_norm(norm) else None
        if layer is not None:
            layer.store(insert, *_folded(layer, norm))
            edit.replace_uses(norm.outputs[0], edit.required(norm, 0))
            made[name] = [layer.bias_value] if layer.bias_value is not None else []
    return made


def _is_norm(node: ir.Node) -> bool:
    return edit.op_of(node) == "BatchNormalization"
