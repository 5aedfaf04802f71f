"""Knowledge distillation: give a pruned model its accuracy back."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from msgspec import Meta

from onnxcompress.contract import Change, Changes, Context, Needs, Plan, Refusal
from onnxcompress.errors import TrainingError
from onnxcompress.graph import edit
from onnxcompress.selection import Subject, value_subjects
from onnxcompress.training import Settings, teacher_arrays, train, trainable_weights
from onnxcompress.training.masks import masked_weights

from ..quantize.shared.clusters import clustered_weights
from .choose_loss import choose_loss
from .comparing import ComparingPass
from .students.initialise import Initialise, initialised
from .students.student import StudentFile, find_student, put_in_place
from .students.teacher import find_teacher

QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")


@dataclass(frozen=True, kw_only=True)
class WeightsPlan(Plan):
    """Trained weights (and running statistics of BatchNormalization) by initializer, and the loss of each epoch.

    With a `student` they are of the model in that file.
    """

    student: StudentFile | None = None
    weights: dict[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Distill(ComparingPass):
    """Train the model to give the answers of its teacher, and the right ones where there are labels.

    What each output is (classes, an embedding, values) is told from its name, its shape and the operators that make it,
    and decides by which loss it is compared [1]_; inner tensors can be compared, too.

    Attributes
    ----------
    epochs : int
        Passes over the samples.
    batch_size : int
        Samples per step.
    optimizer : {"adamw", "sgd"}
        SGD has momentum 0.9.
    learning_rate : float
        The rate of the first step.
    schedule : {"constant", "linear", "cosine"}
        How the rate falls to zero.
    weight_decay : float
        Applied to weights of two or more dimensions.
    keep_masks : bool
        Weights that are zero stay exactly zero: what pruning zeroed, whatever the pattern. A bias or another addend
        with nothing but zeros is trained like any other.
    teacher : str
        An ONNX file with the inputs of the model (by name, or by type and shape where only one can be meant), which is
        imitated; empty for the model that the recipe started from.
    student : str
        An ONNX file that takes the place of the model and is trained in its stead. It needs inputs and outputs that fit
        the model's, as for `teacher`, and then has their names.
    initialise : {"as-is", "he"}
        he: what is trained starts from random weights (He et al., arXiv:1502.01852), as drawn by the seed; masks stay.
    checkpoint : str
        A folder that gets a checkpoint after each epoch, and from which an interrupted training goes on; empty for
        none.

    References
    ----------
    .. [1] G. Hinton, O. Vinyals, J. Dean, "Distilling the Knowledge in a Neural Network", 2015, arXiv:1503.02531.
    """

    epochs: Annotated[int, Meta(ge=1)] = 10
    batch_size: Annotated[int, Meta(ge=1)] = 32
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: Annotated[float, Meta(gt=0)] = 1e-3
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    weight_decay: Annotated[float, Meta(ge=0)] = 0.01
    keep_masks: bool = True
    teacher: str = ""
    student: str = ""
    initialise: Initialise = "as-is"
    checkpoint: str = ""

    needs = Needs(samples=True, training=True)

    def plan(self, model: ir.Model, context: Context) -> WeightsPlan:
        """Run the teacher over the samples, train, and return the weights."""
        model, student = find_student(self.student, model)
        _check_unquantized(model)
        samples = context.samples
        arrays = samples.arrays()
        taught = find_teacher(self.teacher, model, context.original)
        loss, compared = choose_loss(self, model, taught, samples, context.seed)
        found = trainable_weights(model, arrays, loss.reads)
        selected = self.select(model, _subjects(model, found.free))
        defaults = {str(value.name) for value in edit.defaults(model.graph)}
        stopped = found.stopped | {name: f"it {edit.DEFAULT}" for name in found.free if name in defaults}
        stopped |= {str(value.name): reason for value, reason in selected.why_not.items()}
        masked = masked_weights(model, found.free) if self.keep_masks else ()
        free = [name for name in found.free if name not in stopped]
        drawn, notes = initialised(self.initialise, model, free, context.seed, masked)
        trained = train(
            drawn,
            arrays,
            loss,
            settings=self._settings(context.seed),
            teacher=teacher_arrays(taught, loss.teacher, samples),
            checkpoint=Path(self.checkpoint) if self.checkpoint else None,
            progress=context.progress,
            frozen=tuple(stopped),
        )
        refused = tuple(Refusal(name, reason) for name, reason in stopped.items())
        return WeightsPlan(
            student=student,
            weights=trained.weights,
            losses=trained.losses,
            refused=(*refused, *selected.idle),
            notes=(*(() if student is None else student.notes), *compared, *notes),
        )

    def _settings(self, seed: int) -> Settings:
        names = {field.name for field in fields(Settings)} - {"seed"}
        return Settings(**{name: getattr(self, name) for name in names}, seed=seed)

    def apply(self, model: ir.Model, plan: WeightsPlan) -> Changes:
        """Write the weights of the plan into the model."""
        done, refused = [], list(plan.refused)
        if plan.student is not None:
            done.append(put_in_place(model, plan.student))
        clustered, holders = clustered_weights(model), edit.stored(model.graph)
        for name, array in plan.weights.items():
            value = holders.get(name)
            held = edit.stored_in(value)
            old = None if held is None else held.numpy()
            unfit = _unfit(old, array)
            if value is None or old is None or unfit:
                refused.append(Refusal(name, unfit))
                continue
            done.append(Change(name, f"trained, {_how_far(old, array)}{_zeros(old, array)}"))
            if lost := _lost_clusters(old, array) if name in clustered else "":
                refused.append(Refusal(name, lost))
            edit.set_constant(value, array)
        losses = _loss(plan.losses) if done and plan.losses else ()
        return Changes(tuple(done), tuple(refused), (*plan.notes, *losses))


def _loss(losses: list[float]) -> tuple[str, ...]:
    grew = "; it grew: try a lower learning rate" if losses[-1] > losses[0] else ""
    return (f"loss {losses[0]:.4g} in the first epoch, {losses[-1]:.4g} in the last of {len(losses)}{grew}",)


def _subjects(model: ir.Model, free: Collection[str]) -> dict[ir.Value, Subject]:
    """Return what is trained: weights, and parameters of BatchNormalization, which are trained together or not."""
    found = value_subjects(value for value in edit.values(model.graph) if value.name in free)
    for node in model.graph.all_nodes():
        if node.op_type == "BatchNormalization":
            parameters = value_subjects(value for value in node.inputs[1:5] if value is not None)
            together = Subject().joined(*parameters.values())
            found |= dict.fromkeys(parameters, together)
    return found


def _unfit(old: npt.NDArray[Any] | None, new: npt.NDArray[np.float32]) -> str:
    """Return why trained weights cannot take the place of those that the model has, or an empty string."""
    if old is None:
        return "the plan trained it, and the model holds no such weight"
    if old.shape != new.shape:
        return f"the plan has shape {list(new.shape)}, the model {list(old.shape)}"
    return "" if np.isfinite(new).all() else "the plan has values that are not finite"


def _check_unquantized(model: ir.Model) -> None:
    for node in model.graph.all_nodes():
        if node.op_type in QUANTIZED:
            raise TrainingError(
                f"node '{node.name or node.outputs[0].name}' ({node.op_type}) has no gradient: "
                "put distill before quantization in the recipe"
            )


def _how_far(old: npt.NDArray[Any], new: npt.NDArray[np.float32]) -> str:
    distance = float(np.linalg.norm(new - old))
    length = float(np.linalg.norm(old))
    return f"moved by {100 * distance / length:.3g} %" if length > 0 else f"moved by {distance:.3g}"


def _zeros(old: npt.NDArray[Any], new: npt.NDArray[np.float32]) -> str:
    """Say what became of zeros among other weights."""
    zero = old == 0
    if not zero.any() or (zero.all() and new.any()):
        return ""
    kept = np.count_nonzero(new[zero] == 0) / zero.size
    return f"; of {zero.mean():.1%} zeros {kept:.1%} stayed" if kept < zero.mean() else f"; {kept:.1%} zeros stay"


def _lost_clusters(old: npt.NDArray[Any], new: npt.NDArray[np.float32]) -> str:
    """Say that few different values became many, or return an empty string."""
    before, after = len(np.unique(old)), len(np.unique(new))
    what = f"{before:,} different values became {after:,}"
    return f"training does not keep clusters: {what}; put cluster behind distill" if 1 < before < after else ""
