"""Prepare a copy for the group engine in which only what must be scaled alike is tied together."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxcompress.channels.norms import NORMS
from onnxcompress.graph import edit
from onnxcompress.graph.layer import Layer


def direct(value: ir.Value | None) -> bool:
    """Tell whether a value is a constant that no other node reads."""
    return value is not None and edit.constant(value) is not None and len(value.uses()) == 1


def gamma(node: ir.Node) -> int | None:
    """Return which input multiplies the last axis of the other by a constant for each position, if one does."""
    if edit.op_of(node) != "Mul":
        return None
    for index, value in enumerate(node.inputs):
        array, data = edit.constant(value), node.inputs[1 - index]
        if array is None or data is None or data.shape is None or edit.constant(data) is not None:
            continue
        last = data.shape[-1] if len(data.shape) > 1 else 1
        if len(array.shape) and array.shape[-1] == array.size == last != 1 and len(array.shape) <= len(data.shape):
            return index
    return None


CHANNEL_AXES = {"BatchNormalization": 1, **dict.fromkeys(NORMS, -1)}
"""Normalisations that end with a factor for each position of an axis: a weight that mixes nothing."""


def scale_of(node: ir.Node) -> int:
    """Return the input of a normalisation that holds its factors."""
    known = NORMS.get(edit.op_of(node))
    return 1 if known is None else known.scale


def is_normalisation(node: ir.Node) -> bool:
    """Tell whether a node normalises and then multiplies each channel by a constant of its own."""
    if edit.op_of(node) not in CHANNEL_AXES or edit.int_attribute(node, "axis", -1) != -1:
        return False
    known, data = NORMS.get(edit.op_of(node)), node.inputs[0]
    constant = all(edit.constant(v) is not None for v in node.inputs[scale_of(node) :] if v is not None)
    total = None if known is None else known.sum_of(node)
    alone = not any(v is not total and (v.uses() or v.is_graph_output()) for v in node.outputs[1:])
    typed = data is not None and data.shape is not None
    return typed and constant and alone and not edit.int_attribute(node, "training_mode", 0)


def gated(node: ir.Node) -> int | None:
    """Return which of two computed operands of a product of one shape may be scaled: the one a weight gives, if any."""
    if edit.op_of(node) != "Mul" or any(v is None or edit.constant(v) is not None for v in node.inputs):
        return None
    a, b = node.inputs
    if a is b or a is None or b is None or a.shape is None or b.shape is None or list(a.shape) != list(b.shape):
        return None
    made = [index for index, v in enumerate((a, b)) if Layer.of(v.producer()) is not None and len(v.uses()) == 1]
    return made[-1] if made else None


def isolate(copy: ir.Model) -> None:
    """Let grouped convolutions, and the factors of normalisations, mix all channels.

    What they read and what they give can be scaled each by its own factors; in the group engine's view they are one.
    """
    insert = edit.Inserter(copy.graph)
    for node in list(copy.graph):
        layer = Layer.of(node, among=["Conv"])
        if layer is not None and layer.groups > 1 and edit.constant(layer.value) is not None:
            whole = _zeros(insert, (layer.outputs, layer.inputs, *layer.kernel))
            node.replace_input_with(layer.index, whole)
            layer.set_groups(1)
        elif is_normalisation(node):
            known = NORMS.get(edit.op_of(node))
            total = None if known is None else known.sum_of(node)
            if known is not None and total is not None:
                _sum(insert, node, known.summands(node), total)
            _mix(insert, node, 0, scale_of(node))
        elif (index := gated(node)) is not None:
            edit.take_over(node, [insert.node("Identity", [node.inputs[index]], before=node)])
        elif (index := gamma(node)) is not None:
            _mix(insert, node, 1 - index, index)


def _sum(insert: edit.Inserter, node: ir.Node, values: list[ir.Value], total: ir.Value) -> None:
    """Add up in nodes of their own what a normalisation adds up and gives beside the rest."""
    found, *others = values
    for value in others:
        found = insert.node("Add", [found, value], before=node, shape=total.shape or node.outputs[0].shape)
    edit.replace_uses(total, found)
    if not found.is_graph_output():
        found.name, total.name = total.name, None


def _mix(insert: edit.Inserter, node: ir.Node, data: int, scale: int) -> None:
    """Put a MatMul, or a Conv where the channels are not last, in the place of a node."""
    array, source = edit.array(node.inputs[scale]), edit.required(node, data)
    width, rank = array.shape[-1], len(source.shape or ())
    last = CHANNEL_AXES.get(edit.op_of(node), -1) % rank == rank - 1
    zeros = _zeros(insert, (width, width) if last else (width, width, *(1,) * (rank - 2)))
    new = insert.node("MatMul" if last else "Conv", [source, zeros], before=node)
    edit.take_over(node, [new])


def _zeros(insert: edit.Inserter, shape: tuple[int, ...]) -> ir.Value:
    """Return a weight of zeros that takes no memory: only its shape matters."""
    return insert.constant("zeros", np.zeros(shape, np.float32))
