"""The graph that is trained: a copy of the model up to its logits, with the loss behind it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from ..errors import PassError, TrainingError
from ..graph import edit, shapes
from ..graph.functions import flatten
from ..graph.opset import convert_opset
from ..graph.weights import find_weights
from ..runtime.session import open_session
from ..samples.samples import Samples
from .batch_norm import train_batch_norms
from .differentiate import differentiate
from .engines import DEFAULT, Engine
from .forms import write_out
from .gradients import Trainable, find_trainable
from .loss import Arrays, Behind, Loss

LOSS = "onnxcompress.loss"
# Scatter adds from 16 on.
OLDEST_OPSET, USUAL_OPSET = 16, 17


@dataclass(frozen=True)
class Objective:
    """A graph with the loss as its first output; weights are inputs, so that it stays small.

    Attributes
    ----------
    proto : onnx.ModelProto
        Inputs: those of the model, the targets of the loss, `weights`, and the keys of `states`. Outputs: the loss,
        then the values of `states`.
    inputs : tuple of str
        The model's own inputs.
    weights : tuple of str
        Initializers of the model that are trained.
    states : dict of str to str
        Running means and variances of BatchNormalization: initializer to the output that holds its next value.
    classes : int, optional
        How many classes the logits have, where the model says so.
    """

    proto: onnx.ModelProto
    inputs: tuple[str, ...]
    weights: tuple[str, ...]
    states: dict[str, str]
    classes: int | None


def trainable_weights(model: ir.Model, samples: Arrays | None = None, engine: Engine = DEFAULT) -> Trainable:
    """Return which weights of `model` gradients of a loss on its logits reach, and what stops the others.

    Extents that the model leaves open are those of `samples`; some nodes have a gradient only where they are known.
    """
    copy = _prepared(model, samples, engine)
    found = find_trainable(copy.graph, copy.graph.outputs[0])
    held = [str(w.value.name) for w in find_weights(model.graph) if w.value.producer() is not None]
    reason = "a Constant node holds it, and only initializers are trained"
    return Trainable(found.free, found.stopped | dict.fromkeys(held, reason))


def build_objective(
    model: ir.Model,
    objective: Loss,
    *,
    frozen: Collection[str] = (),
    evaluate: bool = False,
    samples: Arrays | None = None,
    engine: Engine = DEFAULT,
) -> Objective:
    """Build the graph whose first output is the loss of a batch.

    With `evaluate`
    BatchNormalization stays as it is when the model is used. Extents that the model leaves open are those of `samples`:
    onnxruntime-training crashes in the gradients of some operators where they are not known.
    """
    copy = _prepared(model, samples, engine)
    graph = copy.graph
    logits = graph.outputs[0]
    if logits.shape is not None and len(logits.shape) != 2:
        raise TrainingError(
            f"output '{logits.name}' has {len(logits.shape)} dimensions; training needs logits [batch, classes]"
        )
    found = find_trainable(graph, logits)
    stopped = {name: reason for name, reason in found.stopped.items() if name not in frozen}
    if stopped:
        name, reason = next(iter(stopped.items()))
        raise TrainingError(f"'{name}' cannot be trained: {reason} ({len(stopped)} such weights)")
    weights = tuple(name for name in found.free if name not in frozen)
    if not weights:
        none = "no float32 initializer is a weight of a node that leads to it (what Constant nodes hold is not trained)"
        reason = next(iter(found.stopped.values()), none)
        raise TrainingError(f"nothing in this model can be trained towards output '{logits.name}': {reason}")
    states = {} if evaluate else train_batch_norms(graph, frozen)
    inputs = tuple(str(value.name) for value in graph.inputs)
    behind = Behind(graph)
    loss = behind.add("Identity", objective.add(behind, logits))
    loss.name, loss.shape, loss.type = LOSS, ir.Shape([]), ir.TensorType(ir.DataType.FLOAT)
    shapes.infer(copy)
    gradients = differentiate(graph, loss, [graph.initializers[name] for name in weights], engine.kernels)
    edit.set_outputs(graph, [loss, *states.values(), *gradients])
    names = {state: str(value.name) for state, value in states.items()}
    for name in (*weights, *names):
        edit.make_input(graph.initializers[name])
    common.RemoveUnusedNodesPass()(copy)
    classes = logits.shape[1] if logits.shape is not None else None
    return Objective(ir.to_proto(copy), inputs, weights, names, classes if isinstance(classes, int) else None)


def _prepared(model: ir.Model, samples: Arrays | None, engine: Engine) -> ir.Model:
    """Copy the model up to its logits: no local functions, a batch of any size, an opset that rules are written in.

    Shapes are inferred.
    """
    copy = model.clone()
    flatten(copy)
    _at_trainable_opset(copy, engine)
    copy = up_to_logits(copy)
    graph = copy.graph
    for value in list(graph.inputs):
        if value.is_initializer():
            edit.make_constant(value)
    common.TopologicalSortPass()(copy)
    _close_extents(graph, {name: np.shape(array)[1:] for name, array in (samples or {}).items()})
    _free_batch(graph)
    shapes.infer(copy)
    if write_out(graph):
        shapes.infer(copy)
    common.RemoveUnusedNodesPass()(copy)  # the training interpreter stumbles over initializers that nothing reads
    return copy


def logits_of(model: ir.Model, samples: Samples) -> npt.NDArray[np.float32]:
    """Return a model's logits for all samples."""
    session = open_session(up_to_logits(model))
    parts = [next(iter(session.run(feeds).values())) for feeds in samples.batches()]
    return np.concatenate(parts).astype(np.float32)


