"""Operators that reduce over axes."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from ...graph import edit
from .step import Rule, Step, first, unknown_rank
from .tape import Tensor


def axes_of(step: Step) -> list[int] | None:
    """Return the axes that are reduced over, none of them negative; None for all of them."""
    held = step.constant(1)
    axes = edit.ints_attribute(step.node, "axes") if held is None else [int(axis) for axis in held]
    if axes:
        return sorted(axis % step.rank() for axis in axes)
    return [] if step.integer("noop_with_empty_axes", 0) else None


def kept(step: Step, tensor: Tensor) -> Tensor:
    """Give what was reduced its dimensions of one back."""
    axes = axes_of(step)
    if step.integer("keepdims", 1) or axes == []:
        return tensor
    return tensor.unsqueeze(*(range(step.rank()) if axes is None else axes))


def _spread(step: Step, gradient: Tensor) -> Tensor:
    return gradient.expand_like(step.x)


def _sum(step: Step) -> Tensor:
    return _spread(step, kept(step, step.g))


def _mean(step: Step) -> Tensor:
    return _spread(step, kept(step, step.g) / reduced_count(step))


def reduced_count(step: Step) -> Tensor | float:
    """Return how many elements each result was made of."""
    axes, dims = axes_of(step), step.dims(step.x) or ()
    extents = dims if axes is None else [dims[axis] for axis in axes]
    if all(isinstance(extent, int) for extent in extents):
        product = 1
        for extent in extents:
            product *= int(extent)  # type: ignore[arg-type]
        return float(product)
    size, results = step.tape.op("Size", step.x), step.tape.op("Size", step.y)
    return step.tape.op("Div", size, results).number()


def _l2(step: Step) -> Tensor:
    """Take 0 for the slope of the norm of a vector of zeros."""
    norm = kept(step, step.y)
    safe = step.tape.op("Where", norm > 0.0, norm, step.tape.of(1.0))
    return step.x * (kept(step, step.g) / safe)


def _log_sum_exp(step: Step) -> Tensor:
    return step.tape.op("Exp", step.x - kept(step, step.y)) * kept(step, step.g)


def _extreme(step: Step) -> Tensor:
    """Share the gradient among all that are the largest (or smallest)."""
    found = step.x.equals(kept(step, step.y)).number()
    return found * (kept(step, step.g) / found.sum(axes_of(step)))


def _product(step: Step) -> Tensor:
    """Divide the product by each element; where that is the only zero, it is the product of the others."""
    zero = step.x.equals(0.0)
    filled = step.tape.op("Where", zero, step.tape.of(1.0), step.x)
    axes = axes_of(step)
    others = filled.reduce("ReduceProd", axes) * zero.number().sum(axes).equals(1.0).number()
    slope = step.tape.op("Where", zero, others, kept(step, step.y) / filled)
    return kept(step, step.g) * slope


def _unknown_axes(node: ir.Node) -> str:
    given = len(node.inputs) > 1 and node.inputs[1] is not None
    if given and edit.constant(node.inputs[1]) is None:
        return "with axes that are computed"
    return unknown_rank(node)


def _reduction(write: Callable[[Step], Tensor]) -> Rule:
    return first(write, _unknown_axes)


RULES: dict[str, Rule] = {
    "ReduceL1": _reduction(lambda s: s.tape.op("Sign", s.x) * kept(s, s.g)),
    "ReduceL2": _reduction(_l2),
    "ReduceLogSum": _reduction(lambda s: _spread(s, kept(s, s.g / s.tape.op("Exp", s.y)))),
    "ReduceLogSumExp": _reduction(_log_sum_exp),
    "ReduceMax": _reduction(_extreme),
    "ReduceMean": _reduction(_mean),
    "ReduceMin": _reduction(_extreme),
    "ReduceProd": _reduction(_product),
    "ReduceSum": _reduction(_sum),
    "ReduceSumSquare": _reduction(lambda s: s.x * (kept(s, s.g) * 2.0)),
}
