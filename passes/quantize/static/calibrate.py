"""From ranges to scales and zero points: what a placement needs, as the fields of a `QuantizePlan`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from onnxcompress.graph import constants, edit

from ..shared import scales
from ..shared.units import Unit, bias_of, channel_axis, layer_of
from .int16 import Int16Layers
from .placement import Placement
from .plan import Activation, Operand, Scales, WeightScale
from .scheme import Granularity, Scheme

if TYPE_CHECKING:
    from onnxcompress.statistics.summaries import Range

Point = tuple[float, int]
"""A scale, which is exactly a float32, and a zero point."""


def calibrate(
    placement: Placement,
    ranges: Mapping[str, Range],
    int16_ranges: Mapping[str, Range],
    scheme: Scheme,
    int16: Int16Layers,
    granularity: Mapping[ir.Node, Granularity],
) -> dict[str, Any]:
    """Return the fields of a `QuantizePlan`.

    Parameters
    ----------
    placement : Placement
    ranges : mapping of str to Range
        For each name in ``placement.sources.values()``.
    int16_ranges : mapping of str to Range
        The same, for as many integers as 16 bits have; empty where nothing has 16 bits.
    scheme : Scheme
    int16 : Int16Layers
    granularity : mapping of onnx_ir.Node to str
        Of the weights of single nodes, where it is not the scheme's.
    """
    points = _Points(placement, int16, scheme, ranges, int16_ranges)
    return {
        "scheme": scheme,
        "nodes": tuple(edit.output_name(unit.node) for unit in placement.units),
        "int16": tuple(edit.output_name(unit.node) for unit in placement.units if unit in int16.units),
        "activations": tuple(_activations(placement, points)),
        "operands": tuple(op for unit in placement.units for op in _operands(unit, scheme, int16=unit in int16.units)),
        "weights": _weights(placement.units, points, scheme, granularity),
        "bias_nodes": {
            edit.output_name(unit.node): edit.output_name(unit.bias_node)
            for unit in placement.units
            if unit.bias_node is not None
        },
        "reads": {
            edit.output_name(unit.node): tuple((str(unit.node.inputs[i].name), i) for i in unit.data)  # type: ignore[union-attr]
            for unit in placement.units
            if unit.kind == "compute"
        },
    }


class _Points:
    """The scale and the zero point of each tensor, in 8 bits and in 16."""

    def __init__(
        self,
        placement: Placement,
        int16: Int16Layers,
        scheme: Scheme,
        ranges: Mapping[str, Range],
        int16_ranges: Mapping[str, Range],
    ) -> None:
        self.int16, self._sources = int16, placement.sources
        self._points: dict[tuple[ir.Value, bool], Point] = {}
        for source in set(placement.sources.values()):
            name = str(source.name)
            self._points[source, False] = _scale(placement, source, ranges[name], scheme, int16=False)
            if name in int16_ranges:
                self._points[source, True] = _scale(placement, source, int16_ranges[name], scheme, int16=True)

    def of(self, value: ir.Value, *, int16: bool) -> Point:
        """Return those of a tensor."""
        return self._points[self._sources[value], int16]

    def stored_int16(self, value: ir.Value) -> bool:
        """Tell whether a tensor that is stored as integers is so in 16 bits."""
        return self._sources[value] in self.int16.stored

    def reads_int16(self, unit: Unit, value: ir.Value) -> bool:
        """Tell whether a unit reads a tensor in 16 bits."""
        return self.int16.reads(unit, self._sources[value])

    def input_scale(self, unit: Unit) -> Any:
        """Return the scale of what a unit reads first."""
        value = unit.inputs[0]
        scale, _ = self.of(value, int16=self.reads_int16(unit, value))
        return np.asarray(scale, np.float32)[()]


def _activations(placement: Placement, points: _Points) -> Iterator[Activation]:
    """Yield the pair of each tensor, and behind it one for those that read other integers than it is stored as."""
    readers: dict[tuple[ir.Graph | ir.Function | None, ir.Value, bool], list[tuple[str, int]]] = {}
    for unit in placement.units:
        for index in unit.data:
            value = edit.required(unit.node, index)
            key = (unit.node.graph, value, points.reads_int16(unit, value))
            readers.setdefault(key, []).append((edit.output_name(unit.node), index))
    tensors = [(value.graph, value, for_all) for value, for_all in placement.tensors.items()]
    for graph, value, for_all in (*tensors, *((graph, value, False) for graph, value in placement.captured)):
        stored = points.stored_int16(value)
        if for_all:
            gain = placement.makers[value].gain
            yield Activation(str(value.name), *points.of(value, int16=stored), None, gain, stored)
        for int16 in (stored, not stored):
            who = readers.get((graph, value, int16), [])
            if who and not (for_all and int16 == stored):
                yield Activation(str(value.name), *points.of(value, int16=int16), tuple(who), int16=int16)


def _scale(placement: Placement, value: ir.Value, found: Range, scheme: Scheme, *, int16: bool) -> Point:
    maker = placement.makers.get(value)
    if maker is not None and maker.node.op_type == "Softmax":
        scale, zero_point = scales.probabilities(scheme.grid, symmetric=scheme.symmetric)
        return float(scales.power_of_two(scale) if scheme.power_of_two else scale), zero_point
    bounds = (-math.inf, math.inf)
    if maker is not None and maker.bounds is not None:
        bounds = (maker.bounds[0] * maker.gain, maker.bounds[1] * maker.gain)
        if not scheme.symmetric and not scheme.power_of_two:
            scale, zero_point = scales.within(found.low, found.high, bounds, scheme.grid_of(int16=int16))
            return float(scale), zero_point
    return _point(max(found.low, bounds[0]), min(found.high, bounds[1]), scheme, int16=int16)


def _point(low: float, high: float, scheme: Scheme, *, int16: bool) -> Point:
    """Return the scale and zero point for a range."""
    grid = scheme.grid_of(int16=int16)
    if scheme.symmetric:
        scale, zero_point = scales.spanning(np.array([[low, high]]), grid)
    else:
        scale, zero_point = scales.affine([low], [high], grid)
    if scheme.power_of_two:
        scale = scales.power_of_two(scale)
        zero_point = zero_point if scheme.symmetric else np.rint(grid.low - min(low, 0) / scale.astype(np.float64))
    return float(scale[0]), int(zero_point[0])


def _operands(unit: Unit, scheme: Scheme, *, int16: bool) -> list[Operand]:
    found = []
    for index in unit.operands:
        array = constants.found(unit.node.inputs[index])
        point = _point(float(array.min()), float(array.max()), scheme, int16=int16)
        found.append(Operand(edit.output_name(unit.node), index, *point, int16))
    return found


def _weights(
    units: list[Unit], points: _Points, scheme: Scheme, granularity: Mapping[ir.Node, Granularity]
) -> tuple[WeightScale, ...]:
    """Give each weight its scales; nodes that share a weight and its axis get the same ones."""
    chosen: dict[tuple[ir.Value, int | None, float], Scales] = {}
    waiting: list[tuple[Unit, tuple[ir.Value, int | None, float], bool]] = []
    for unit in units:
        node = unit.node
        if unit.kind != "compute" or len(unit.data) + len(unit.operands) > 1:
            continue
        layer = layer_of(node)
        array, channels = layer.single_weight, channel_axis(layer)
        axis = channels if granularity.get(node, scheme.granularity) == "channel" else None
        key = (layer.value, axis, layer.alpha)
        scale = chosen[key] if key in chosen else scales.spanning(scales.rows(array, axis), scheme.weight_grid)[0]
        bias = None if channels is None else bias_of(layer, unit.bias_node)
        if bias is not None and scheme.bias == "int32":
            dead = ~scales.rows(array, axis).any(axis=1)
            scale = scales.raise_for_bias(scale, dead & (scale == 1), bias, float(points.input_scale(unit)))
        chosen[key] = scales.power_of_two(scale) if scheme.power_of_two else scale
        waiting.append((unit, key, bias is not None and scheme.bias == "int32"))
    result = []
    for unit, key, has_bias in waiting:
        scale = chosen[key]
        bias_scale = scale * points.input_scale(unit) if has_bias else None
        result.append(WeightScale(edit.output_name(unit.node), 1, key[1], scale, bias_scale))
    return tuple(result)
