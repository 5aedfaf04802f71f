"""BatchNormalization where gradients flow: with the batch's statistics to train, with its own to measure."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from ..errors import TrainingError
from ..graph import edit, shapes
from ..graph.norms import batch_norm


def train_batch_norms(graph: ir.Graph) -> dict[str, ir.Value]:
    """Put every BatchNormalization in training mode; returns the next running statistic of each initializer."""
    states: dict[str, ir.Value] = {}
    for node in graph:
        if node.op_type != "BatchNormalization" or node.attributes.get_int("training_mode"):
            continue
        node.attributes["training_mode"] = ir.AttrInt64("training_mode", 1)
        node.resize_outputs(3)
        for position in (1, 2):
            running, following = node.inputs[position + 2], node.outputs[position]
            if running is None or running.const_value is None:
                raise TrainingError(f"node '{node.name}' (BatchNormalization) has statistics that are no initializer")
            if str(running.name) in states:
                raise TrainingError(f"'{running.name}' is a running statistic of more than one BatchNormalization")
            following.name = f"{running.name}/next"
            following.type, following.shape = running.type, running.shape
            states[str(running.name)] = following
    return states


def write_out_batch_norms(model: ir.Model, only: Collection[str] | None = None) -> None:
    """Write each BatchNormalization as Mul and Add of constants: its own gradient is that of training mode.

    With `only`, those that have a parameter of such a name.
    """
    shapes.infer(model)
    for node in list(model.graph):
        if node.op_type != "BatchNormalization" or node.inputs[0] is None:
            continue
        if only is not None and not any(value is not None and value.name in only for value in node.inputs[3:5]):
            continue
        data, found = node.inputs[0], batch_norm(node)
        if data.shape is None or found is None or node.attributes.get_int("training_mode"):
            raise TrainingError(f"{edit.label(node)} is in training mode, or its parameters or rank are not known")
        factor, mean, shift = found
        column = (-1, *[1] * (len(data.shape) - 2))
        last = data
        for op_type, array in (("Mul", factor), ("Add", shift - mean * factor)):
            # Constant nodes and not initializers, which would be trained.
            constant = ir.node("Constant", [], {"value": ir.tensor(array.reshape(column).astype(np.float32))})
            step = ir.node(op_type, [last, constant.outputs[0]])
            for made in (constant, step):
                made.outputs[0].name = f"{node.outputs[0].name}/{op_type}/{made.op_type}"
            model.graph.insert_before(node, [constant, step])
            last = step.outputs[0]
        edit.replace_uses(node.outputs[0], last)
        model.graph.remove(node, safe=True)
