"""Activation functions."""

from __future__ import annotations

import math

import onnx_ir as ir

from .step import Gradients, Rule, Step, first
from .tape import Tensor

SELU_ALPHA, SELU_GAMMA = 1.67326319217681884765625, 1.05070102214813232421875
QUICK_GELU = 1.702


def _where(step: Step, condition: Tensor, yes: Tensor | float, no: Tensor | float) -> Tensor:
    return step.tape.op("Where", condition, step.tape.of(yes), step.tape.of(no))


def _relu(step: Step) -> Tensor:
    return step.g.only(step.y > 0.0)


def _leaky_relu(step: Step) -> Tensor:
    alpha = step.number("alpha", 0.01)
    return step.g * ((step.x > 0.0).number() * (1 - alpha) + alpha)


def _prelu(step: Step) -> Gradients:
    positive, found = step.x > 0.0, Gradients()
    if step.wants(0):
        found[0] = _where(step, positive, step.g, step.g * step.input(1))
    if step.wants(1):
        found[1] = step.fit((step.g * step.x).only(step.tape.op("Not", positive)), 1)
    return found


def _thresholded_relu(step: Step) -> Tensor:
    return step.g.only(step.x > step.number("alpha", 1.0))


def _shrink(step: Step) -> Tensor:
    return step.g.only(step.tape.op("Abs", step.x) > step.number("lambd", 0.5))


def _elu(step: Step) -> Tensor:
    return _where(step, step.x > 0.0, step.g, step.g * (step.y + step.number("alpha", 1.0)))


def _selu(step: Step) -> Tensor:
    alpha, gamma = step.number("alpha", SELU_ALPHA), step.number("gamma", SELU_GAMMA)
    return step.g * _where(step, step.x > 0.0, gamma, step.y + alpha * gamma)


def _celu(step: Step) -> Tensor:
    return _where(step, step.x > 0.0, step.g, step.g * (step.y * (1 / step.number("alpha", 1.0)) + 1.0))


def _hard_sigmoid(step: Step) -> Tensor:
    inside = step.tape.op("And", step.y > 0.0, step.y < 1.0)
    return step.g.only(inside) * step.number("alpha", 0.2)


def _hard_swish(step: Step) -> Tensor:
    """Add to the gate what moves it: it does only between -3 and 3."""
    gate = step.tape.op("HardSigmoid", step.x, alpha=1 / 6, beta=0.5)
    moved = step.x.only(step.tape.op("Abs", step.x) < 3.0) * (1 / 6)
    return step.g * (gate + moved)


def _softplus(step: Step) -> Tensor:
    return step.g * step.tape.op("Sigmoid", step.x)


def _softsign(step: Step) -> Tensor:
    span = step.tape.op("Abs", step.x) + 1.0
    return step.g / (span * span)


def _mish(step: Step) -> Tensor:
    t = step.tape.op("Tanh", step.tape.op("Softplus", step.x))
    return step.g * (t + step.x * (1.0 - t * t) * step.tape.op("Sigmoid", step.x))


def _swish(step: Step, usual: float = 1.0) -> Tensor:
    alpha = step.number("alpha", usual)
    scaled = step.x if alpha == 1 else step.x * alpha
    gate = step.tape.op("Sigmoid", scaled)
    return step.g * gate * (1.0 + scaled * (1.0 - gate))


def _gelu(step: Step) -> Tensor:
    """D. Hendrycks, K. Gimpel, "Gaussian Error Linear Units", arXiv:1606.08415."""
    if step.node.attributes.get_string("approximate", "none") == "tanh":
        return _gelu_tanh(step)
    x = step.x
    below = 0.5 * (1.0 + step.tape.op("Erf", x * (1 / math.sqrt(2))))
    density = step.tape.op("Exp", x * x * -0.5) * (1 / math.sqrt(2 * math.pi))
    return step.g * (below + x * density)


def _gelu_tanh(step: Step) -> Tensor:
    x, c = step.x, math.sqrt(2 / math.pi)
    square = x * x
    t = step.tape.op("Tanh", x * (square * (0.044715 * c) + c))
    slope = (1.0 - t * t) * (square * (3 * 0.044715 * c) + c)
    return step.g * (0.5 + 0.5 * (t + x * slope))


def _reads_a_bias(node: ir.Node) -> str:
    return "with a bias" if len(node.inputs) > 1 and node.inputs[1] is not None else ""


RULES: dict[str, Rule] = {
    "Celu": first(_celu),
    "Elu": first(_elu),
    "Gelu": first(_gelu),
    "HardSigmoid": first(_hard_sigmoid),
    "HardSwish": first(_hard_swish),
    "LeakyRelu": first(_leaky_relu),
    "Mish": first(_mish),
    "PRelu": Rule(_prelu),
    "Relu": first(_relu),
    "Selu": first(_selu),
    "Shrink": first(_shrink),
    "Sigmoid": first(lambda s: s.g * s.y * (1.0 - s.y)),
    "Softplus": first(_softplus),
    "Softsign": first(_softsign),
    "Swish": first(_swish),
    "Tanh": first(lambda s: s.g * (1.0 - s.y * s.y)),
    "ThresholdedRelu": first(_thresholded_relu),
    "com.microsoft::FastGelu": first(_gelu_tanh, _reads_a_bias),
    "com.microsoft::Gelu": first(_gelu),
    "com.microsoft::QuickGelu": first(lambda s: _swish(s, QUICK_GELU)),
}
