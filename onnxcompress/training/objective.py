"""The graph that is trained: a copy of the model up to what the loss reads, with the loss behind it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from ..errors import DataError, PassError, TrainingError, did_you_mean
from ..graph import edit, shapes
from ..graph.functions import flatten
from ..graph.opset import convert_opset
from ..runtime.session import open_session
from ..samples.samples import Samples
from . import extents
from .batch import free_batch
from .batch_norm import train_batch_norms
from .composites import write_composites
from .composites.few_bits import COMPOSITES as FEW_BITS
from .differentiate import differentiate
from .engines import DEFAULT, Engine
from .forms import write_out
from .gradients import Trainable, find_trainable
from .loss import LOGITS, Arrays, Behind, Loss, Shapes

LOSS, SCORE = "onnxcompress.loss", "onnxcompress.score"
# Scatter adds from 16 on.
OLDEST_OPSET, USUAL_OPSET = 16, 17


@dataclass(frozen=True)
class Objective:
    """A graph with the loss and the score as its first outputs; weights are inputs, so that it stays small.

    Attributes
    ----------
    proto : onnx.ModelProto
        Inputs: those of the model, what the loss is fed with, `weights`, and the keys of `states`. Outputs: the loss,
        the score, then the values of `states`.
    inputs : tuple of str
        The model's own inputs.
    weights : tuple of str
        What is trained: initializers of the model, then the loss' own `parameters`.
    parameters : dict of str to numpy.ndarray
        What the loss' own weights start with.
    states : dict of str to str
        Running means and variances of BatchNormalization: initializer to the output that holds its next value.
    shapes : dict of str to tuple
        Of what the loss reads, without the batch, as far as the model says so.
    fixed_batch : int, optional
        How many samples each step takes, where the model cannot do with another number.
    """

    proto: onnx.ModelProto
    inputs: tuple[str, ...]
    weights: tuple[str, ...]
    parameters: dict[str, npt.NDArray[np.float32]]
    states: dict[str, str]
    shapes: Shapes
    fixed_batch: int | None = None


def trainable_weights(
    model: ir.Model,
    samples: Arrays | None = None,
    reads: Collection[str] = (LOGITS,),
    engine: Engine = DEFAULT,
) -> Trainable:
    """Return which weights of `model` gradients of a loss on the tensors `reads` reach, and what stops the others.

    Extents that the model leaves open are those of `samples`; some nodes have a gradient only where they are known.
    """
    copy, _, _ = _prepared(model, reads, samples, engine)
    return find_trainable(copy.graph, copy.graph.outputs)


def build_objective(
    model: ir.Model,
    objective: Loss,
    *,
    frozen: Collection[str] = (),
    evaluate: bool = False,
    samples: Arrays | None = None,
    engine: Engine = DEFAULT,
) -> Objective:
    """Build the graph whose outputs are the loss of a batch, its score, and the gradients of the loss.

    With `evaluate` BatchNormalization stays as it is when the model is used. Extents that the model leaves open are
    those of `samples`: some rules need to know them.
    """
    copy, student, fixed = _prepared(model, objective.reads, samples, engine)
    graph = copy.graph
    found = find_trainable(graph, graph.outputs)
    stopped = {name: reason for name, reason in found.stopped.items() if name not in frozen}
    if stopped:
        name, reason = next(iter(stopped.items()))
        raise TrainingError(f"'{name}' cannot be trained: {reason} ({len(stopped)} such weights)")
    weights = tuple(name for name in found.free if name not in frozen)
    if not weights:
        none = "no float32 constant is a weight of a node that leads to it"
        inside = next((node for node in graph if edit.inner_graphs(node)), None)
        none += f"; what {edit.label(inside)} runs is not trained: export the model without" if inside else ""
        if any(edit.op_of(node) in FEW_BITS for node in model.graph.all_nodes()):
            none += "; put distill before quantize-weights in the recipe, or store its weights with format=qdq"
        reason = next(iter(found.stopped.values()), none)
        towards = " and ".join(f"'{value.name}'" for value in graph.outputs)
        raise TrainingError(f"nothing in this model can be trained towards {towards}: {reason}")
    states = {} if evaluate else train_batch_norms(graph, frozen)
    inputs, read = tuple(str(value.name) for value in graph.inputs), _shapes(student)
    parameters = objective.parameters()
    loss, score = _put_behind(graph, objective, student)
    weights = (*weights, *parameters)
    shapes.infer(copy)
    gradients = differentiate(graph, loss, [graph.initializers[name] for name in weights], engine.kernels)
    edit.set_outputs(graph, [loss, score, *states.values(), *gradients])
    names = {state: str(value.name) for state, value in states.items()}
    for name in (*weights, *names):
        edit.make_input(graph.initializers[name])
    return Objective(_written(copy), inputs, weights, parameters, names, read, fixed)


def build_evaluation(
    model: ir.Model, loss: Loss, trained: Objective, samples: Arrays | None = None, engine: Engine = DEFAULT
) -> onnx.ModelProto:
    """Build the graph that tells loss and score of a batch for the model as it is used.

    Its weights and running statistics are inputs, as those of the objective are.
    """
    copy, student, _ = _prepared(model, loss.reads, samples, engine)
    edit.set_outputs(copy.graph, _put_behind(copy.graph, loss, student))
    common.RemoveUnusedNodesPass()(copy)
    for name in (*trained.weights, *trained.states):
        if name in copy.graph.initializers:
            edit.make_input(copy.graph.initializers[name])
    shapes.forget(copy)
    return _written(copy)


def _written(model: ir.Model) -> onnx.ModelProto:
    """Return what is run, without what no output depends on."""
    common.RemoveUnusedNodesPass()(model)
    names = edit.Names(model.graph)
    for node in model.graph:
        # onnxruntime 1.19.2 names what it fuses after nodes, and trips over two without a name.
        node.name = node.name or names.node(f"{edit.output_name(node)}/{node.op_type}")
    # What is not trained may still be in the model's data file.
    return ir.to_proto(ir.external_data.load_to_model(model))


def running_statistics(model: ir.Model) -> list[str]:
    """Name the running means and variances of every BatchNormalization."""
    nodes = (node for node in model.graph.all_nodes() if node.op_type == "BatchNormalization")
    return [str(value.name) for node in nodes for value in node.inputs[3:5] if value is not None]


def _put_behind(graph: ir.Graph, loss: Loss, student: Mapping[str, ir.Value]) -> list[ir.Value]:
    """Add the operators of a loss and its score; returns both."""
    behind = Behind(graph)
    student = {name: behind.as_float(value) for name, value in student.items()}
    for name, array in loss.parameters().items():
        behind.constant(name, array)
    found = [behind.add("Identity", add(behind, student)) for add in (loss.add, loss.score)]
    for scalar, called in zip(found, (LOSS, SCORE), strict=True):
        scalar.name, scalar.shape, scalar.type = called, ir.Shape([]), ir.TensorType(ir.DataType.FLOAT)
    return found


def _shapes(student: Mapping[str, ir.Value]) -> dict[str, tuple[int | None, ...] | None]:
    """Return the shapes of tensors without the batch."""
    return {
        name: tuple(d if isinstance(d, int) else None for d in value.shape[1:]) if value.shape else None
        for name, value in student.items()
    }


def _prepared(
    model: ir.Model, reads: Collection[str], samples: Arrays | None, engine: Engine
) -> tuple[ir.Model, dict[str, ir.Value], int | None]:
    """Copy the model up to what is read: no local functions, a batch of any size, an opset that rules are written in.

    What is read comes beside it, and how many samples it takes where that is fixed. Shapes are inferred.
    """
    copy = model.clone()
    edit.lift_constants(copy.graph)
    flatten(copy)
    at_trainable_opset(copy, engine)
    places = return_only(copy, reads)
    graph = copy.graph
    for value in list(graph.inputs):
        if value.is_initializer():
            edit.make_constant(value)
    common.TopologicalSortPass()(copy)
    _close_extents(graph, {name: np.shape(array)[1:] for name, array in (samples or {}).items()})
    fixed = free_batch(copy)
    write_composites(graph)  # what onnxruntime alone knows, inference does not
    shapes.infer(copy)
    while write_composites(graph) | write_out(graph):
        shapes.infer(copy)
    if extents.complete(copy):
        while write_composites(graph) | write_out(graph):
            shapes.infer(copy)
    common.RemoveUnusedNodesPass()(copy)  # the training interpreter stumbles over initializers that nothing reads
    return copy, {name: graph.outputs[place] for name, place in places.items()}, fixed


def logits_of(model: ir.Model, samples: Samples) -> npt.NDArray[np.float32]:
    """Return a model's logits for all samples."""
    return teacher_arrays(model, {LOGITS: LOGITS}, samples)[LOGITS]


