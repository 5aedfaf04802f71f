"""BatchNormalization with the statistics of the batch, as it is trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import onnx_ir as ir

from ..errors import TrainingError
from ..graph import edit
from .rules.tape import Tape

MOMENTUM = 0.9


def train_batch_norms(graph: ir.Graph, frozen: Collection[str] = ()) -> dict[str, ir.Value]:
    """Let every BatchNormalization normalise with the mean and the variance of the batch.

    Those with a parameter in `frozen` stay as they are when the model is used, and so do those whose statistics are
    computed or shared.

    Returns
    -------
    dict of str to onnx_ir.Value
        The next value of each running statistic, by its initializer: ``running · momentum + batch · (1 - momentum)``,
        with the population's variance, as ONNX has it.
    """
    states: dict[str, ir.Value] = {}
    tape = Tape(graph, int(graph.opset_imports[""]))
    nodes = [node for node in graph if edit.op_of(node) == "BatchNormalization"]
    readers = Counter(value for node in nodes for value in node.inputs[3:5])
    for node in nodes:
        held = {value.name for value in node.inputs[1:5] if value is not None}
        # Statistics that are computed, or shared by several, have no next value to write back.
        own = all(
            value is not None and value.const_value is not None and readers[value] == 1 for value in node.inputs[3:5]
        )
        if held & set(frozen) or not own:
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
        running = edit.required(node, index)
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
