"""The layers that read channels of which some go, and what of them stays."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.channels.engine import Sink
from onnxcompress.channels.groups import Groups
from onnxcompress.graph import edit
from onnxcompress.graph.layer import Layer
from onnxcompress.graph.windows import coverage

Matrix = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

LARGEST = 4608
"""Weights of one output channel that are fitted at once: 512 channels under a 3x3 kernel."""


@dataclasses.dataclass(frozen=True)
class Consumer:
    """A layer with a weight of its own that reads channels, and what of them goes.

    Attributes
    ----------
    layer : Layer
    axis : int
        The axis of the data that is summed over.
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

    layer: Layer
    axis: int
    removed: Flags
    zeroed: dict[int, Flags]
    silent: Flags
    biased: bool
    coverage: Matrix

    @property
    def node(self) -> ir.Node:
        """The operator."""
        return self.layer.node

    @property
    def data(self) -> ir.Value:
        """What it reads."""
        return self.layer.data

    @property
    def groups(self) -> int:
        """How many groups the channels are cut into."""
        return self.layer.groups

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
        return self.layer.op != "ConvTranspose" and len(self.kept) * math.prod(self.layer.kernel) <= LARGEST

    def blocks(self) -> Matrix:
        """Return the weights as (groups, outputs of each, inputs of each, positions of the kernel)."""
        found = self.layer.blocks(self.layer.weight)
        return found.reshape(*found.shape[:2], -1, math.prod(self.layer.kernel))

    def bias(self) -> Matrix:
        """Return the bias that the operator has itself as (groups, outputs of each); zeros where it is computed."""
        found = self.layer.bias if self.biased else np.zeros(self.layer.outputs)
        return found.reshape(self.groups, -1)

    def masked(self, blocks: Matrix) -> Matrix:
        """Undo `blocks`, and put zeros where channels go."""
        weight = np.array(self.layer.whole(blocks.reshape(*blocks.shape[:2], -1))) / self.layer.alpha
        for axis, where in self.zeroed.items():
            weight[(slice(None),) * axis + (where,)] = 0
        return weight


def consumer_of(groups: Groups, sink: Sink, gone: Flags) -> Consumer | str:
    """Look at a sink; returns why it cannot be fitted, if it cannot."""
    node, value, layer = sink.node, sink.weight, Layer.of(sink.node)
    tensor = edit.constant(value)
    if value is None:
        return "it adds channels up without weights"
    if tensor is None:
        return "its weight is no constant, or is moved before use (FoldConstants helps)"
    if layer is None:
        return "it has no rule for this operator"
    reason = _reason(layer, value, tensor)
    if reason:
        return reason
    removed = groups.removed(sink.rows, gone)
    stays = ~removed.reshape(sink.groups, -1)
    if (stays[stays.any(1)] != stays.any(0)).any():
        return "its groups lose different channels"
    out_axis = layer.channel_axis(len(groups.engine.shape(node.outputs[0])))
    outputs = groups.engine.shape(node.outputs[0])[out_axis]
    rows = groups.axes[node.outputs[0]][out_axis]
    return Consumer(
        layer=layer,
        axis=sink.axis,
        removed=removed,
        zeroed={a: np.asarray(gone[r].any(0)) for a, r in enumerate(groups.axes[value]) if r is not None},
        silent=np.zeros(outputs, bool) if rows is None else np.asarray(gone[rows].any(0)),
        biased=layer.bias_value is None or edit.constant(layer.bias_value) is not None,
        coverage=_coverage(groups, layer),
    )


def _reason(layer: Layer, value: ir.Value, tensor: ir.TensorProtocol) -> str:
    if not tensor.dtype.is_floating_point():
        return "its weight is quantized; prune before quantizing"
    if len(list(value.uses())) > 1:
        return f"its weight '{value.name}' is used more than once"
    if layer.is_stack:
        return "its weight is a stack of matrices"
    return "it transposes what it reads" if layer.transposes_input else ""


def _coverage(groups: Groups, layer: Layer) -> Matrix:
    if not layer.is_convolution:
        return np.ones(())
    given = (layer.data, layer.value, layer.node.outputs[0])
    return coverage(layer.node, *(groups.engine.shape(v)[2:] for v in given if v is not None))
