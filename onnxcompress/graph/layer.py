"""An operator with a weight, whatever it is called: what it multiplies by, what it adds, along which axes."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ..errors import PassError
from . import edit, operators
from .constants import Read, held
from .dims import Dim, Dims, broadcast

Array: TypeAlias = npt.NDArray[np.float64]
Values: TypeAlias = npt.NDArray[Any]

NO_CONSTANT = "is not a constant; fold-constants may make it one"


class WeightAxes(NamedTuple):
    """The axis of a weight that makes output channels (of a ConvTranspose: of each group), and the one summed over."""

    output: int
    summed: int


def axes_of(node: ir.Node, index: int, rank: int) -> WeightAxes:
    """Return the axes of input `index`, of that rank, of an operator that multiplies by it."""
    known = operators.facts(edit.op_of(node))
    if known.family != "product":
        return WeightAxes(*known.axes)
    if rank < 2:
        return WeightAxes(0, 0)
    output, summed = (axis % rank for axis in known.axes)
    first = index == 0  # of (…, M, K) times (…, K, N)
    turned = bool(edit.int_attribute(node, "transA" if first else "transB", 0))
    return WeightAxes(summed, output) if first != turned else WeightAxes(output, summed)


def product_of(node: ir.Node, a: Dims, b: Dims) -> tuple[Dims, Dim]:
    """Return the shape of a matrix product of such operands, and how many products are summed for each element.

    Operands of one axis are those of MatMul; attributes that transpose count where the node has them.
    """
    first, second = (a if len(a) > 1 else (1, *a)), (b if len(b) > 1 else (*b, 1))
    rows, summed = first[-2:] if not edit.int_attribute(node, "transA", 0) else first[:-3:-1]
    columns = second[-2 if edit.int_attribute(node, "transB", 0) else -1]
    return (
        *broadcast(first[:-2], second[:-2]),
        *([rows] if len(a) > 1 else []),
        *([columns] if len(b) > 1 else []),
    ), summed


@dataclass(frozen=True)
class Layer:
    """An operator and one of its weights, as they count: Gemm's alpha and beta are in what it gives.

    Attributes
    ----------
    node : onnx_ir.Node
    index : int
        The input that is the weight.
    read : callable
        Returns the array of a constant, or None: how far it looks through what stands before the operator.
    """

    node: ir.Node
    index: int = 1
    read: Read = field(default=held, compare=False, repr=False)

    @classmethod
    def of(cls, node: ir.Node | None, read: Read = held, among: Collection[str] = operators.PRODUCTS) -> Layer | None:
        """Return the layer that a node is, with its usual weight; None for operators that are not `among` those."""
        known = None if node is None or edit.op_of(node) not in among else operators.facts(edit.op_of(node))
        return None if node is None or known is None or not known.weights else cls(node, known.weights[0], read)

    @classmethod
    def each_of(cls, node: ir.Node, read: Read = held) -> list[Layer]:
        """Return a layer for each weight of an operator: a recurrent one has two."""
        return [cls(node, index, read) for index in operators.facts(edit.op_of(node)).weights]

    @property
    def op(self) -> str:
        """The operator."""
        return edit.op_of(self.node)

    @property
    def known(self) -> operators.Operator:
        """What is known of the operator."""
        return operators.facts(self.op)

    @property
    def is_convolution(self) -> bool:
        """Whether it is a convolution, perhaps a transposed one."""
        return self.known.family == "convolution"

    @property
    def groups(self) -> int:
        """Into how many parts a convolution cuts its channels."""
        return edit.int_attribute(self.node, "group", 1) if self.is_convolution else 1

    @property
    def data(self) -> ir.Value:
        """What the weight is multiplied by."""
        return edit.required(self.node, 1 if self.index == 0 and self.known.family == "product" else 0)

    @property
    def value(self) -> ir.Value:
        """The weight as the operator reads it; it may be computed."""
        return edit.required(self.node, self.index)

    @property
    def bias_value(self) -> ir.Value | None:
        """The bias as the operator reads it; None without one."""
        port = self.known.bias
        return self.node.inputs[port] if port is not None and port < len(self.node.inputs) else None

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The weight's, where it is known without reading it or can be read."""
        tensor = edit.constant(self.value)
        return tuple(tensor.shape.numpy()) if tensor is not None else self.stored.shape

    @property
    def axes(self) -> WeightAxes:
        """The weight's axes."""
        return axes_of(self.node, self.index, len(self.shape))

    @property
    def is_stack(self) -> bool:
        """Whether its weight is several matrices, or a vector: no block has all weights of one output."""
        return self.known.family == "product" and len(self.shape) != 2

    @property
    def kernel(self) -> tuple[int, ...]:
        """The kernel of a convolution."""
        return self.shape[2:] if self.is_convolution else ()

    @property
    def transposes_input(self) -> bool:
        """Whether it reads its data transposed, so that channels are its first axis."""
        return self.data_axis(2) == 0

    def channel_axis(self, rank: int) -> int:
        """Return the axis of the output, which has so many, that counts the channels."""
        return self.known.channels % max(rank, 1)

    def data_axis(self, rank: int) -> int:
        """Return the axis of the data, which has so many, that it sums over."""
        if self.known.family != "product":
            return self.known.channels % max(rank, 1)
        return axes_of(self.node, 1 - self.index, rank).summed

    def repeats(self, axis: int) -> int:
        """Return for how many groups an axis of the weight stands: the first one of a convolution runs over them."""
        return self.groups if axis else 1

    @property
    def outputs(self) -> int:
        """How many output channels."""
        return self.shape[self.axes.output] * self.repeats(self.axes.output)

    @property
    def inputs(self) -> int:
        """How many channels it reads."""
        return self.shape[self.axes.summed] * self.repeats(self.axes.summed)

    @property
    def columns(self) -> int:
        """How many weights an output has."""
        return math.prod(self.shape) // self.outputs

    @property
    def activation(self) -> str:
        """What onnxruntime has fused into it behind the sum."""
        return self.node.attributes.get_string("activation", "")

    @property
    def alpha(self) -> float:
        """The factor of the product."""
        return self.node.attributes.get_float("alpha", 1.0) if self.known.family == "product" else 1.0

    @property
    def beta(self) -> float:
        """The factor of the bias."""
        return self.node.attributes.get_float("beta", 1.0) if self.known.family == "product" else 1.0

    @cached_property
    def stored(self) -> Values:
        """The weight as it is read, alpha not included; never write to it.

        Raises
        ------
        PassError
            It is no constant.
        """
        found = self.read(self.value)
        if found is None:
            raise PassError(f"the weight of {edit.label(self.node)} {NO_CONSTANT}")
        return found

    @property
    def weight(self) -> Array:
        """The weight, alpha included."""
        array = self.stored.astype(np.float64)
        return array if self.alpha == 1.0 else array * self.alpha

    @property
    def single_weight(self) -> Values:
        """The weight in its own type, alpha included; the constant's own memory where there is none."""
        array = self.stored
        return array if self.alpha == 1.0 else array * array.dtype.type(self.alpha)

    @property
    def bias(self) -> Array:
        """One value for each output channel, beta included; zeros without a bias.

        Raises
        ------
        PassError
            It is computed, or not one for each.
        """
        found = self.known_bias()
        if found is None:
            raise PassError(f"the bias of {edit.label(self.node)} is not one constant for each output channel")
        return found

    def known_bias(self) -> Array | None:
        """Return the bias; None where it is computed, or not one value for each output channel."""
        size = self.outputs
        if self.bias_value is None:
            return np.zeros(size)
        array = self.read(self.bias_value)
        if array is None or any(n != 1 for n in array.shape[:-1]) or array.size not in (1, size):
            return None  # Gemm's C broadcasts to (rows, channels); a column has one value for each row
        return np.broadcast_to(array.astype(np.float64).ravel() * self.beta, (size,))

    def added_behind(self, add: ir.Node) -> Array:
        """Return what an Add that reads its output adds to each output channel.

        Raises
        ------
        PassError
            That is no constant.
        """
        other = add.inputs[1] if add.inputs[0] is self.node.outputs[0] else add.inputs[0]
        array = self.read(other)
        if array is None:
            raise PassError(f"what {edit.label(add)} adds {NO_CONSTANT}")
        return np.broadcast_to(array.astype(np.float64).ravel(), (self.outputs,))

    def why_not(self) -> str:
        """Return why its constants cannot be changed; empty if they can."""
        value, label = self.value, edit.label(self.node)
        tensor = edit.constant(value)
        if self.known.family not in ("convolution", "product") or self.activation:
            return f"{label} does more than multiply and add"
        if tensor is None:
            default = value.is_graph_input() and value.is_initializer()
            return f"the weight of {label} {edit.DEFAULT if default else NO_CONSTANT}"
        if not tensor.dtype.is_floating_point():
            return f"the weight of {label} is {tensor.dtype.name.lower()}"
        if len(value.uses()) > 1 or value.is_graph_output():
            return f"the weight of {label} is read elsewhere too, and would be stored twice"
        if self.is_stack:
            return f"the weight of {label} is no matrix"
        if self.known_bias() is None:
            return f"the bias of {label} is not one constant for each output channel"
        return ""

    @property
    def takes_bias(self) -> bool:
        """Whether the operator has an input for a bias."""
        return self.known.bias is not None

    def blocks(self, array: Values) -> Values:
        """Return an array of the weight's shape as (groups, outputs of each, weights of an output).

        The weights of an output are in the order of its inputs, for each the positions of the kernel. Of a recurrent
        operator each direction is a block, and of a stack each matrix.
        """
        if self.known.family == "recurrent":
            return array
        if self.is_stack and array.ndim > 2:
            matrices: Values = array if self.axes.output == array.ndim - 2 else array.swapaxes(-1, -2)
            return matrices.reshape(-1, *matrices.shape[-2:])
        if not self.is_convolution:
            return (array if self.axes.output == 0 else array.T)[None]
        if self.axes.output == 0:
            return array.reshape((self.groups, self.outputs // self.groups, -1))
        first, second = self.shape[:2]
        apart: Values = array.reshape(self.groups, first // self.groups, second, -1).swapaxes(1, 2)
        return apart.reshape((self.groups, second, -1))

    def whole(self, blocks: Values) -> Values:
        """Undo `blocks`."""
        if self.known.family == "recurrent":
            return blocks
        if self.is_stack and len(self.shape) > 2:
            matrices: Values = blocks.reshape(*self.shape[:-2], *blocks.shape[-2:])
            return matrices if self.axes.output == len(self.shape) - 2 else matrices.swapaxes(-1, -2)
        if not self.is_convolution:
            matrix: Values = blocks[0]
            return matrix if self.axes.output == 0 else matrix.T
        if self.axes.output == 0:
            return blocks.reshape(self.shape)
        first, second = self.shape[:2]
        apart: Values = blocks.reshape(self.groups, second, first // self.groups, -1).swapaxes(1, 2)
        return apart.reshape(self.shape)

    def scaled_outputs(self, factors: Array) -> Array:
        """Return the weight with each output channel multiplied by a factor."""
        blocks = self.blocks(self.weight)
        return np.asarray(self.whole(blocks * factors.reshape(self.groups, -1, 1)))

    def scaled_inputs(self, factors: Array) -> Array:
        """Return the weight with what it does to each input channel multiplied by a factor."""
        blocks = self.blocks(self.weight)
        each = np.repeat(factors.reshape(self.groups, 1, -1), max(math.prod(self.kernel), 1), axis=2)
        return np.asarray(self.whole(blocks * each))

    def can_store(self, weight: Array | None, bias: Array) -> bool:
        """Tell whether the type of the weight holds these numbers: no infinity, no channel that gets too small."""
        kind = self.stored.dtype
        info = ml_dtypes.finfo(kind)  # type: ignore[no-untyped-call]
        if not np.isfinite(bias.astype(kind).astype(np.float64)).all():
            return False
        if weight is None:
            return True
        output = self.axes.output
        largest = np.abs(np.moveaxis(weight, output, 0)).reshape(weight.shape[output], -1).max(axis=1, initial=0)
        return bool(((largest == 0) | ((largest > float(info.tiny)) & (largest <= float(info.max)))).all())

    def set_groups(self, groups: int) -> None:
        """Say into how many parts a convolution cuts its channels."""
        edit.set_attribute(self.node, "group", groups)

    def store(self, insert: edit.Inserter, weight: Array | None, bias: Array) -> None:
        """Give it constants of its own; without a `weight` it keeps the one it has."""
        kind, name = self.stored.dtype, edit.output_name(self.node)
        given = self.bias_value is not None
        if weight is not None:
            self.node.replace_input_with(self.index, insert.constant(f"{name}_weight", weight.astype(kind)))
            self.node.attributes.pop("alpha", None)
        if self.takes_bias and (given or bias.any()):
            self.set_bias(insert.constant(f"{name}_bias", bias.astype(kind)))

    def set_bias(self, value: ir.Value) -> None:
        """Let the operator add a value as it is, without a factor."""
        port = self.known.bias
        if port is None:
            raise PassError(f"{edit.label(self.node)} takes no bias")
        if len(self.node.inputs) <= port:
            self.node.resize_inputs(port + 1)
        self.node.attributes.pop("beta", None)
        self.node.replace_input_with(port, value)

    def drop_factors(self) -> None:
        """Forget alpha and beta, once they are in the constants."""
        for name in ("alpha", "beta") if self.known.family == "product" else ():
            self.node.attributes.pop(name, None)

    def replace_bias(self, value: ir.Value | None) -> None:
        """Let the operator read another bias, beta as it is; None: no bias."""
        if self.bias_value is not None and self.known.bias is not None:
            self.node.replace_input_with(self.known.bias, value)
