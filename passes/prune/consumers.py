"""The operators that read channels through constant weights, seen as one thing: weights to mix, a bias to add."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.channels.engine import Sink
from onnxcompress.channels.groups import Groups
from onnxcompress.graph import edit

Matrix = npt.NDArray[np.float64]

LARGEST = 4608
"""Weights of one output channel that are fitted at once: 512 channels under a 3x3 kernel."""


@dataclasses.dataclass(frozen=True)
class Part:
    """One group of a grouped convolution (the whole of anything else): where it stands in data, weight and output."""

    data: slice
    weight: slice
    output: slice


@dataclasses.dataclass(frozen=True)
class Consumer:
    """An operator that sums over channels with a weight of its own.

    Attributes
    ----------
    node, value : onnx_ir.Node, onnx_ir.Value
        The operator and the constant that it multiplies by.
    weight : float64 array
        Its values.
    dtype : dtype
        What they are stored as.
    axis, in_axis : int
        The axis of the data, and of the weight, that is summed over.
    groups, outputs : int
        How many groups the channels are cut into, and how many output channels there are.
    removed : (inputs,) bool array
        Which positions of the data axis go.
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
    in_axis: int
    groups: int
    outputs: int
    removed: npt.NDArray[np.bool_]
    zeroed: dict[int, npt.NDArray[np.bool_]]
    silent: npt.NDArray[np.bool_]
    biased: bool
    coverage: Matrix

    def parts(self) -> Iterator[Part]:
        """The groups, one by one."""
        inputs, outputs = len(self.removed) // self.groups, self.outputs // self.groups
        for g in range(self.groups):
            data, output = slice(g * inputs, (g + 1) * inputs), slice(g * outputs, (g + 1) * outputs)
            whole = slice(0, len(self.weight))
            weight = whole if self.groups == 1 else data if self.in_axis == 0 else output
            yield Part(data, weight, output)

    def mixed(self, part: Part, kept: npt.NDArray[np.int64], mixing: Matrix) -> tuple[Matrix, Matrix]:
        """Return a part's weights after mixing, and what its output channels gain.

        Parameters
        ----------
        part : Part
        kept : int array
            The positions of the part's data that stay.
        mixing : (inputs, len(kept) + 1) array
            What each input is made of: the kept ones, and 1.
        """
        weight = self.weight[part.weight]
        moved = np.moveaxis(weight, self.in_axis, -1)
        new = np.zeros_like(moved)
        new[..., kept] = moved @ mixing[:, :-1]
        constant = moved @ mixing[:, -1]  # (outputs, kernel) in the order of the weight's other axes
        kernel = tuple(range(1, constant.ndim))
        addition = (constant * self.coverage).sum(axis=kernel)
        alpha = self.node.attributes["alpha"].as_float() if "alpha" in self.node.attributes else 1.0
        return np.moveaxis(new, -1, self.in_axis), alpha * addition

    @property
    def data(self) -> ir.Value:
        """What it reads."""
        data = self.node.inputs[0]
        assert data is not None
        return data

    @property
    def kernel(self) -> tuple[int, ...]:
        """The kernel's shape."""
        return self.weight.shape[2:]

    def refittable(self, kept: int) -> bool:
        """Tell whether all weights of a convolution can be fitted at once."""
        return self.node.op_type == "Conv" and self.biased and kept * math.prod(self.kernel) <= LARGEST

    def unrolled(self, part: Part, kept: npt.NDArray[np.int64]) -> Matrix:
        """Return a convolution's weights for the inputs that stay, and its bias, as a matrix (outputs, unknowns)."""
        weight = self.weight[part.weight][:, kept]
        tensor = edit.constant(self.node.inputs[2]) if len(self.node.inputs) > 2 else None
        bias = np.zeros(self.outputs) if tensor is None else tensor.numpy().astype(np.float64)
        return np.concatenate([weight.reshape(len(weight), -1), bias[part.output, None]], 1)

    def rolled(self, part: Part, kept: npt.NDArray[np.int64], matrix: Matrix) -> tuple[Matrix, Matrix]:
        """Return the weights that `unrolled` would make `matrix` of, and what the bias has gained."""
        weight = np.zeros_like(self.weight[part.weight])
        weight[:, kept] = matrix[:, :-1].reshape(len(matrix), len(kept), *self.kernel)
        return weight, matrix[:, -1] - self.unrolled(part, kept)[:, -1]

    def masked(self, weight: Matrix) -> Matrix:
        """Return the weight with zeros where channels go."""
        for axis, where in self.zeroed.items():
            weight[(slice(None),) * axis + (where,)] = 0
        return weight


