"""What a convolution's kernel covers: where its window starts, how much of it meets padding, and the patches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from . import edit

Matrix = npt.NDArray[np.float64]
Extents = tuple[int, ...]

OF_THE_WINDOW = ("auto_pad", "dilations", "kernel_shape", "pads", "strides")
"""The attributes that say where a convolution looks."""


def coverage(node: ir.Node, data: Extents, kernel: Extents, output: Extents) -> Matrix:
    """Return, for each position of the kernel, over what share of the output it meets data.

    Parameters
    ----------
    node : onnx_ir.Node
        A Conv or ConvTranspose.
    data, kernel, output : tuple of int
        Spatial extents.
    """
    if node.op_type == "ConvTranspose":
        return np.full(kernel, math.prod(data) / max(math.prod(output), 1))
    shares = np.ones(())
    for axis, (size, extent) in enumerate(zip(data, kernel, strict=True)):
        shares = np.multiply.outer(shares, _along(node, axis, len(kernel), size, extent))
    return shares


def positions(node: ir.Node, data: Extents, kernel: Extents) -> Extents:
    """Return the spatial extents of what a Conv makes of `data`, by its strides, dilations and padding."""
    found = []
    for axis, (size, extent) in enumerate(zip(data, kernel, strict=True)):
        stride, dilation, before, after = window(node, axis, len(kernel), size, extent)
        found.append((size + before + after - dilation * (extent - 1) - 1) // stride + 1)
    return tuple(found)


def _along(node: ir.Node, axis: int, rank: int, size: int, extent: int) -> Matrix:
    """The shares along one axis of a convolution."""
    stride, dilation, before, after = window(node, axis, rank, size, extent)
    span = dilation * (extent - 1) + 1
    starts = np.arange(max((size + before + after - span) // stride + 1, 1)) * stride - before
    reads = starts[:, None] + np.arange(extent) * dilation
    return np.asarray(((reads >= 0) & (reads < size)).mean(0), np.float64)


def window(node: ir.Node, axis: int, rank: int, size: int, extent: int) -> tuple[int, int, int, int]:
    """Return stride, dilation and the padding before and after, along one axis of a convolution or pooling."""
    stride = (edit.ints_attribute(node, "strides") or (1,) * rank)[axis]
    dilation = (edit.ints_attribute(node, "dilations") or (1,) * rank)[axis]
    auto = _auto_pad(node)
    if auto.startswith("SAME"):
        total = max((-(-size // stride) - 1) * stride + dilation * (extent - 1) + 1 - size, 0)
        before = total // 2 if auto == "SAME_UPPER" else total - total // 2
        return stride, dilation, before, total - before
    pads = written_pads(node)
    return stride, dilation, *((pads[axis], pads[axis + rank]) if pads else (0, 0))


def says_its_size(node: ir.Node) -> bool:
    """Tell whether a ConvTranspose says how large its result is: the padding follows from that."""
    return "output_shape" in node.attributes or asks_for_same(node)


def output_padding(node: ir.Node, rank: int) -> tuple[int, ...]:
    """Return how much a ConvTranspose adds behind its result."""
    return edit.ints_attribute(node, "output_padding") or (0,) * rank


def padding_before(node: ir.Node, axis: int, rank: int, surplus: int) -> int:
    """Return the padding before of a ConvTranspose that says its size, half of what would be too much."""
    total = max(surplus + output_padding(node, rank)[axis], 0)
    return total // 2 if _auto_pad(node) == "SAME_UPPER" else total - total // 2


def _auto_pad(node: ir.Node) -> str:
    return node.attributes.get_string("auto_pad", "NOTSET")


def written_pads(node: ir.Node) -> tuple[int, ...]:
    """Return the padding that a node states: all that is before, all that is behind; () where it states none."""
    return (edit.ints_attribute(node, "pads") or ()) if _auto_pad(node) == "NOTSET" else ()


def asks_for_same(node: ir.Node) -> bool:
    """Tell whether a node asks for as much padding as leaves the extents, divided by the strides, as they are."""
    return _auto_pad(node).startswith("SAME")


def differs_at_borders(node: ir.Node) -> bool:
    """Tell whether outputs at the borders may see less of the input than others: padding, or any ConvTranspose."""
    return edit.op_of(node) == "ConvTranspose" or asks_for_same(node) or any(written_pads(node))


def pads_of(node: ir.Node, data: Sequence[int] | None, kernel: Extents) -> list[int] | None:
    """Return the padding, all that is before and then all that is behind; None where it needs to know `data`.

    Parameters
    ----------
    node : onnx_ir.Node
    data : sequence of int, optional
        Spatial extents of what it reads, where they are known.
    kernel : tuple of int
    """
    rank = len(kernel)
    depends = asks_for_same(node) and set(edit.ints_attribute(node, "strides") or (1,)) != {1}
    sizes = data if depends else (0,) * rank  # with a stride of 1 the padding is the same for any extent
    if not rank or sizes is None or len(sizes) != rank:
        return None
    padding = [window(node, axis, rank, sizes[axis], kernel[axis])[2:] for axis in range(rank)]
    return [before for before, _ in padding] + [after for _, after in padding]


def patches(
    node: ir.Node,
    array: npt.NDArray[Any],
    kernel: Extents,
    at: npt.NDArray[np.int64] | None = None,
    *,
    outside: float = 0,
) -> npt.NDArray[Any]:
    """Return what the kernel of a convolution covers, for output positions of each sample.

    Parameters
    ----------
    node : onnx_ir.Node
        The Conv; its strides, dilations and padding count.
    array : (samples, channels, …) array
    kernel : tuple of int
    at : (samples, n) int array, optional
        Which positions, numbered in row-major order; all by default.
    outside : number
        What stands where the padding is.

    Returns
    -------
    (samples · n, channels, positions of the kernel) array
    """
    rank = len(kernel)
    windows = [window(node, a, rank, array.shape[a + 2], extent) for a, extent in enumerate(kernel)]
    around = [(0, 0), (0, 0), *((before, after) for _, _, before, after in windows)]
    padded = np.pad(array, around, constant_values=outside) if np.any(around) else array
    spans = tuple(w[1] * (extent - 1) + 1 for w, extent in zip(windows, kernel, strict=True))
    view = np.lib.stride_tricks.sliding_window_view(padded, spans, tuple(range(2, rank + 2)))
    steps = tuple(slice(None, None, w[0]) for w in windows)
    taps = tuple(slice(None, None, w[1]) for w in windows)
    picked = (slice(None), slice(None), *steps, *taps)
    view = view[picked]
    view = np.moveaxis(view, 1, rank + 1)
    if at is not None:
        where = (np.arange(len(view))[:, None], *np.unravel_index(at, view.shape[1 : rank + 1]))
        view = view[where]
    return view.reshape(-1, array.shape[1], math.prod(kernel))
