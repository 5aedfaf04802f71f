"""Rounding to integers and back, straight through: what rounds into the range of the integers keeps its gradient.

The gradient of an integer tensor is carried as a float: that of the number which was rounded. Both rules together give
the gradient of a scale as LSQ has it (Esser et al., "Learned Step Size Quantization", arXiv:1902.08153): ``q - x / s``
where x is in range, and the bound that it was clipped to where not. In range is, as in PyTorch's fake quantization,
what rounds to one of the integers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ...graph.nodes import int_attribute
from .step import Gradients, Rule, Step, dims
from .tape import Tensor

FLOAT = ir.DataType.FLOAT


def _range(bits: int, *, signed: bool) -> tuple[int, int]:
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


RANGES: dict[ir.DataType, tuple[int, int]] = {
    ir.DataType[f"{sign}INT{bits}"]: _range(bits, signed=not sign) for bits in (4, 8, 16) for sign in ("", "U")
}
"""The smallest and the largest of the integers of each type."""


@dataclass(frozen=True)
class Spread:
    """How scales broadcast to the tensor that they are of.

    Attributes
    ----------
    extents : tuple
        Of the tensor; -1 where not known.
    axis : int, optional
        Along which there are several; None: there is one.
    block : int
        How many neighbours share one; 0: none do.
    """

    extents: tuple[int, ...]
    axis: int | None
    block: int

    def tensor(self, factor: Tensor) -> Tensor:
        """Broadcast scales."""
        if self.axis is None:
            return factor.reshape([])
        if not self.block:
            return factor.reshape([-1 if a == self.axis else 1 for a in range(len(self.extents))])
        tape, known = factor.tape, self.extents
        each = [self.block if a == self.axis + 1 else 1 for a in range(len(known) + 1)]
        wide = tape.op("Expand", factor.unsqueeze(self.axis + 1), tape.ints(*each))
        merged = wide.reshape([-1 if a == self.axis else n for a, n in enumerate(known)])
        return tape.op("Slice", merged, tape.ints(0), tape.ints(known[self.axis]), tape.ints(self.axis))

    def array(self, factor: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Broadcast what is known."""
        if self.axis is None or factor.size == 1:
            return factor.reshape(())
        if not self.block:
            return factor.reshape([-1 if a == self.axis else 1 for a in range(len(self.extents))])
        return np.repeat(factor, self.block, self.axis).take(np.arange(self.extents[self.axis]), self.axis)

    def summed(self, gradient: Tensor, factor: Tensor) -> Tensor:
        """Sum the gradients of broadcast scales to those of the scales."""
        if self.axis is None:
            return gradient.sum(keepdims=False).reshape_like(factor)
        if not self.block:
            return gradient.sum([a for a in range(len(self.extents)) if a != self.axis], keepdims=False)
        tape, known = gradient.tape, self.extents
        blocks = -(-known[self.axis] // self.block)
        ends = [blocks * self.block - known[self.axis] if a == self.axis else 0 for a in range(len(known))]
        padded = tape.op("Pad", gradient, tape.ints(*[0] * len(known), *ends))
        split = padded.reshape([*known[: self.axis], blocks, self.block, *known[self.axis + 1 :]])
        return split.sum([self.axis + 1], keepdims=False)


def spread_of(node: ir.Node) -> Spread:
    """Return how a node's scales broadcast, which `_refuses` has made sure is known."""
    shape, scales = dims(node.inputs[0]) or (), dims(node.inputs[1]) or ()
    extents = tuple(n if isinstance(n, int) else -1 for n in shape)
    if all(n == 1 for n in scales) or not extents:
        return Spread(extents, None, 0)
    block = int_attribute(node, "block_size", 0)
    return Spread(extents, int_attribute(node, "axis", 1) % len(extents), block)


def integer_type(node: ir.Node) -> ir.DataType:
    """Return what a QuantizeLinear rounds to."""
    point = node.inputs[2] if len(node.inputs) > 2 else None
    if point is not None and point.dtype is not None:
        return point.dtype
    return ir.DataType(int_attribute(node, "output_dtype", 0) or ir.DataType.UINT8)


def _zero_point(step: Step) -> npt.NDArray[np.float32]:
    point = step.constant(2)
    return np.zeros((), np.float32) if point is None else point.astype(np.float32)


def _quantize(step: Step) -> Gradients:
    spread, factor = spread_of(step.node), step.input(1)
    scale, point = spread.tensor(factor), spread.array(_zero_point(step))
    low, high = RANGES[integer_type(step.node)]
    least, most = (step.tape.of((bound - point).astype(np.float32)) for bound in (low - 0.5, high + 0.5))
    inside = step.tape.op("And", step.x >= scale * least, step.x <= scale * most)
    gradient = step.tape.op("Where", inside, step.g / scale, step.tape.of(0.0))
    if not step.wants(1):
        return {0: gradient}
    return {0: gradient, 1: -spread.summed(gradient * step.x, factor) / factor}


def _dequantize(step: Step) -> Gradients:
    spread, factor = spread_of(step.node), step.input(1)
    found = {0: step.g * spread.tensor(factor)} if step.wants(0) else {}
    if step.wants(1):
        found[1] = spread.summed(step.g * step.y, factor) / factor
    return found


def _refuses(node: ir.Node) -> str:
    shape, scales = dims(node.inputs[0]), dims(node.inputs[1])
    if shape is None or scales is None or not all(isinstance(n, int) for n in scales):
        return "where its rank or the number of its scales is not known"
    if int_attribute(node, "block_size", 0) and not all(isinstance(n, int) for n in shape):
        return "in blocks where its extents are not known"
    if node.inputs[1] is not None and node.inputs[1].dtype not in (None, FLOAT):
        return "with scales that are not float32"
    return ""


def _refuses_to_round(node: ir.Node) -> str:
    kind, point = integer_type(node), node.inputs[2] if len(node.inputs) > 2 else None
    if kind not in RANGES:
        return f"to {kind.name.lower()}"
    if point is not None and (point.const_value is None or point.is_graph_input()):
        return "with a zero point that is computed"
    return _refuses(node)


_CARRIED = frozenset({0, 1})

RULES: dict[str, Rule] = {
    f"{domain}{op}": rule
    for domain in ("", "com.microsoft::")
    for op, rule in (
        ("DequantizeLinear", Rule(_dequantize, _CARRIED, _refuses)),
        ("QuantizeLinear", Rule(_quantize, _CARRIED, _refuses_to_round)),
    )
}