def up_to_logits(model: ir.Model) -> ir.Model:
    """Copy a model so that its only output is the logits: its first output, or what the Softmax there reads."""
    copy = model.clone()
    graph = copy.graph
    logits = graph.outputs[0]
    producer = logits.producer()
    while producer is not None and producer.op_type in ("Identity", "Reshape") and producer.inputs[0] is not None:
        producer = producer.inputs[0].producer()  # converters put these behind an old Softmax
    source = producer.inputs[0] if producer is not None and producer.op_type in ("Softmax", "LogSoftmax") else None
    if source is not None:
        source.shape = source.shape if source.shape is not None else logits.shape
        source.type = source.type or logits.type
        logits = source
    edit.set_outputs(graph, [logits])
    common.RemoveUnusedNodesPass()(copy)
    return copy


def _at_trainable_opset(model: ir.Model, engine: Engine) -> None:
    opset = model.opset_imports.get("", USUAL_OPSET)
    newest = engine.newest_opset or max(opset, USUAL_OPSET)
    if not OLDEST_OPSET <= opset <= newest:
        reads = f"{OLDEST_OPSET} to {newest}" if engine.newest_opset else f"{OLDEST_OPSET} and newer"
        try:
            convert_opset(model, min(max(opset, USUAL_OPSET), newest), f"training reads opset {reads}")
        except PassError as error:
            raise TrainingError(str(error)) from None
    edit.raise_ir_version(model)
    if engine.newest_ir:
        model.ir_version = min(model.ir_version, engine.newest_ir)


def _close_extents(graph: ir.Graph, sizes: Mapping[str, tuple[int, ...]]) -> None:
    """Put the samples' extents where the model has none; names for others, since one for two would make them equal."""
    for value in graph.inputs:
        known = sizes.get(str(value.name), ())
        if value.shape and len(value.shape) > 1:
            open_ = [f"{value.name}/{axis}" for axis in range(1, len(value.shape))]
            rest = known if len(known) == len(open_) else open_
            dims = [d if isinstance(d, int) else r for d, r in zip(value.shape[1:], rest, strict=True)]
            value.shape = ir.Shape([value.shape[0], *dims])  # type: ignore[list-item]


def _free_batch(graph: ir.Graph) -> None:
    """Make the first dimension of every input symbolic, and that of each Reshape that wrote the old one down."""
    fixed = {value.shape[0] for value in graph.inputs if value.shape and isinstance(value.shape[0], int)}
    for node in list(graph):
        target = edit.constant(node.inputs[1]) if node.op_type == "Reshape" and fixed else None
        if target is not None and not node.attributes.get_int("allowzero"):
            free = _batch_free(target.numpy(), fixed, node.outputs[0].shape)
            if free is not None:
                shape = f"{node.outputs[0].name}/batch_free_shape"
                node.replace_input_with(1, edit.Inserter(graph).constant(shape, free))
    for value in graph.inputs:
        if value.shape:
            value.shape = ir.Shape(["batch", *value.shape[1:]])
    rank = graph.outputs[0].shape
    graph.outputs[0].shape = ir.Shape(["batch", *rank[1:]]) if rank else None
    for node in graph:
        for output in node.outputs:
            if output is not graph.outputs[0]:
                output.shape = None


def _batch_free(target: npt.NDArray[Any], fixed: set[int], shape: ir.Shape | None) -> npt.NDArray[Any] | None:
    """Return a Reshape's target for a batch of any size; None where it says nothing of the batch."""
    if target.size == 0 or int(target[0]) not in fixed:
        return None
    rest = [n for n in shape[1:] if isinstance(n, int)] if shape is not None else []
    rest = rest if len(rest) == len(target) - 1 else target[1:].tolist()
    # -1 also serves a Reshape that takes the batch out of another dimension; 0 is the next best.
    return np.array([0 if -1 in rest else -1, *rest], np.int64)
