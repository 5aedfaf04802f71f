"""Puts two thin operators in the place of one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxcompress.graph import edit
from onnxcompress.graph.layer import Layer
from onnxcompress.graph.windows import OF_THE_WINDOW


@dataclass(frozen=True)
class Factors:
    """A weight of outputs by columns as ``second @ first``.

    Attributes
    ----------
    first : (rank, columns) float32 array
    second : (outputs, rank) float32 array
    error : float
        The share of the square of the layer's output that is lost.
    """

    first: npt.NDArray[np.float32]
    second: npt.NDArray[np.float32]
    error: float


def factorised(insert: edit.Inserter, layer: Layer, factors: Factors) -> tuple[int, int]:
    """Let a layer read the first factor's output and multiply by the second; returns the weights before and after."""
    node, value, stored = layer.node, layer.value, layer.stored
    rank, before = len(factors.first), stored.size
    first = factors.first.astype(stored.dtype)
    if layer.is_convolution:
        first = first.reshape(rank, layer.shape[1], *layer.kernel)
        second = factors.second.reshape(*factors.second.shape, *(1 for _ in layer.kernel))
        attributes = {name: node.attributes[name].value for name in OF_THE_WINDOW if name in node.attributes}
    else:
        first, attributes = first.T, {}
        second = factors.second if layer.axes.output == 0 else factors.second.T
    constant = insert.constant(f"{value.name}_first", first)
    op, data = ("Conv" if layer.is_convolution else "MatMul"), layer.data
    name = f"{node.name or value.name}_first"
    thin = insert.node(op, [data, constant], name, attributes=attributes, before=node, dtype=data.dtype)
    for name in attributes:
        node.attributes.pop(name)
    node.replace_input_with(list(node.inputs).index(data), thin)
    edit.set_constant(value, np.ascontiguousarray(second.astype(stored.dtype)))
    return before, first.size + second.size
