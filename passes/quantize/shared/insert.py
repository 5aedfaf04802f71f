"""Adding constants and nodes under free names, many at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.graph import edit


class Inserter(edit.Inserter):
    """Adds constants, QuantizeLinear and DequantizeLinear to one graph.

    What reads constants only, and what reads a graph input, stands at the start of the graph. Constants of an inner
    graph go to the outermost one, `home`, where several inner graphs may share them.
    """

    def __init__(self, graph: ir.Graph, names: edit.Names | None = None, home: ir.Graph | None = None) -> None:
        super().__init__(graph, names)
        self._first = next(iter(graph), None)
        self._home = edit.Inserter(home or graph, self.names)

    @property
    def home(self) -> ir.Graph:
        """The graph that constants go to."""
        return self._home.graph

    def constant(self, name: str, array: npt.NDArray[Any]) -> ir.Value:
        """Add an initializer."""
        return super().constant(name, array) if self._home.graph is self.graph else self._home.constant(name, array)

    def add(
        self,
        op_type: str,
        inputs: Sequence[ir.Value],
        name: str,
        *,
        axis: int | None = None,
        after: ir.Node | None = None,
    ) -> ir.Value:
        """Add a node; it and its output are called `name`.

        The output's type is left for inference: written down for every one, types take a tenth of a small model.
        """
        attributes = {} if axis is None else {"axis": axis}
        node = ir.node(op_type, list(inputs), attributes, name=self.names.node(name))
        node.outputs[0].name = self.names.value(name)
        if after is not None:
            self.graph.insert_after(after, node)
        elif self._first is not None:
            self.graph.insert_before(self._first, node)
        else:
            self.graph.append(node)
        return node.outputs[0]

    def dequantized(
        self,
        name: str,
        integers: npt.NDArray[Any],
        scale: npt.NDArray[np.float32],
        zero_point: npt.NDArray[Any] | None = None,
        axis: int | None = None,
    ) -> ir.Value:
        """Add integers as an initializer, with a DequantizeLinear that reads it; see `stored`."""
        inputs = self.stored(name, integers, scale, zero_point, axis)
        return self.add("DequantizeLinear", inputs, f"{name}_dequantized", axis=axis)

    def stored(
        self,
        name: str,
        integers: npt.NDArray[Any],
        scale: npt.NDArray[np.float32],
        zero_point: npt.NDArray[Any] | None = None,
        axis: int | None = None,
    ) -> list[ir.Value]:
        """Add what a DequantizeLinear reads as initializers.

        `scale` and `zero_point` (None: 0) have one value, or one for each index of `axis`.
        """
        shape: tuple[int, ...] = () if axis is None else (-1,)
        inputs = [
            self.constant(f"{name}_quantized", integers),
            self.constant(f"{name}_scale", scale.reshape(shape)),
        ]
        if zero_point is not None:
            inputs.append(self.constant(f"{name}_zero_point", zero_point.reshape(shape)))
        return inputs


def bypass(node: ir.Node, kept: ir.Value) -> None:
    """Remove a node; who read its output reads its input `kept`, which takes over the name."""
    output = node.outputs[0]
    name, graph = output.name, node.graph
    assert isinstance(graph, ir.Graph)
    for user, index in list(output.uses()):
        user.replace_input_with(index, kept)
    for position, value in enumerate(graph.outputs):
        if value is output:
            kept.shape, kept.type = output.shape, output.type
            graph.outputs[position] = kept
    graph.remove(node, safe=True)
    output.name = None
    kept.name = name
