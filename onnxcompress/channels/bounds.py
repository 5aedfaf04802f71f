"""Between which values every channel provably stays: interval arithmetic, two numbers per position of an axis."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ..graph import edit, operators
from ..graph.layer import Layer
from ..graph.norms import batch_norm
from ..graph.windows import differs_at_borders
from .constant_channels import Channel
from .engine import Engine
from .movement import MOVES, moved_inputs, padding, trace, traced_axes
from .weight_matrix import weight_matrix

Interval: TypeAlias = npt.NDArray[np.float64]
"""Shape (2, n): the lowest and the highest value at each position."""

ROUNDING = 1e-3
"""What sums may be off, relative to what they add up: far more than float32 loses on ten thousand terms."""

LARGEST = 1 << 24
"""Elements of a weight matrix up to which it is looked at."""

RANGES: dict[str, tuple[float, float]] = {
    "Abs": (0, np.inf),
    "Erf": (-1.001, 1.001),
    "Exp": (0, np.inf),
    "Gelu": (-0.2, np.inf),
    "HardSigmoid": (0, 1.001),
    "HardSwish": (-0.376, np.inf),
    "Sigmoid": (0, 1.001),
    "Softmax": (0, 1.001),
    "Softplus": (0, np.inf),
    "Sqrt": (0, np.inf),
    "Tanh": (-1.001, 1.001),
}
"""What an operator returns whatever it reads; engines round a little beyond."""

TYPES = {ir.DataType.BOOL: (0.0, 1.0), ir.DataType.UINT8: (0.0, 255.0), ir.DataType.INT8: (-128.0, 127.0)}


class Bounds:
    """The bounds of every tensor's slices along the axes that have labels; infinite where nothing is known."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._found: dict[tuple[ir.Value, int], Interval] = {}
        for node in engine.model.graph:
            op = edit.op_of(node)
            if node not in engine.followed:
                continue
            if op in MOVES:
                _move(self, node)
            elif op in RANGES:
                for axis, n in enumerate(engine.shape(node.outputs[0])):
                    self._set(node.outputs[0], axis, np.repeat(np.array(RANGES[op])[:, None], n, axis=1))
            elif op in RULES:
                RULES[op](self, node)

    def along(self, value: ir.Value, axis: int) -> Interval:
        """Return the bounds of a tensor's slices along an axis."""
        shape = self.engine.shape(value)
        axis %= len(shape)
        known = self._found.get((value, axis))
        if known is not None:
            return known
        tensor = edit.constant(value)
        array = self.engine.known.values.get(value) if tensor is None else tensor.numpy()
        if array is not None and array.dtype.kind in "fiub" and array.shape == shape and array.size:
            others = tuple(d for d in range(len(shape)) if d != axis)
            known = np.stack([array.min(axis=others), array.max(axis=others)]).astype(np.float64)
        else:
            low, high = TYPES.get(value.dtype or ir.DataType.UNDEFINED, (-np.inf, np.inf))
            known = np.repeat([[low], [high]], shape[axis], axis=1)
        self._found[value, axis] = known
        return known

    def fixed(self, value: ir.Value) -> Iterator[tuple[int, Channel]]:
        """Yield the axes of a tensor with the values of slices whose bounds meet, NaN for the others."""
        for axis in range(len(self.engine.shape(value))):
            known = self._found.get((value, axis))
            if known is not None and (known[0] == known[1]).any():
                yield axis, np.where(known[0] == known[1], known[0], np.nan)

    def _set(self, value: ir.Value, axis: int, interval: Interval) -> None:
        if self.engine.axes(value)[axis] is not None:
            low, high = interval
            low, high = np.where(np.isnan(low), -np.inf, low), np.where(np.isnan(high), np.inf, high)
            if (low > -np.inf).any() or (high < np.inf).any():
                self._found[value, axis] = np.stack([low, high])


