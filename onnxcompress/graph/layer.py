"""Operators with a constant weight, seen alike: ``y = W x + b`` with one value of b for each output channel."""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from . import edit

Array = npt.NDArray[np.float64]

WEIGHT, BIAS = 1, 2
"""Which inputs they are."""

KINDS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""What is a layer."""


@dataclass(frozen=True)
class Layer:
    """A Conv, ConvTranspose, Gemm or MatMul and its constants, as they count: Gemm's alpha and beta are in them.

    Attributes
    ----------
    node : onnx_ir.Node
    """

    node: ir.Node

    @classmethod
    def of(cls, node: ir.Node | None) -> Layer | None:
        """Return the layer that a node is; None for any other operator."""
        return cls(node) if node is not None and edit.op_of(node) in KINDS else None

    @property
    def op(self) -> str:
        """The operator."""
        return self.node.op_type

    @property
    def groups(self) -> int:
        """Into how many parts a convolution cuts its channels."""
        return edit.int_attribute(self.node, "group", 1)

    @property
    def transposes_input(self) -> bool:
        """Whether Gemm reads its data transposed, so that channels are its first axis."""
        return bool(edit.int_attribute(self.node, "transA", 0))

    @property
    def output_axis(self) -> int:
        """The axis of the weight that makes output channels; of a ConvTranspose, within each group."""
        return 0 if self.op == "Conv" or edit.int_attribute(self.node, "transB", 0) else 1

    def channel_axis(self, rank: int) -> int:
        """Return the axis of the output, which has so many, that counts the channels."""
        return 1 if self.op.startswith("Conv") else rank - 1

    def why_not(self) -> str:
        """Return why its constants cannot be changed; empty if they can."""
        value = self.node.inputs[WEIGHT] if len(self.node.inputs) > WEIGHT else None
        tensor = edit.constant(value)
        if value is None or tensor is None:
            default = value is not None and value.is_graph_input() and value.is_initializer()
            return f"the weight of {edit.label(self.node)} {edit.DEFAULT if default else NO_CONSTANT}"
        if not tensor.dtype.is_floating_point():
            return f"the weight of {edit.label(self.node)} is {tensor.dtype.name.lower()}"
        if len(value.uses()) > 1 or value.is_graph_output():
            return f"the weight of {edit.label(self.node)} is read elsewhere too, and would be stored twice"
        if self.op == "MatMul" and len(tensor.shape) != 2:
            return f"the weight of {edit.label(self.node)} is no matrix"
        if self._bias() is None:
            return f"the bias of {edit.label(self.node)} is not one constant for each output channel"
        return ""

    @property
    def takes_bias(self) -> bool:
        """Whether the operator has an input for a bias."""
        return self.op != "MatMul"

    @property
    def channels(self) -> int:
        """How many output channels."""
        sizes = self._tensor.shape.numpy()
        return int(sizes[self.output_axis]) * (self.groups if self.op == "ConvTranspose" else 1)

    @property
    def weight(self) -> Array:
        """The weight, alpha included."""
        array = self._tensor.numpy().astype(np.float64)
        alpha = self.node.attributes.get_float("alpha", 1.0) if self.op == "Gemm" else 1.0
        return array if alpha == 1.0 else array * alpha

    @property
    def bias(self) -> Array:
        """One value for each output channel, beta included; zeros without one."""
        found = self._bias()
        assert found is not None  # `why_not` says so before
        return found

    def scaled_outputs(self, factors: Array) -> Array:
        """Return the weight with each output channel multiplied by a factor."""
        weight = self.weight
        if self.op != "ConvTranspose":
            return weight * _along(factors, weight.ndim, self.output_axis)
        blocks = weight.reshape(self.groups, -1, *weight.shape[1:])
        each = factors.reshape(self.groups, 1, -1, *[1] * (weight.ndim - 2))
        scaled: Array = (blocks * each).reshape(weight.shape)
        return scaled

    @property
    def input_channels(self) -> int:
        """How many channels it reads."""
        sizes = self._tensor.shape.numpy()
        return int(sizes[1 - self.output_axis]) * (self.groups if self.op == "Conv" else 1)

    def scaled_inputs(self, factors: Array) -> Array:
        """Return the weight with what it does to each input channel multiplied by a factor."""
        weight = self.weight
        if self.op != "Conv":
            return weight * _along(factors, weight.ndim, 1 - self.output_axis)
        blocks = weight.reshape(self.groups, -1, *weight.shape[1:])
        scaled: Array = (blocks * factors.reshape(self.groups, 1, -1, *[1] * (weight.ndim - 2))).reshape(weight.shape)
        return scaled

    def can_store(self, weight: Array | None, bias: Array) -> bool:
        """Tell whether the type of the weight holds these numbers: no infinity, no channel that gets too small."""
        kind = self._tensor.dtype.numpy()
        info = ml_dtypes.finfo(kind)  # type: ignore[no-untyped-call]
        if not np.isfinite(bias.astype(kind).astype(np.float64)).all():
            return False
        if weight is None:
            return True
        most = np.abs(np.moveaxis(weight, self.output_axis, 0)).reshape(weight.shape[self.output_axis], -1)
        largest = most.max(axis=1, initial=0)
        return bool(((largest == 0) | ((largest > float(info.tiny)) & (largest <= float(info.max)))).all())

    def store(self, insert: edit.Inserter, weight: Array | None, bias: Array) -> None:
        """Give it constants of its own; without a `weight` it keeps the one it has."""
        kind, name = self._tensor.dtype.numpy(), edit.output_name(self.node)
        if weight is not None:
            self.node.replace_input_with(WEIGHT, insert.constant(f"{name}_weight", weight.astype(kind)))
            self.node.attributes.pop("alpha", None)
        if not self.takes_bias or (self._given_bias is None and not bias.any()):
            return
        if len(self.node.inputs) <= BIAS:
            self.node.resize_inputs(BIAS + 1)
        self.node.attributes.pop("beta", None)
        self.node.replace_input_with(BIAS, insert.constant(f"{name}_bias", bias.astype(kind)))

    @property
    def _tensor(self) -> ir.TensorProtocol:
        tensor = edit.constant(self.node.inputs[WEIGHT])
        assert tensor is not None  # `why_not` says so before
        return tensor

    @property
    def _given_bias(self) -> ir.Value | None:
        return self.node.inputs[BIAS] if len(self.node.inputs) > BIAS else None

    def _bias(self) -> Array | None:
        size = self.channels
        if self._given_bias is None:
            return np.zeros(size)
        tensor = edit.constant(self._given_bias)
        if tensor is None:
            return None
        array = tensor.numpy().astype(np.float64)
        rows = array.shape[:-1]  # Gemm's C broadcasts to (rows, channels); a column has one value for each row
        if any(n != 1 for n in rows) or array.size not in (1, size):
            return None
        beta = self.node.attributes.get_float("beta", 1.0) if self.op == "Gemm" else 1.0
        return np.broadcast_to(array.ravel() * beta, (size,))


NO_CONSTANT = "is not a constant; fold-constants may make it one"


def _along(factors: Array, rank: int, axis: int) -> Array:
    return factors.reshape([-1 if a == axis else 1 for a in range(rank)])
