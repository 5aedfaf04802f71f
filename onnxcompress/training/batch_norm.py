"""BatchNormalization with the statistics of the batch, as it is trained."""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from ..errors import TrainingError
from ..graph import edit
from .rules.tape import Tape

MOMENTUM = 0.9


def train_batch_norms(graph: ir.Graph, frozen: Collection[str] = ()) -> dict[str, ir.Value]:
    """Let every BatchNormalization normalise with the mean and the variance of the batch.

    Those with a parameter in `frozen` stay as they are when the model is used.

    Returns
    -------
    dict of str to onnx_ir.Value
        The next value of each running statistic, by its initializer: ``running · momentum + batch · (1 - momentum)``,
        with the population's variance, as ONNX has it.
    """
    states: dict[str, ir.Value] = {}
    tape = Tape(graph, int(graph.opset_imports[""]))
    for node in list(graph):
        if edit.op_of(node) != "BatchNormalization" or any(
            v is not None and v.name in frozen for v in node.inputs[1:5]
        ):
            continue
        if node.attributes.get_int("training_mode", 0):
            raise TrainingError(f"{edit.label(node)} is in training mode already; export the model for inference")
        _train(graph, tape, node, states)
    return states


def _train(graph: ir.Graph, tape: Tape, node: ir.Node, states: dict[str, ir.Value]) -> None:
    momentum = node.attributes.get_float("momentum", MOMENTUM)
    node.attributes["training_mode"] = ir.AttrInt64("training_mode", 1)
    # So that the operator returns the statistics of the batch themselves: gradients are written in them.
    node.attributes["momentum"] = ir.AttrFloat32("momentum", 0.0)
    node.resize_outputs(3)
    for index, batch in zip((3, 4), node.outputs[1:], strict=True):
        running = node.inputs[index]
        if running is None or running.const_value is None:
            raise TrainingError(f"{edit.label(node)} has statistics that are no initializer")
        if str(running.name) in states:
            raise TrainingError(f"'{running.name}' is a running statistic of more than one BatchNormalization")
        batch.name, batch.type, batch.shape = f"{running.name}/batch", running.type, running.shape
        following = (tape.of(running) * momentum + tape.of(batch) * (1 - momentum)).value
        following.name, following.type, following.shape = f"{running.name}/next", running.type, running.shape
        states[str(running.name)] = following
        # onnxruntime writes over what stands here, whoever else reads it; it counts for nothing.
        spare = (tape.of(running) * 0.0).value
        made = spare.producer()
        assert made is not None
        graph.remove(made)
        graph.insert_before(node, made)
        node.replace_input_with(index, spare)