def _move(bounds: Bounds, node: ir.Node) -> None:
    engine, sources = bounds.engine, moved_inputs(node)
    if MOVES[node.op_type].unchanged:
        out = node.outputs[0]
        if out.dtype is not None and out.dtype.is_floating_point():
            for axis in range(len(engine.shape(out))):
                bounds._set(out, axis, bounds.along(sources[0], axis))
        return
    useful = [
        axis for axis in traced_axes(engine, node) if any(np.isfinite(bounds.along(s, axis)).any() for s in sources)
    ]
    for value, traced in zip(node.outputs, (trace(engine, node) if useful else None) or [], strict=False):
        for axis in useful:
            fill = np.full((2, 1), padding(engine, node))
            fill = np.where(np.isnan(fill), [[-np.inf], [np.inf]], fill)
            low, high = np.concatenate([fill, *(bounds.along(s, axis) for s in sources)], axis=1)
            for target, rows in enumerate(engine.axes(value)):
                if rows is not None:
                    others = tuple(d for d in range(len(traced.shape)) if d != target)
                    found = low[traced.sources[axis]].min(axis=others), high[traced.sources[axis]].max(axis=others)
                    bounds._set(value, target, np.stack([np.resize(f, rows.shape[1]) for f in found]))


def _elementwise(bounds: Bounds, node: ir.Node) -> None:
    out = node.outputs[0]
    shape = bounds.engine.shape(out)
    for axis in range(len(shape)):
        if bounds.engine.axes(out)[axis] is not None:
            read = [_operand(bounds, v, axis - len(shape), shape[axis]) for v in node.inputs if v is not None]
            with np.errstate(invalid="ignore"):
                bounds._set(out, axis, ELEMENTWISE[node.op_type](node, read))


def _operand(bounds: Bounds, value: ir.Value, axis: int, extent: int) -> Interval:
    """Return an operand's bounds along an axis, counted from the end as broadcasting does."""
    shape = bounds.engine.shape(value)
    if len(shape) >= -axis and shape[axis] == extent:
        return bounds.along(value, axis)
    known = bounds.engine.known.values.get(value)
    if known is not None and known.size == 1 and known.dtype.kind in "fiu":
        return np.full((2, extent), float(known.ravel()[0]))
    return np.repeat([[-np.inf], [np.inf]], extent, axis=1)


def _up(terms: npt.NDArray[np.float64]) -> Channel:
    """Add terms (along axis 0), rounded up."""
    return np.asarray(np.where(terms > 0, terms * (1 + ROUNDING), terms * (1 - ROUNDING)).sum(0))


def _sum(node: ir.Node, read: list[Interval]) -> Interval:
    return np.stack([-_up(np.stack([-r[0] for r in read])), _up(np.stack([r[1] for r in read]))])


def _product(node: ir.Node, read: list[Interval]) -> Interval:
    corners = np.stack([read[0][i] * read[1][j] for i in (0, 1) for j in (0, 1)])
    corners[np.isnan(corners)] = 0  # zero times anything
    return np.stack([corners.min(0), corners.max(0)])


def _clip(node: ir.Node, read: list[Interval]) -> Interval:
    """Clip between attributes (before opset 11) or inputs, which may be left out."""
    given = iter(read[1:])
    limits = []
    for index, (name, default) in enumerate((("min", -np.inf), ("max", np.inf)), 1):
        attribute = node.attributes.get(name)
        there = len(node.inputs) > index and node.inputs[index] is not None
        each = next(given) if there else np.full(read[0].shape, default if attribute is None else attribute.as_float())
        limits.append(each)
    return np.minimum(np.maximum(read[0], limits[0]), limits[1])


def _leaky_relu(node: ir.Node, read: list[Interval]) -> Interval:
    slope = node.attributes.get_float("alpha", 0.01)
    low, high = (np.where(r < 0, slope * r, r) for r in read[0])
    return np.stack([low, high]) if slope >= 0 else np.full(read[0].shape, np.nan)


ELEMENTWISE: dict[str, Callable[[ir.Node, list[Interval]], Interval]] = {
    "Add": _sum,
    "Clip": _clip,
    "LeakyRelu": _leaky_relu,
    "Max": lambda node, read: np.maximum.reduce(read),
    "Min": lambda node, read: np.minimum.reduce(read),
    "Mul": _product,
    "Neg": lambda node, read: -read[0][::-1],
    "Relu": lambda node, read: np.maximum(read[0], 0),
    "Sub": lambda node, read: _sum(node, [read[0], -read[1][::-1]]),
    "Sum": _sum,
}


