"""What the time of a layer depends on beside its widths."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import onnx_ir as ir

from ..channels.groups import Groups
from ..channels.widths import Width, Widths
from ..graph import edit
from ..graph.layer import Layer

Shape = tuple[int, ...]

FOLLOWING = ("kernel_shape", "group", "alpha", "beta")
"""Attributes of a node that follow from the rest, or make no difference."""


@dataclass(frozen=True)
class Signature:
    """A layer without its widths.

    Attributes
    ----------
    op : str
        A convolution, or a matrix product.
    data : tuple of int
        The shape of what it reads, with 0 for the channels.
    kernel : tuple of int
    attributes : tuple of (str, value)
    parts : int
        How many groups a convolution has; 0 where it has as many as channels.
    output_first : bool
        The first axis of its weight makes output channels, and the second is summed over; else the other way round.
    """

    op: str
    data: Shape
    kernel: Shape = ()
    attributes: tuple[tuple[str, tuple[int, ...] | int | str], ...] = ()
    parts: int = 1
    output_first: bool = True

    def __str__(self) -> str:
        """Return the key in a table."""
        words = [self.op, "x".join(str(size or "C") for size in self.data)]
        words += ["kernel=" + "x".join(map(str, self.kernel))] if self.kernel else []
        words += [f"{name}={_word(value)}" for name, value in self.attributes]
        words += [f"groups={self.parts or 'C'}"] if self.parts != 1 else []
        return " ".join(words)

    def macs(self, inputs: int, outputs: int) -> float:
        """Return about how much it multiplies, strides aside: to tell what is worth measuring."""
        return prod(size or 1 for size in self.data) * (prod(self.kernel) or 1) * self._inside(inputs) * outputs

    def weight_shape(self, inputs: int, outputs: int) -> Shape:
        """Return the shape of its weight at these widths."""
        parts = self.parts or inputs
        sizes = (outputs, inputs // parts) if self.output_first else (inputs, outputs // parts)
        return (*sizes, *self.kernel)

    def _inside(self, inputs: int) -> float:
        return 1 if self.parts == 0 else inputs / self.parts


def _word(value: tuple[int, ...] | int | str) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


@dataclass(frozen=True)
class Site:
    """A layer of a model, and how wide it is.

    Attributes
    ----------
    node : onnx_ir.Node
    signature : Signature
    inputs, outputs : Width
    """

    node: ir.Node
    signature: Signature
    inputs: Width
    outputs: Width


def find_sites(groups: Groups, widths: Widths, shapes: dict[ir.Value, Shape]) -> list[Site]:
    """Return the layers of the main graph that can be timed alone: those with a constant float32 weight."""
    found = (_site(node, widths, shapes) for node in groups.engine.model.graph)
    return [site for site in found if site is not None]


def _site(node: ir.Node, widths: Widths, shapes: dict[ir.Value, Shape]) -> Site | None:
    layer = Layer.of(node)
    weight = None if layer is None or node.domain else edit.constant(layer.value)
    if layer is None or weight is None or weight.dtype != ir.DataType.FLOAT:
        return None
    data, out, rank = shapes.get(layer.data), shapes.get(node.outputs[0]), len(weight.shape)
    if data is None or out is None or 0 in (*data, *out) or len(data) < 2:
        return None
    if not (
        len(data) == rank > 2 if layer.is_convolution else rank == 2 and layer.index and not layer.transposes_input
    ):
        return None
    axis, out_axis = layer.data_axis(len(data)), layer.channel_axis(len(out))
    parts = 0 if 1 < layer.groups == data[axis] else layer.groups
    shape = (*data[:axis], 0, *data[axis + 1 :])
    signature = Signature(layer.op, shape, layer.kernel, _attributes(node), parts, layer.axes.output == 0)
    inputs, outputs = (layer.data, axis, data[axis]), (node.outputs[0], out_axis, out[out_axis])
    return Site(node, signature, widths.of(*inputs), widths.of(*outputs))


def _attributes(node: ir.Node) -> tuple[tuple[str, tuple[int, ...] | int | str], ...]:
    found = []
    for name, attribute in sorted(node.attributes.items()):
        value = attribute.value
        if name not in FOLLOWING and isinstance(value, (int, str, list, tuple)):
            found.append((name, tuple(value) if isinstance(value, (list, tuple)) else value))
    return tuple(found)
