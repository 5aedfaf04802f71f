"""Weights that stand behind what moves their elements, put where they are read."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from onnxcompress.graph import edit
from onnxcompress.graph.weights import find_weights


def put_in_place(model: ir.Model) -> int:
    """Let operators read weights themselves that stood behind Identity or Transpose, in place; returns how many did.

    A weight that others read as it lies (a table that Gather looks up) is not turned, which would store it twice.
    """
    count = 0
    while moved := _without_copies(model) + _turned(model):
        count += moved  # an Identity may stand behind a Transpose
    return count


def _without_copies(model: ir.Model) -> int:
    copies = list(_copies(model))
    for node in copies:
        _pass_by(node)
    return len(copies)


def _turned(model: ir.Model) -> int:
    count = 0
    for weight in [weight for weight in find_weights(model.graph) if weight.axis < 0]:
        while (turn := _turn_of(weight.value)) is not None:
            edit.set_constant(weight.value, np.transpose(edit.array(weight.value), edit.ints_attribute(turn, "perm")))
            _pass_by(turn)
            count += 1
    return count


def _copies(model: ir.Model) -> Iterator[ir.Node]:
    """Yield each Identity of a constant of floats, the first of a row of them first."""
    for node in model.graph.all_nodes():
        if edit.op_of(node) == "Identity" and not node.outputs[0].is_graph_output():
            first = node.inputs[0]
            while first is not None and (before := first.producer()) is not None and edit.op_of(before) == "Identity":
                first = before.inputs[0]
            tensor = edit.constant(first)
            if tensor is not None and tensor.dtype.is_floating_point() and tensor.size > 1:
                yield node


def _turn_of(value: ir.Value) -> ir.Node | None:
    """Return the Transpose that alone reads a constant."""
    uses = list(value.uses())
    node = uses[0][0] if len(uses) == 1 and not value.is_graph_output() else None
    turns = node is not None and edit.op_of(node) == "Transpose" and not node.outputs[0].is_graph_output()
    return node if turns else None


def _pass_by(node: ir.Node) -> None:
    edit.replace_uses(node.outputs[0], edit.required(node, 0))
    graph = node.graph
    assert graph is not None
    graph.remove(node, safe=True)