def _weighted(bounds: Bounds, node: ir.Node) -> None:
    """Bound a sum of products; what padding leaves out may count or not."""
    engine, layer = bounds.engine, Layer(node)
    data, out = layer.data, node.outputs[0]
    if not engine.axes(data) or not engine.shape(out):
        return
    outputs, inputs = engine.shape(out), engine.shape(data)
    axis = layer.data_axis(len(inputs))
    if outputs[layer.channel_axis(len(outputs))] * inputs[axis] > LARGEST:
        return
    low, high = bounds.along(data, axis)
    if not (np.isfinite(low).any() or np.isfinite(high).any()):
        return
    positive, negative = (weight_matrix(engine, node, part) for part in (_positive, _negative))
    if positive is None or negative is None:
        return
    above, below, edges = positive.sum, negative.sum, differs_at_borders(node)
    start = np.zeros(len(above)) if positive.bias is None else positive.bias
    top = _highest(above, below, low, high, start, edges=edges)
    bottom = -_highest(-below, -above, low, high, -start, edges=edges)
    bounds._set(out, positive.out_axis, np.stack([bottom, top]))


def _positive(array: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    return np.asarray(np.maximum(array, 0))


def _negative(array: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    return np.asarray(np.minimum(array, 0))


def _highest(
    above: npt.NDArray[np.float64],
    below: npt.NDArray[np.float64],
    low: Channel,
    high: Channel,
    start: Channel,
    *,
    edges: bool,
) -> Channel:
    """Bound ``start + above · x + below · x`` from above, weights `above` ≥ 0 and `below` ≤ 0, low ≤ x ≤ high."""
    raising = _dot(above, np.maximum(high, 0)) + _dot(below, np.minimum(low, 0))
    lowering = np.zeros(len(above)) if edges else _dot(above, np.minimum(high, 0)) + _dot(below, np.maximum(low, 0))
    return _up(np.stack([raising, lowering, start]))


def _dot(matrix: npt.NDArray[np.float64], vector: Channel) -> Channel:
    """Multiply, with zero times infinity zero, and no product minus infinity."""
    finite = np.isfinite(vector)
    result = np.asarray(matrix[:, finite] @ vector[finite])
    result[(matrix[:, ~finite] != 0).any(1)] = np.inf
    return result


def _batch_norm(bounds: Bounds, node: ir.Node) -> None:
    found = batch_norm(node, bounds.engine.array)
    if found is None or node.inputs[0] is None or len(node.outputs) > 1:
        return
    factor, mean, shift = found
    with np.errstate(invalid="ignore"):
        ends = bounds.along(node.inputs[0], 1) * factor
        ends = np.where(factor == 0, 0, ends)
        rest = [-mean * factor, shift]
        top, bottom = _up(np.stack([ends.max(0), *rest])), -_up(-np.stack([ends.min(0), *rest]))
    bounds._set(node.outputs[0], 1, np.stack([bottom, top]))


def _pool(bounds: Bounds, node: ir.Node) -> None:
    """Stay within the channel's bounds; a mean over a padded window may count zeros."""
    if node.inputs[0] is not None:
        low, high = bounds.along(node.inputs[0], 1)
        if node.op_type == "AveragePool":
            low, high = np.minimum(low, 0), np.maximum(high, 0)
        bounds._set(node.outputs[0], 1, np.stack([low, high]))


RULES: dict[str, Callable[[Bounds, ir.Node], None]] = {
    "AveragePool": _pool,
    "BatchNormalization": _batch_norm,
    "GlobalAveragePool": _pool,
    "GlobalMaxPool": _pool,
    "MaxPool": _pool,
    **dict.fromkeys(operators.PRODUCTS, _weighted),
    **dict.fromkeys(ELEMENTWISE, _elementwise),
}
