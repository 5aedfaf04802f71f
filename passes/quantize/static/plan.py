"""What `Quantize` decided, as plain data."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxcompress.contract import Plan

from ..equalise.equalisation import Equalisation
from ..prepare.prepare import FOLDS
from .scheme import Scheme

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
