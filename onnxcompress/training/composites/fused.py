"""Operators that onnxruntime fused of others: written as those again."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from ...graph.layer import Layer, axes_of
from ..rules.step import Step
from ..rules.tape import Tensor
from .composite import Composite, Results, given, optional

MICROSOFT = "com.microsoft"

ACTIVATIONS: dict[str, tuple[str, ...]] = {
    "": (),
    "HardSigmoid": ("alpha", "beta"),
    "LeakyRelu": ("alpha",),
    "Relu": (),
    "Sigmoid": (),
    "Tanh": (),
}
"""Activation to the attributes that its parameters are."""


def _activated(step: Step, made: Tensor, parameters: list[float]) -> Tensor:
    name = step.node.attributes.get_string("activation", "")
    if name == "Clip":
        return step.tape.op("Clip", made, *parameters)
    named: dict[str, Any] = dict(zip(ACTIVATIONS[name], parameters, strict=False))
    return step.tape.op(name, made, **named) if name else made


def _unknown_activation(node: ir.Node) -> str:
    name = node.attributes.get_string("activation", "")
    return "" if name in ACTIVATIONS or name == "Clip" else f"with the activation '{name}'"


def _conv(step: Step) -> Results:
    own = ("activation", "activation_params")
    kept = {name: attribute.value for name, attribute in step.node.attributes.items() if name not in own}
    made = step.tape.op("Conv", step.x, step.input(1), optional(step, 2), **kept)
    made = made + step.input(3) if step.has(3) else made
    return [_activated(step, made, list(step.node.attributes.get_floats("activation_params", [])))]


def _gemm(step: Step) -> Results:
    kept = {n: a.value for n, a in step.node.attributes.items() if not n.startswith("activation")}
    made = step.tape.op("Gemm", step.x, step.input(1), optional(step, 2), **kept)
    names = ("activation_alpha", "activation_beta", "activation_gamma")
    return [_activated(step, made, [step.number(n, 0.0) for n in names if n in step.node.attributes])]


def _matmul(step: Step) -> Results:
    turned = [Layer(step.node).transposes_input, axes_of(step.node, 1, 2).output == 0]
    operands = [_turned(step, index) if turned[index] else step.input(index) for index in (0, 1)]
    made, alpha = step.tape.op("MatMul", *operands), step.number("alpha", 1.0)
    return [made if alpha == 1 else made * alpha]


def _turned(step: Step, index: int) -> Tensor:
    rank = step.rank(index)
    return step.input(index).transpose(*range(rank - 2), rank - 1, rank - 2)


def _unfit_matmul(node: ir.Node) -> str:
    if any(node.attributes.get_int(name, 0) for name in ("transBatchA", "transBatchB")):
        return "with stacks that are transposed"
    ranks = [None if value is None or value.shape is None else len(value.shape) for value in node.inputs]
    return "" if all(rank is not None and rank > 1 for rank in ranks) else "of operands of unknown rank"


def _bias_gelu(step: Step) -> Results:
    return [step.tape.op("Gelu", step.x + step.input(1), domain=MICROSOFT)]


def _fast_gelu(step: Step) -> Results:
    return [step.tape.op("FastGelu", step.x + step.input(1), domain=MICROSOFT)]


def _without_bias(node: ir.Node) -> str:
    return "" if given(node, 1) else "without a bias"


def _skip_layer_norm(step: Step) -> Results:
    total = step.x + step.input(1)
    total = total + step.input(4) if step.has(4) else total
    operands = [total, step.input(2), optional(step, 3)]
    epsilon = step.number("epsilon", 1e-12)
    return [*step.tape.ops("LayerNormalization", *operands, outputs=3, axis=-1, epsilon=epsilon), total]


def _skip_simplified(step: Step) -> Results:
    total = step.x + step.input(1)
    total = total + step.input(3) if step.has(3) else total
    epsilon = step.number("epsilon", 1e-12)
    normalised = step.tape.op("SimplifiedLayerNormalization", total, step.input(2), axis=-1, epsilon=epsilon)
    return [normalised, None, None, total]


def _reads_statistics(node: ir.Node) -> str:
    more = any(output.uses() for output in node.outputs[1:3])
    return "where its statistics are read" if more else ""


def _embed_layer_norm(step: Step) -> Results:
    """Look up words, positions and segments."""
    tape = step.tape
    length = tape.op("Shape", step.x, start=1, end=2)
    total = tape.op("Gather", step.input(2), step.x)
    if step.has(8):
        total = total + tape.op("Gather", step.input(3), step.input(8))
    else:
        total = total + tape.op("Slice", step.input(3), tape.ints(0), length)
    if step.has(1) and step.has(4):
        total = total + tape.op("Gather", step.input(4), step.input(1))
    epsilon = step.number("epsilon", 1e-12)
    normalised = tape.op("LayerNormalization", total, step.input(5), step.input(6), axis=-1, epsilon=epsilon)
    return [normalised, None, total]


def _reads_mask(node: ir.Node) -> str:
    return "where its mask is read" if len(node.outputs) > 1 and node.outputs[1].uses() else ""


COMPOSITES: dict[str, Composite] = {
    "com.microsoft::BiasGelu": Composite(_bias_gelu),
    "com.microsoft::EmbedLayerNormalization": Composite(_embed_layer_norm, _reads_mask),
    "com.microsoft::FastGelu": Composite(_fast_gelu, _without_bias),
    "com.microsoft::FusedConv": Composite(_conv, _unknown_activation),
    "com.microsoft::FusedGemm": Composite(_gemm, _unknown_activation),
    "com.microsoft::FusedMatMul": Composite(_matmul, _unfit_matmul),
    "com.microsoft::SkipLayerNormalization": Composite(_skip_layer_norm),
    "com.microsoft::SkipSimplifiedLayerNormalization": Composite(_skip_simplified, _reads_statistics),
}
