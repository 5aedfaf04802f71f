"""The operators that read channels through constant weights, seen alike: as blocks of weights with a bias."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.channels.engine import Sink
from onnxcompress.channels.groups import Groups
from onnxcompress.graph import edit
from onnxcompress.graph.windows import coverage

Matrix = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

LARGEST = 4608
"""Weights of one output channel that are fitted at once: 512 channels under a 3x3 kernel."""


@dataclasses.dataclass(frozen=True)
class Consumer:
    """An operator that multiplies channels by a weight of its own.

    Attributes
    ----------
    node, value : onnx_ir.Node, onnx_ir.Value
        The operator and the constant that it multiplies by.
    weight : float64 array
        Its values.
    dtype : dtype
        What they are stored as.
    axis : int
        The axis of the data that is summed over.
    groups, outputs : int
        How many groups the channels are cut into, and how many output channels there are.
    removed : (inputs,) bool array
        Which positions of the data axis go; of each group all, or the same ones as of the others that stay.
    zeroed : dict
        Axis of the weight → which of its positions are zero.
    silent : (outputs,) bool array
        Which output channels go.
    biased : bool
        A constant can be added to its output.
    coverage : float array of the kernel's shape, or number
        For each position of the kernel, the share of the output that reads data there and not padding.
    """

    node: ir.Node
    value: ir.Value
    weight: Matrix
    dtype: np.dtype[Any]
    axis: int
    groups: int
    outputs: int
    removed: Flags
    zeroed: dict[int, Flags]
    silent: Flags
    biased: bool
    coverage: Matrix

    @property
    def data(self) -> ir.Value:
        """What it reads."""
        return edit.required(self.node, 0)

    @property
    def kernel(self) -> tuple[int, ...]:
        """The kernel's shape."""
        return self.weight.shape[2:]

    @property
    def alive(self) -> npt.NDArray[np.int64]:
        """The groups that keep an input."""
        return np.flatnonzero(~self.removed.reshape(self.groups, -1).all(1))

    @property
    def kept(self) -> npt.NDArray[np.int64]:
        """The positions inside each of these groups that stay."""
        return np.flatnonzero(~self.removed.reshape(self.groups, -1)[self.alive].all(0))

    @property
    def fitted_whole(self) -> bool:
        """Whether each weight is fitted; else input channels are mixed, alike at each position of the kernel."""
        return self.node.op_type != "ConvTranspose" and len(self.kept) * math.prod(self.kernel) <= LARGEST

    def blocks(self) -> Matrix:
        """Return the weights as (groups, outputs of each, inputs of each, positions of the kernel).

        The factor that a Gemm puts on them is in.
        """
        first, second = self.weight.shape[:2]
        flat = self.weight.reshape(first, second, -1)
        if self.node.op_type == "Conv":
            found = flat.reshape(self.groups, first // self.groups, second, -1)
        elif self.node.op_type == "ConvTranspose":
            found = flat.reshape(self.groups, first // self.groups, second, -1).swapaxes(1, 2)
        else:
            found = self._factor * (flat if self._transposed else flat.swapaxes(0, 1))[None]
        return np.asarray(found, np.float64)

    def masked(self, blocks: Matrix) -> Matrix:
        """Undo `blocks`, and put zeros where channels go."""
        if self.node.op_type in ("Gemm", "MatMul"):
            blocks = (blocks[0] if self._transposed else blocks[0].swapaxes(0, 1)) / self._factor
        elif self.node.op_type == "ConvTranspose":
            blocks = blocks.swapaxes(1, 2)
        weight = np.array(blocks.reshape(self.weight.shape))
        for axis, where in self.zeroed.items():
            weight[(slice(None),) * axis + (where,)] = 0
        return weight

    def bias(self) -> Matrix:
        """Return the bias that the operator has itself."""
        tensor = edit.constant(self.node.inputs[2]) if len(self.node.inputs) > 2 else None
        beta = self.node.attributes.get_float("beta", 1.0)
        return np.zeros(self.outputs) + (0 if tensor is None else beta * tensor.numpy().astype(np.float64))

    @property
    def _factor(self) -> float:
        return self.node.attributes.get_float("alpha", 1.0)

    @property
    def _transposed(self) -> bool:
        return self.node.op_type == "Gemm" and bool(edit.int_attribute(self.node, "transB", 0))


def consumer_of(groups: Groups, sink: Sink, gone: Flags) -> Consumer | str:
    """Look at a sink; returns why it cannot be fitted, if it cannot."""
    node, value = sink.node, sink.weight
    tensor = edit.constant(value)
    if value is None:
        return "it adds channels up without weights"
    if tensor is None:
        return "its weight is no constant, or is moved before use (FoldConstants helps)"
    reason = _reason(node, value, tensor)
    if reason:
        return reason
    removed = groups.removed(sink.rows, gone)
    stays = ~removed.reshape(sink.groups, -1)
    if (stays[stays.any(1)] != stays.any(0)).any():
        return "its groups lose different channels"
    out_axis = 1 if node.op_type != "MatMul" else len(groups.engine.shape(node.outputs[0])) - 1
    outputs = groups.engine.shape(node.outputs[0])[out_axis]
    rows = groups.axes[node.outputs[0]][out_axis]
    return Consumer(
        node=node,
        value=value,
        weight=tensor.numpy().astype(np.float64),
        dtype=tensor.numpy().dtype,
        axis=sink.axis,
        groups=sink.groups,
        outputs=outputs,
        removed=removed,
        zeroed={a: np.asarray(gone[r].any(0)) for a, r in enumerate(groups.axes[value]) if r is not None},
        silent=np.zeros(outputs, bool) if rows is None else np.asarray(gone[rows].any(0)),
        biased=_can_be_biased(node),
        coverage=_coverage(groups, node),
    )


def _reason(node: ir.Node, value: ir.Value, tensor: ir.TensorProtocol) -> str:
    if not tensor.dtype.is_floating_point():
        return "its weight is quantized; prune before quantizing"
    if len(list(value.uses())) > 1:
        return f"its weight '{value.name}' is used more than once"
    if node.op_type == "MatMul" and len(tensor.shape) != 2:
        return "its weight is a stack of matrices"
    if node.op_type == "Gemm" and edit.int_attribute(node, "transA", 0):
        return "it transposes what it reads"
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return "it has no rule for this operator"
    return ""


def _can_be_biased(node: ir.Node) -> bool:
    """A bias that is computed cannot be added to."""
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    return node.op_type == "MatMul" or bias is None or edit.constant(bias) is not None


def _coverage(groups: Groups, node: ir.Node) -> Matrix:
    if node.op_type in ("Gemm", "MatMul"):
        return np.ones(())
    shapes = [groups.engine.shape(v)[2:] for v in (node.inputs[0], node.inputs[1], node.outputs[0]) if v is not None]
    return coverage(node, *shapes)