def consumer_of(
    groups: Groups, sink: Sink, removed: npt.NDArray[np.bool_], gone: npt.NDArray[np.bool_]
) -> Consumer | str:
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
    out_axis = 1 if node.op_type != "MatMul" else len(groups.engine.shape(node.outputs[0])) - 1
    outputs = groups.engine.shape(node.outputs[0])[out_axis]
    axes = groups.axes[value]
    zeroed = {axis: np.asarray(gone[rows].any(0)) for axis, rows in enumerate(axes) if rows is not None}
    rows = groups.axes[node.outputs[0]][out_axis]
    return Consumer(
        node=node,
        value=value,
        weight=tensor.numpy().astype(np.float64),
        dtype=tensor.numpy().dtype,
        axis=sink.axis,
        in_axis=sink.in_axis,
        groups=sink.groups,
        outputs=outputs,
        removed=removed,
        zeroed=zeroed,
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
    """Return, for each position of the kernel, over what share of the output it meets data."""
    if node.op_type in ("Gemm", "MatMul"):
        return np.ones(())
    data, weight = node.inputs[0], node.inputs[1]
    assert data is not None and weight is not None
    sizes, kernel = groups.engine.shape(data)[2:], groups.engine.shape(weight)[2:]
    if node.op_type == "ConvTranspose":
        out = groups.engine.shape(node.outputs[0])[2:]
        return np.full(kernel, math.prod(sizes) / max(math.prod(out), 1))
    shares = np.ones(())
    for axis, (size, extent) in enumerate(zip(sizes, kernel, strict=True)):
        shares = np.multiply.outer(shares, _along(node, axis, len(kernel), size, extent))
    return shares


def _along(node: ir.Node, axis: int, rank: int, size: int, extent: int) -> Matrix:
    """The shares along one axis of a convolution."""
    stride, dilation, before, after = _window(node, axis, rank, size, extent)
    span = dilation * (extent - 1) + 1
    starts = np.arange(max((size + before + after - span) // stride + 1, 1)) * stride - before
    reads = starts[:, None] + np.arange(extent) * dilation
    return np.asarray(((reads >= 0) & (reads < size)).mean(0), np.float64)


def _window(node: ir.Node, axis: int, rank: int, size: int, extent: int) -> tuple[int, int, int, int]:
    """Return stride, dilation and the padding before and after, along one axis of a convolution."""
    stride = (edit.ints_attribute(node, "strides") or (1,) * rank)[axis]
    dilation = (edit.ints_attribute(node, "dilations") or (1,) * rank)[axis]
    auto = node.attributes["auto_pad"].as_string() if "auto_pad" in node.attributes else "NOTSET"
    if auto.startswith("SAME"):
        total = max((-(-size // stride) - 1) * stride + dilation * (extent - 1) + 1 - size, 0)
        before = total // 2 if auto == "SAME_UPPER" else total - total // 2
        return stride, dilation, before, total - before
    pads = edit.ints_attribute(node, "pads") if auto == "NOTSET" else None
    pads = pads or (0,) * (2 * rank)
    return stride, dilation, pads[axis], pads[axis + rank]


def patches(node: ir.Node, array: npt.NDArray[Any], kernel: tuple[int, ...]) -> npt.NDArray[Any]:
    """Return one row for each output position of a convolution: what its kernel covers, channel by channel.

    Parameters
    ----------
    node : onnx_ir.Node
        The Conv; its strides, dilations and padding count.
    array : (samples, channels, …) array
    kernel : tuple of int

    Returns
    -------
    (samples · positions, channels · kernel) array
    """
    rank = len(kernel)
    windows = [_window(node, a, rank, array.shape[a + 2], extent) for a, extent in enumerate(kernel)]
    padded = np.pad(array, [(0, 0), (0, 0), *((before, after) for _, _, before, after in windows)])
    spans = tuple(w[1] * (extent - 1) + 1 for w, extent in zip(windows, kernel, strict=True))
    view = np.lib.stride_tricks.sliding_window_view(padded, spans, tuple(range(2, rank + 2)))
    steps = tuple(slice(None, None, w[0]) for w in windows)
    taps = tuple(slice(None, None, w[1]) for w in windows)
    window = (slice(None), slice(None), *steps, *taps)
    view = view[window]
    view = np.moveaxis(view, 1, rank + 1)
    return view.reshape(math.prod(view.shape[: rank + 1]), -1)
