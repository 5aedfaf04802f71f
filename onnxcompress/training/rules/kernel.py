"""The gradient of a convolution by its kernel."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

from ...graph.layer import Layer
from ...graph.windows import window
from .step import Step
from .tape import Tensor, product

FEW_CHANNELS = 8
MANY_TAPS = 64
"""Measured: a cell of the kernel at a time costs more than a convolution beyond these."""


class Geometry:
    """Strides, dilations and padding of a convolution, an entry for each spatial axis."""

    def __init__(self, step: Step) -> None:
        weight, data = step.dims(step.input(1)) or (), step.dims(step.x) or ()
        self.kernel = [int(extent) for extent in weight[2:]]  # type: ignore[arg-type]
        self.channels = (weight[0], weight[1])
        self.groups = Layer(step.node).groups
        self.sizes = data[2:]
        rank = len(self.kernel)
        sizes = [size if isinstance(size, int) else 0 for size in self.sizes]
        windows = [window(step.node, axis, rank, sizes[axis], self.kernel[axis]) for axis in range(rank)]
        self.strides, self.dilations, self.before, self.after = ([w[i] for w in windows] for i in range(4))
        self.spans = [d * (k - 1) + 1 for d, k in zip(self.dilations, self.kernel, strict=True)]

    def unread(self) -> list[int] | None:
        """Return how much of the end of each axis no window reads, None where the size is not known."""
        if not all(isinstance(size, int) for size in self.sizes):
            return None
        whole = [int(s) + b + a for s, b, a in zip(self.sizes, self.before, self.after, strict=True)]  # type: ignore[arg-type]
        return [(w - span) % stride for w, span, stride in zip(whole, self.spans, self.strides, strict=True)]


def weight_gradient(geometry: Geometry, data: Tensor, gradient: Tensor, weight: Tensor) -> Tensor:
    """Return the gradient by the weight of a convolution of `data`, from the gradient of its result.

    On paper that is a convolution of data and gradient; with a product for each cell of a kernel that has few of them
    it is two to ten times as fast.
    """
    read = int(geometry.channels[1])  # type: ignore[arg-type]
    strided = set(geometry.strides) != {1}
    if math.prod(geometry.kernel) > MANY_TAPS or (strided and geometry.groups == 1 and read < FEW_CHANNELS):
        return _as_convolution(geometry, data, gradient)
    depthwise = read == 1 and geometry.channels[0] == geometry.groups
    return (_by_channels if depthwise else _by_samples)(geometry, data, gradient).reshape_like(weight)


def _by_samples(geometry: Geometry, data: Tensor, gradient: Tensor) -> Tensor:
    """Multiply channels with channels, sample by sample."""
    made, read = (int(extent) for extent in geometry.channels)  # type: ignore[arg-type]
    groups = geometry.groups
    rows = gradient.reshape([0, groups, made // groups, -1])
    products = [
        product(cell.reshape([0, groups, read, -1]), rows, transpose_b=True).sum([0])
        for cell in _cells(geometry, data, gradient)
    ]
    return data.tape.op("Concat", *products, axis=0).transpose(1, 3, 2, 0)


def _by_channels(geometry: Geometry, data: Tensor, gradient: Tensor) -> Tensor:
    """Multiply each channel with itself, over all samples at once."""
    order = (1, 0, *range(2, len(geometry.kernel) + 2))
    data, gradient = data.transpose(*order), gradient.transpose(*order)
    rows = gradient.reshape([0, 1, -1])
    products = [product(cell.reshape([0, 1, -1]), rows, transpose_b=True) for cell in _cells(geometry, data, gradient)]
    return data.tape.op("Concat", *products, axis=1)


def _cells(geometry: Geometry, data: Tensor, gradient: Tensor) -> Iterator[Tensor]:
    """Go through the cells of the kernel: what of the data each one is multiplied with."""
    tape, rank = data.tape, len(geometry.kernel)
    if any([*geometry.before, *geometry.after]):
        data = tape.op("Pad", data, tape.ints(0, 0, *geometry.before, 0, 0, *geometry.after))
    strides, axes = tape.ints(*geometry.strides), tape.ints(*range(2, rank + 2))
    one = tape.ints(1)
    reach = (tape.op("Shape", gradient, start=2) - one) * strides + one
    for cell in itertools.product(*map(range, geometry.kernel)):
        start = tape.ints(*(place * dilation for place, dilation in zip(cell, geometry.dilations, strict=True)))
        yield tape.op("Slice", data, start, start + reach, axes, strides)


def _as_convolution(geometry: Geometry, data: Tensor, gradient: Tensor) -> Tensor:
    """Convolve the data with the gradient as kernel: samples take the place of channels."""
    tape, rank, groups = data.tape, len(geometry.kernel), geometry.groups
    space = list(range(2, rank + 2))
    if groups > 1:
        read = int(geometry.channels[1])  # type: ignore[arg-type]
        shape = tape.op("Concat", tape.ints(-1, groups, read), tape.op("Shape", data, start=2), axis=0)
        split = data.reshape(shape).transpose(2, 1, 0, *(axis + 1 for axis in space))
        shape = tape.op("Concat", tape.ints(read, -1), tape.op("Shape", data, start=2), axis=0)
        data = split.reshape(shape)
    else:
        data = data.transpose(1, 0, *space)
    found = tape.op(
        "Conv",
        data,
        gradient.transpose(1, 0, *space),
        strides=geometry.dilations,
        dilations=geometry.strides,
        pads=[*geometry.before, *geometry.after],
        group=groups,
    )
    ends = tape.ints(*geometry.kernel)
    cut = tape.op("Slice", found, tape.ints(*[0] * rank), ends, tape.ints(*space))
    return cut.transpose(1, 0, *space)
