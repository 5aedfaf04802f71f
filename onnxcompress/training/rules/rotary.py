"""RotaryEmbedding, ONNX's own and onnxruntime's: turning pairs of numbers, which is undone by turning them back."""

from __future__ import annotations

from .step import Rule, Step, first
from .tape import Tensor


def _turn_back(step: Step, sine: int) -> Tensor:
    """J. Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", arXiv:2104.09864."""
    node = step.node
    inputs = [None if value is None else step.tape.of(value) for value in node.inputs]
    inputs[0], inputs[sine] = step.g, -step.input(sine)
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    return step.tape.op("RotaryEmbedding", *inputs, domain=node.domain, **attributes)


RULES: dict[str, Rule] = {
    "RotaryEmbedding": first(lambda step: _turn_back(step, 2)),
    "com.microsoft::RotaryEmbedding": first(lambda step: _turn_back(step, 3)),
}
