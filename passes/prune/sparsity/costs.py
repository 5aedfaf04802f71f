"""What a model has of multiply-accumulates, parameters or bytes, as a sum of parts that depend on widths."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import onnx_ir as ir

from onnxcompress.channels.groups import Groups
from onnxcompress.channels.widths import Width, Widths
from onnxcompress.graph import edit
from onnxcompress.graph.cost import COUNTERS, parameters
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
            varied, shapes = _varied(widths, {0: (value, shape)})
            items.append(Item(varied, _share_of(size, prod(shape), shapes)))
    return Costs(items)


def _share_of(size: int, elements: int, shapes: Callable[..., dict[int, Shape]]) -> Callable[..., float]:
    return lambda *sizes: size * prod(shapes(*sizes)[0]) / max(elements, 1)


def _macs(groups: Groups, widths: Widths, node: ir.Node) -> Item | None:
    counter, known = COUNTERS.get(edit.op_of(node)), groups.engine.known.shapes
    values = [v for v in (*node.inputs[:4], *node.outputs[:1]) if v is not None]
    if counter is None or any(v not in known for v in values):
        return None
    places = {index: (v, known[v]) for index, v in enumerate(node.inputs) if v is not None and v in known}
    varied, shapes = _varied(widths, {**places, -1: (node.outputs[0], known[node.outputs[0]])})

    def macs(*sizes: int) -> float:
        found = shapes(*sizes)
        return float(counter(node, lambda index: found.get(index, ()), found[-1]))

    return Item(varied, macs)


def _varied(
    widths: Widths, places: dict[int, tuple[ir.Value, Shape]]
) -> tuple[tuple[Width, ...], Callable[..., dict[int, Shape]]]:
    """Return the widths among the axes of some tensors that vary, and a function of these to the tensors' shapes."""
    at: list[tuple[int, int]] = []
    varied: list[Width] = []
    for place, (value, shape) in places.items():
        for axis, extent in enumerate(shape):
            width = widths.of(value, axis, extent)
            if width.numbers:
                at.append((place, axis))
                varied.append(width)

    def shapes(*sizes: int) -> dict[int, Shape]:
        found: dict[int, Any] = {place: list(shape) for place, (_, shape) in places.items()}
        for (place, axis), size in zip(at, sizes, strict=True):
            found[place][axis] = size
        return {place: tuple(shape) for place, shape in found.items()}

    return tuple(varied), shapes
