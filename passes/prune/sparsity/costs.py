"""What a model has of multiply-accumulates, parameters or bytes, as a sum of parts that depend on widths."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import onnx_ir as ir

from onnxcompress.channels.groups import Groups
from onnxcompress.channels.widths import Width, Widths
from onnxcompress.graph import edit
from onnxcompress.graph.cost import parameters
from onnxcompress.graph.macs import count
from onnxcompress.layer_times.model_time import Costs, Item

Shape = tuple[int, ...]


def counted(groups: Groups, widths: Widths, budget: str) -> Costs:
    """Return what a budget counts; `Meter` counts the same exactly, and slower."""
    if budget == "macs":
        nodes = (_macs(groups, widths, node) for node in groups.engine.model.graph.all_nodes())
        return Costs([item for item in nodes if item is not None])
    counts = parameters(groups.engine.model)
    items = []
    for value in edit.values(groups.engine.model.graph):
        tensor = edit.constant(value)
        if tensor is not None and (budget == "bytes" or value.name in counts):
            shape = tuple(tensor.shape.numpy())
            size = tensor.nbytes if budget == "bytes" else tensor.size
            varied, shapes = _varied(widths, {value: shape})
            items.append(Item(varied, _share_of(size, prod(shape), shapes)))
    return Costs(items)


def _share_of(size: int, elements: int, shapes: Callable[..., dict[ir.Value, Shape]]) -> Callable[..., float]:
    return lambda *sizes: size * sum(map(prod, shapes(*sizes).values())) / max(elements, 1)


def _macs(groups: Groups, widths: Widths, node: ir.Node) -> Item | None:
    known, asked = groups.engine.known.shapes, dict[ir.Value, Shape]()

    def full(value: ir.Value) -> Shape | None:
        if value in known:
            asked[value] = known[value]
        return known.get(value)

    if count(node, full) is None:
        return None
    varied, shapes = _varied(widths, asked)
    return Item(varied, lambda *sizes: float(count(node, shapes(*sizes).get) or 0))


def _varied(
    widths: Widths, full: dict[ir.Value, Shape]
) -> tuple[tuple[Width, ...], Callable[..., dict[ir.Value, Shape]]]:
    """Return the widths among the axes of some tensors that vary, and a function of these to the tensors' shapes."""
    at: list[tuple[ir.Value, int]] = []
    varied: list[Width] = []
    for value, shape in full.items():
        for axis, extent in enumerate(shape):
            width = widths.of(value, axis, extent)
            if width.numbers:
                at.append((value, axis))
                varied.append(width)

    def shapes(*sizes: int) -> dict[ir.Value, Shape]:
        found = {value: list(shape) for value, shape in full.items()}
        for (value, axis), size in zip(at, sizes, strict=True):
            found[value][axis] = size
        return {value: tuple(shape) for value, shape in found.items()}

    return tuple(varied), shapes
