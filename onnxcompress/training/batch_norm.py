"""BatchNormalization with the statistics of the batch, as it is trained."""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from ..errors import TrainingError
from ..graph import edit
from .rules.tape import Tape

MOMENTUM = 0.9


def train_batch_norms(graph: ir.Graph, frozen: Collection[str] = ()) -> dict[str, ir.Value]:
    """Let every BatchNormalization read the mean and the variance of the batch in place of its running statistics.

    Those with a parameter in `frozen` stay as they are when the model is used.

    Returns
    -------
    dict of str to onnx_ir.Value
        The next value of each running statistic, by its initializer: ``running · momentum + batch · (1 - momentum)``,
        with the population's variance, as ONNX has it.
    """
    states: dict[str, ir.Value] = {}
    for node in list(graph):
        if edit.op_of(node) != "BatchNormalization" or any(
            v is not None and v.name in frozen for v in node.inputs[1:5]
        ):
            continue
        if node.attributes.get_int("training_mode", 0):
            raise TrainingError(f"{edit.label(node)} is in training mode already; export the model for inference")
        _read_batch(graph, node, states)
    return states


def _read_batch(graph: ir.Graph, node: ir.Node, states: dict[str, ir.Value]) -> None:
    data, momentum = node.inputs[0], node.attributes.get_float("momentum", MOMENTUM)
    if data is None or data.shape is None:
        raise TrainingError(f"{edit.label(node)} reads data whose rank is not known")
    after = list(graph)
    tape = Tape(graph, int(graph.opset_imports[""]))
    axes = [axis for axis in range(len(data.shape)) if axis != 1]
    column = [-1, *[1] * (len(axes) - 1)]
    mean = tape.of(data).mean(axes, keepdims=False)
    centred = tape.of(data) - (mean.reshape(column) if len(axes) > 1 else mean)
    variance = (centred * centred).mean(axes, keepdims=False)
    for index, batch in ((3, mean), (4, variance)):
        running = node.inputs[index]
        if running is None or running.const_value is None:
            raise TrainingError(f"{edit.label(node)} has statistics that are no initializer")
        if str(running.name) in states:
            raise TrainingError(f"'{running.name}' is a running statistic of more than one BatchNormalization")
        following = (tape.of(running) * momentum + batch * (1 - momentum)).value
        following.name = f"{running.name}/next"
        following.type, following.shape = running.type, running.shape
        states[str(running.name)] = following
        node.replace_input_with(index, batch.value)
    made = [other for other in graph if other not in set(after)]
    graph.remove(made)
    graph.insert_before(node, made)
