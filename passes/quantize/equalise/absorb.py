"""Biases so high that a Relu never acts: what is always there is added behind it instead."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.graph import edit, operators
from onnxcompress.graph.layer import Layer
from onnxcompress.graph.windows import differs_at_borders

from .isolate import direct

BIASED = [op for op in operators.on_integers("layer") if op in operators.BIASED]

MARGIN = 0.1
"""The share of a channel's range that stays between the smallest value of the samples and 0."""


def find_relus(model: ir.Model) -> dict[ir.Node, list[ir.Node]]:
    """Return each Relu between weights with biases, with what reads it.

    A reader that pads with zeros is out of the question: the padding would have to be something else.
    """
    found = {}
    for node in model.graph:
        data = node.inputs[0] if edit.op_of(node) == "Relu" else None
        maker = data.producer() if data is not None else None
        if data is None or maker is None or not _takes_bias(maker) or len(data.uses()) > 1 or data.is_graph_output():
            continue
        out = node.outputs[0]
        readers = [use.node for use in out.uses()]
        whole = all(_takes_bias(r) and not differs_at_borders(r) and r.inputs[0] is out for r in readers)
        if readers and whole and not out.is_graph_output():
            found[node] = readers
    return found


def _takes_bias(node: ir.Node) -> bool:
    layer = Layer.of(node, among=BIASED)
    if layer is None or not direct(layer.value) or layer.transposes_input:
        return False
    tensor = edit.constant(layer.bias_value)
    return layer.bias_value is None or (tensor is not None and len(tensor.shape) == 1 and layer.beta == 1)


def surplus(low: npt.NDArray[np.float64], high: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return what can be taken from each channel, so that none of the samples comes to 0; shape (channels,)."""
    room = low - MARGIN * (high - low)
    return np.where(np.isfinite(room) & (room > 0), room, 0.0)


def sums(node: ir.Node, shift: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return what a weight makes of a constant input: float64, (channels,) → (output channels,)."""
    layer = Layer(node)
    return np.asarray(layer.blocks(layer.scaled_inputs(shift)).sum(-1).ravel())