def computes(model: ir.Model, names: Collection[str]) -> Callable[[Arrays], dict[str, npt.NDArray[Any]]]:
    """Return a function from feeds to tensors of a model, outputs or inner ones, by name."""
    copy = model.clone()
    flatten(copy)
    places = return_only(copy, names)
    session = open_session(copy)

    def run(feeds: Arrays) -> dict[str, npt.NDArray[Any]]:
        arrays = list(session.run(feeds).values())
        return {name: arrays[place] for name, place in places.items()}

    return run


def teacher_arrays(model: ir.Model, tensors: Mapping[str, str], samples: Samples) -> dict[str, npt.NDArray[np.float32]]:
    """Return what a model computes for all samples: for each key, the tensor that it names."""
    if not tensors:
        return {}
    compute = computes(model, tensors.values())
    runs = [compute(feeds) for feeds in samples.batches()]
    return {key: np.concatenate([run[name] for run in runs]).astype(np.float32) for key, name in tensors.items()}


def find_tensor(model: ir.Model, name: str) -> ir.Value:
    """Return an output or an inner tensor of a model by its name; `LOGITS` stands for the logits.

    Raises
    ------
    DataError
        There is none of that name.
    """
    if name == LOGITS:
        return _logits(model.graph.outputs[0])
    known = {str(output.name): output for node in model.graph for output in node.outputs}
    if name not in known:
        raise DataError(f"'{name}' is no tensor that the model computes{did_you_mean(name, list(known))}")
    return known[name]


def _logits(value: ir.Value) -> ir.Value:
    """Return what the Softmax reads that makes an output, or the output itself."""
    producer = value.producer()
    while producer is not None and producer.op_type in ("Identity", "Reshape") and producer.inputs[0] is not None:
        producer = producer.inputs[0].producer()  # converters put these behind an old Softmax
    source = producer.inputs[0] if producer is not None and producer.op_type in ("Softmax", "LogSoftmax") else None
    if source is None:
        return value
    source.shape = source.shape if source.shape is not None else value.shape
    source.type = source.type or value.type
    return source


def return_only(model: ir.Model, names: Collection[str]) -> dict[str, int]:
    """Let a model return these tensors alone; returns at which place each is."""
    found = {name: find_tensor(model, name) for name in names}
    values = list(dict.fromkeys(found.values()))
    if any(value.type is None or value.shape is None for value in values):
        shapes.infer(model)
    edit.set_outputs(model.graph, values)
    common.RemoveUnusedNodesPass()(model)
    return {name: values.index(value) for name, value in found.items()}


def at_trainable_opset(model: ir.Model, engine: Engine) -> None:
    """Convert a model, in place, to what an engine reads and rules are written in."""
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
