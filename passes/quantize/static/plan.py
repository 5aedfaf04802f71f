"""What `Quantize` decided, as plain data; `calibrate` computes it from a placement and ranges."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.contract import Plan
from onnxcompress.graph import constants, edit

from ..equalise.equalisation import Equalisation
from ..prepare.prepare import FOLDS
from ..shared import scales
from ..shared.units import Unit, bias_of, channel_axis, layer_of
from .int16 import Int16Layers
from .placement import Placement
from .scheme import Granularity, Scheme

if TYPE_CHECKING:
    from onnxcompress.statistics.summaries import Range

Scales = npt.NDArray[np.float32]
Point = tuple[float, int]
"""A scale, which is exactly a float32, and a zero point."""


@dataclasses.dataclass(frozen=True)
class Activation:
    """QuantizeLinear and DequantizeLinear on one tensor: ``q = clip(round(x / scale) + zero_point)``.

    Attributes
    ----------
    tensor : str
    scale : float
        Exactly a float32.
    zero_point : int
    readers : tuple of (str, int), optional
        Which nodes (by their first output) read the result, at which input; None: everything does, but for readers that
        a later pair names. They are in one graph, which may be inside the one that the tensor is in.
    gain : float
        The multiplication that gives `tensor` is left out: its input is quantized with ``scale / gain`` instead.
    int16 : bool
        In 16 bits, as `Scheme.int16` says.
    """

    tensor: str
    scale: float
    zero_point: int
    readers: tuple[tuple[str, int], ...] | None = None
    gain: float = 1.0
    int16: bool = False


@dataclasses.dataclass(frozen=True)
class Operand:
    """A constant input that is stored like an activation: a node (by its first output) and the input."""

    node: str
    input: int
    scale: float
    zero_point: int
    int16: bool = False


@dataclasses.dataclass(frozen=True)
class WeightScale:
    """A weight stored symmetrically.

    Attributes
    ----------
    node : str
        The node that reads it, by its first output.
    input : int
    axis : int, optional
        Of the output channels; None: one scale for the tensor.
    scale : ndarray of float32, shape (channels,) or (1,)
    bias_scale : ndarray of float32, same shape, optional
        ``scale`` times the scale of the activation; None without a bias.
    integers : ndarray of int8, the weight's shape, optional
        None: each value is rounded to the nearest.
    bias : ndarray of int32 or float32, shape (channels,), optional
        None: the bias of the model.
    """

    node: str
    input: int
    axis: int | None
    scale: Scales
    bias_scale: Scales | None = None
    integers: npt.NDArray[np.int8] | None = None
    bias: npt.NDArray[Any] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizePlan(Plan):
    """Every scale of a quantized model.

    Attributes
    ----------
    scheme : Scheme
    folds : tuple of str
        What is folded first.
    nodes : tuple of str
        The nodes that compute on integers, by their first output.
    int16 : tuple of str
        Those of them that read activations of 16 bits, among others of 8.
    activations : tuple of Activation
    operands : tuple of Operand
    weights : tuple of WeightScale
    bias_nodes : dict of str to str
        Conv → the Add behind it that becomes its bias; both by their first output.
    reads : dict of str to tuple of (str, int)
        Each node that is worth quantizing for its own sake → the quantized tensors that it reads, at which inputs.
    equalisation : Equalisation
        What channels are multiplied by first.
    """

    scheme: Scheme = dataclasses.field(default_factory=Scheme)
    folds: tuple[str, ...] = tuple(FOLDS)
    nodes: tuple[str, ...] = ()
    int16: tuple[str, ...] = ()
    activations: tuple[Activation, ...] = ()
    operands: tuple[Operand, ...] = ()
    weights: tuple[WeightScale, ...] = ()
    bias_nodes: dict[str, str] = dataclasses.field(default_factory=dict)
    reads: dict[str, tuple[tuple[str, int], ...]] = dataclasses.field(default_factory=dict)
    equalisation: Equalisation = dataclasses.field(default_factory=Equalisation)

    def parts(self) -> dict[str, QuantizePlan]:
        """Return a plan for each Conv, Gemm and MatMul alone: its weight and what it reads are quantized."""
        return {name: self._part(name) for name in self.reads}

    def read(self, tensor: str, node: str, index: int) -> Activation:
        """Return how a node reads a quantized tensor at an input."""
        pairs = [pair for pair in self.activations if pair.tensor == tensor]
        own = (pair for pair in pairs if pair.readers is not None and (node, index) in pair.readers)
        return next(own, None) or next(pair for pair in pairs if pair.readers is None)

    def _part(self, name: str) -> QuantizePlan:
        read = [
            dataclasses.replace(self.read(tensor, name, index), readers=((name, index),), gain=1.0)
            for tensor, index in self.reads[name]
        ]
        return QuantizePlan(
            scheme=self.scheme,
            nodes=(name,),
            int16=(name,) if name in self.int16 else (),
            activations=tuple(read),
            operands=tuple(operand for operand in self.operands if operand.node == name),
            weights=tuple(weight for weight in self.weights if weight.node == name),
            bias_nodes={conv: add for conv, add in self.bias_nodes.items() if conv == name},
            reads={name: self.reads[name]},
            equalisation=self.equalisation,
        )


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
