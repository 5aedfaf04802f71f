"""Biases so high that a Relu never acts: what is always there is added behind it instead."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.graph import edit

from .isolate import direct

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
        whole = all(_takes_bias(r) and not _pads(r) and r.inputs[0] is out for r in readers)
        if readers and whole and not out.is_graph_output():
            found[node] = readers
    return found


def _takes_bias(node: ir.Node) -> bool:
    op = edit.op_of(node)
    if op not in ("Conv", "Gemm") or not direct(node.inputs[1]) or edit.int_attribute(node, "transA", 0):
        return False
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is None:
        return True
    tensor = edit.constant(bias)
    return tensor is not None and len(tensor.shape) == 1 and node.attributes.get_float("beta", 1.0) == 1


def _pads(node: ir.Node) -> bool:
    auto = node.attributes.get_string("auto_pad", "NOTSET")
    return auto.startswith("SAME") or any(edit.ints_attribute(node, "pads") or ())


def surplus(low: npt.NDArray[np.float64], high: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return what can be taken from each channel, so that none of the samples comes to 0; shape (channels,)."""
    room = low - MARGIN * (high - low)
    return np.where(np.isfinite(room) & (room > 0), room, 0.0)


def sums(node: ir.Node, shift: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return what a weight makes of a constant input: float64, (channels,) → (output channels,)."""
    array = edit.array(node.inputs[1]).astype(np.float64)
    if node.op_type == "Gemm":
        array = array if edit.int_attribute(node, "transB", 0) else array.T
        return np.asarray(array @ shift * node.attributes.get_float("alpha", 1.0))
    outputs, inputs = array.shape[:2]
    groups = len(shift) // inputs
    each = np.repeat(shift.reshape(groups, inputs), outputs // groups, axis=0)
    return np.asarray((array.reshape(outputs, inputs, -1).sum(-1) * each).sum(1))
