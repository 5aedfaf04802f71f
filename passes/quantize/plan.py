"""What `Quantize` decided, as plain data; `calibrate` computes it from a placement and ranges."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.contract import Plan
from onnxcompress.graph import edit

from . import constants, scales
from .equalise import Equalisation
from .placement import Placement
from .scheme import Scheme
from .units import Unit, alpha, bias_of, channel_axis, weight_of

if TYPE_CHECKING:
    from onnxcompress.runtime.statistics import Range

Scales = npt.NDArray[np.float32]


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
        Which nodes (by their first output) read the result, at which input; None: everything does. They are in one
        graph, which may be inside the one that the tensor is in.
    gain : float
        The multiplication that gives `tensor` is left out: its input is quantized with ``scale / gain`` instead.
    """

    tensor: str
    scale: float
    zero_point: int
    readers: tuple[tuple[str, int], ...] | None = None
    gain: float = 1.0


@dataclasses.dataclass(frozen=True)
class Operand:
    """A constant input that is stored like an activation: a node (by its first output) and the input."""

    node: str
    input: int
    scale: float
    zero_point: int


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
    nodes : tuple of str
        The nodes that compute on integers, by their first output.
    activations : tuple of Activation
    operands : tuple of Operand
    weights : tuple of WeightScale
    bias_nodes : dict of str to str
        Conv → the Add behind it that becomes its bias; both by their first output.
    reads : dict of str to tuple of (str, int)
        Each node that is worth quantizing for its own sake → the quantized tensors that it reads, at which inputs.
    notes : tuple of str
        How the plan was found.
    equalisation : Equalisation
        What channels are multiplied by first.
    """

    scheme: Scheme = dataclasses.field(default_factory=Scheme)
    nodes: tuple[str, ...] = ()
    activations: tuple[Activation, ...] = ()
    operands: tuple[Operand, ...] = ()
    weights: tuple[WeightScale, ...] = ()
    bias_nodes: dict[str, str] = dataclasses.field(default_factory=dict)
    reads: dict[str, tuple[tuple[str, int], ...]] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    equalisation: Equalisation = dataclasses.field(default_factory=Equalisation)

    def parts(self) -> dict[str, QuantizePlan]:
        """Return a plan for each Conv, Gemm and MatMul alone: its weight and what it reads are quantized."""
        given = {activation.tensor: activation for activation in self.activations}
        return {name: self._part(name, given) for name in self.reads}

    def _part(self, name: str, given: Mapping[str, Activation]) -> QuantizePlan:
        read = [
            dataclasses.replace(given[tensor], readers=((name, index),), gain=1.0) for tensor, index in self.reads[name]
        ]
        return QuantizePlan(
            scheme=self.scheme,
            nodes=(name,),
            activations=tuple(read),
            operands=tuple(operand for operand in self.operands if operand.node == name),
            weights=tuple(weight for weight in self.weights if weight.node == name),
            bias_nodes={conv: add for conv, add in self.bias_nodes.items() if conv == name},
            reads={name: self.reads[name]},
            equalisation=self.equalisation,
        )


def calibrate(placement: Placement, ranges: Mapping[str, Range], scheme: Scheme) -> dict[str, Any]:
    """Return the fields of a `QuantizePlan`.

    Parameters
    ----------
    placement : Placement
    ranges : mapping of str to Range
        For each name in ``placement.sources.values()``.
    scheme : Scheme
    """
    points = {source: _scale(placement, source, ranges, scheme) for source in set(placement.sources.values())}
    readers: dict[tuple[ir.Graph | ir.Function | None, ir.Value], list[tuple[str, int]]] = {}
    for unit in placement.units:
        for index in unit.data:
            value = unit.node.inputs[index]
            assert value is not None
            readers.setdefault((unit.node.graph, value), []).append((edit.output_name(unit.node), index))
    activations = []
    for value, everywhere in placement.tensors.items():
        scale, zero_point = points[placement.sources[value]]
        maker = placement.makers.get(value)
        who = None if everywhere else tuple(readers[value.graph, value])
        gain = maker.gain if maker is not None else 1.0
        activations.append(Activation(str(value.name), float(scale), zero_point, who, gain))
    for graph, value in placement.captured:
        scale, zero_point = points[placement.sources[value]]
        activations.append(Activation(str(value.name), float(scale), zero_point, tuple(readers[graph, value])))
    inputs = {value: points[source][0] for value, source in placement.sources.items()}
    return {
        "scheme": scheme,
        "nodes": tuple(edit.output_name(unit.node) for unit in placement.units),
        "activations": tuple(activations),
        "operands": tuple(op for unit in placement.units for op in _operands(unit, scheme)),
        "weights": _weights(placement.units, inputs, scheme),
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


def _scale(
    placement: Placement, value: ir.Value, ranges: Mapping[str, Range], scheme: Scheme
) -> tuple[np.float32, int]:
    found = ranges[str(value.name)]
    maker = placement.makers.get(value)
    bounds = (-math.inf, math.inf)
    if maker is not None and maker.bounds is not None:
        bounds = (maker.bounds[0] * maker.gain, maker.bounds[1] * maker.gain)
        if not scheme.symmetric and not scheme.power_of_two:
            return scales.within(found.low, found.high, bounds, scheme.grid)
    return _point(max(found.low, bounds[0]), min(found.high, bounds[1]), scheme)


def _point(low: float, high: float, scheme: Scheme) -> tuple[np.float32, int]:
    """Return the scale and zero point for a range."""
    grid = scheme.grid
    if scheme.symmetric:
        scale, zero_point = scales.spanning(np.array([[low, high]]), grid)
    else:
        scale, zero_point = scales.affine([low], [high], grid)
    if scheme.power_of_two:
        scale = scales.power_of_two(scale)
        zero_point = zero_point if scheme.symmetric else np.rint(grid.low - min(low, 0) / scale.astype(np.float64))
    return np.float32(scale[0]), int(zero_point[0])


def _operands(unit: Unit, scheme: Scheme) -> list[Operand]:
    found = []
    for index in unit.operands:
        array = constants.find(unit.node.inputs[index])
        assert array is not None
        scale, zero_point = _point(float(array.min()), float(array.max()), scheme)
        found.append(Operand(edit.output_name(unit.node), index, float(scale), zero_point))
    return found


def _weights(units: list[Unit], inputs: Mapping[ir.Value, np.float32], scheme: Scheme) -> tuple[WeightScale, ...]:
    """Give each weight its scales; nodes that share a weight and its axis get the same ones."""
    chosen: dict[tuple[ir.Value | None, int | None, float], Scales] = {}
    waiting: list[tuple[Unit, tuple[ir.Value | None, int | None, float], bool]] = []
    for unit in units:
        node = unit.node
        if unit.kind != "compute" or len(unit.data) + len(unit.operands) > 1:
            continue
        array = weight_of(node)
        channels = channel_axis(node, array.ndim)
        axis = channels if scheme.per_channel else None
        key = (node.inputs[1], axis, alpha(node))
        scale = chosen[key] if key in chosen else scales.spanning(scales.rows(array, axis), scheme.weight_grid)[0]
        bias = None if channels is None else bias_of(node, unit.bias_node, array.shape[channels])
        if bias is not None and scheme.bias == "int32":
            dead = ~scales.rows(array, axis).any(axis=1)
            scale = scales.raise_for_bias(scale, dead & (scale == 1), bias, float(inputs[unit.inputs[0]]))
        chosen[key] = scales.power_of_two(scale) if scheme.power_of_two else scale
        waiting.append((unit, key, bias is not None and scheme.bias == "int32"))
    result = []
    for unit, key, has_bias in waiting:
        scale = chosen[key]
        bias_scale = scale * inputs[unit.inputs[0]] if has_bias else None
        result.append(WeightScale(edit.output_name(unit.node), 1, key[1], scale, bias_scale))
    return tuple(result)
