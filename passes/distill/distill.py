"""Knowledge distillation: give a pruned model its accuracy back."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy.typing as npt
import onnx_ir as ir
from msgspec import Meta

from onnxcompress.contract import Changes, Context, Epoch, Needs, Plan, Refusal
from onnxcompress.graph import edit
from onnxcompress.selection import Subject, value_subjects
from onnxcompress.training import Settings, rehearse, sort_samples, train, trainable_weights
from onnxcompress.training.composites.few_bits import COMPOSITES as FEW_BITS

from . import outcome
from .choose_loss import choose_loss
from .keeping import KeepingPass
from .qat.masters import find_masters, is_quantized
from .qat.rounding import integers_of, with_floats
from .students.initialise import Initialise, initialised
from .students.student import StudentFile, find_student, put_in_place
from .students.teacher import find_teacher
from .write import write_weights


@dataclass(frozen=True, kw_only=True)
class WeightsPlan(Plan):
    """Trained weights (and running statistics of BatchNormalization) by initializer, and how training went.

    Of what holds integers they are integers.

    With a `student` they are of the model in that file. There are none where training made the model worse.
    """

    student: StudentFile | None = None
    weights: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    curve: tuple[Epoch, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Distill(KeepingPass):
    """Train the model to give the answers of its teacher, and the right ones where there are labels.

    What each output is (classes, an embedding, values) is told from its name, its shape and the operators that make it,
    and decides by which loss it is compared [1]_; inner tensors can be compared, too.

    Attributes
    ----------
    epochs : int or "auto"
        Passes over the samples; auto: 10 to 60, fewer the more samples there are, and of text with an answer for each
        token.
    batch_size : int or "auto"
        Samples per step; auto: 16, 32 or 64, more the more samples there are; of text with an answer for each token
        about 1,024 tokens. A model that takes only a certain number at a time is trained with that.
    optimizer : {"adamw", "sgd"}
        SGD has momentum 0.9.
    learning_rate : float or "auto"
        The highest rate; auto: of a few that are tried for some steps each, the one with the least loss on the samples
        held out.
    schedule : {"constant", "linear", "cosine"}
        How the rate falls to zero.
    warmup : float
        The share of the steps over which the rate rises first.
    weight_decay : float
        Applied to weights of two or more dimensions.
    batch_norm : {"train", "frozen"}
        Whether BatchNormalization sees the statistics of each batch, or those that it came with.
    augment : tuple of str
        Random changes of the samples that train: crop, flip and mixup of images, or ``file.py:function``, which gets
        the arrays of a batch and a numpy generator and returns new arrays; the teacher sees what the student sees. It
        runs in the training interpreter, which has numpy alone.
    engine : {"auto", "onnxruntime-training", "onnxruntime"}
        What trains: onnxruntime-training, in an interpreter that uv sets up, or the onnxruntime that is installed;
        auto: the first, or the second where uv, a Python up to 3.12 or the packages are not to be had.
    holdout : float
        The share of the samples that judges and does not train (50 samples at least, a third at most); the weights of
        the best epoch are taken, and none where all are worse than before. 0: the last weights are taken, unjudged.
    patience : int
        Stop when so many epochs have brought nothing better; 0: never.
    seconds : float
        Train for so many seconds at most: the rate falls to zero until then, what was learnt is judged within them, and
        trials of learning rates take up to 15 % of them, in small batches; what the teacher takes is not counted. 0: as
        long as it takes.
    keep_anyway : bool
        Take the weights even where training made the model worse.
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
    .. [2] S. Esser et al., "Learned Step Size Quantization", 2020, arXiv:1902.08153.
    """

    epochs: Annotated[int, Meta(ge=1)] | Literal["auto"] = "auto"
    batch_size: Annotated[int, Meta(ge=1)] | Literal["auto"] = "auto"
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: Annotated[float, Meta(gt=0)] | Literal["auto"] = "auto"
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    warmup: Annotated[float, Meta(ge=0, lt=1)] = 0.05
    weight_decay: Annotated[float, Meta(ge=0)] = 0.01
    batch_norm: Literal["train", "frozen"] = "train"
    augment: tuple[str, ...] = ()
    engine: Literal["auto", "onnxruntime-training", "onnxruntime"] = "auto"
    holdout: Annotated[float, Meta(ge=0, le=0.5)] = 0.2
    patience: Annotated[int, Meta(ge=0)] = 0
    seconds: Annotated[float, Meta(ge=0)] = 0.0
    keep_anyway: bool = False
    teacher: str = ""
    student: str = ""
    initialise: Initialise = "as-is"
    checkpoint: str = ""

    needs = Needs(samples=True, training=True)

    def plan(self, model: ir.Model, context: Context) -> WeightsPlan:
        """Run the teacher over the samples, train, and return the weights."""
        model, student = find_student(self.student, model)
        masters, unfit = find_masters(model)
        factors: dict[str, float] = {}
        floats = with_floats(model, masters, scales=factors if self.train_scales else None)
        samples = context.samples
        given = sort_samples(samples)
        taught = find_teacher(self.teacher, model, context.original)
        loss, compared = choose_loss(self, model, taught, samples, context.seed)
        found = trainable_weights(floats, given.examples(), loss.reads)
        selected = self.select(model, _subjects(model, found.free))
        defaults = {str(value.name) for value in edit.defaults(model.graph)}
        stopped = found.stopped | unfit | {name: f"it {edit.DEFAULT}" for name in found.free if name in defaults}
        stopped |= {str(value.name): reason for value, reason in selected.why_not.items()}
        free = [name for name in found.free if name not in stopped]
        hooks = self.hooks(model, masters, [name for name in free if name not in factors])
        new = [name for name in free if name not in masters and name not in factors]
        drawn, notes = initialised(self.initialise, floats, new, context.seed, hooks.job["masked"])
        how: dict[str, Any] = {
            "settings": self._settings(context.seed, frozen=is_quantized(model)),
            "teacher": taught,
            "progress": context.progress,
            "frozen": tuple(stopped),
            "hooks": hooks.job | {"scales": factors},
        }
        notes = (*(() if student is None else student.notes), *compared, *notes, *hooks.notes, *_packed(model))
        refused = (*(Refusal(name, reason) for name, reason in (stopped | hooks.refused).items()), *selected.idle)
        if context.rehearsal:
            told = outcome.rehearsed(rehearse(drawn, given, loss, **how))
            return WeightsPlan(student=student, refused=refused, notes=(*notes, *told))
        trained = train(drawn, given, loss, **how, checkpoint=Path(self.checkpoint) if self.checkpoint else None)
        taken = self.keep_anyway or outcome.is_taken(trained)
        return WeightsPlan(
            student=student if taken else None,
            weights=integers_of(model, masters, trained.weights) if taken else {},
            curve=outcome.epochs(trained),
            unmet=() if taken else outcome.unmet(trained),
            refused=refused,
            notes=(*outcome.notes(trained), *notes),
        )

    def _settings(self, seed: int, *, frozen: bool) -> Settings:
        """Return how to train; between integers BatchNormalization is as the engine will compute it."""
        names = {field.name for field in fields(Settings)} - {"seed"}
        settings = Settings(**{name: getattr(self, name) for name in names}, seed=seed)
        return replace(settings, batch_norm="frozen") if frozen else settings

    def apply(self, model: ir.Model, plan: WeightsPlan) -> Changes:
        """Write the weights of the plan into the model."""
        done = [] if plan.student is None else [put_in_place(model, plan.student)]
        written, unfit = write_weights(model, plan.weights)
        return Changes((*done, *written), (*plan.refused, *unfit), plan.notes, plan.curve)


def _packed(model: ir.Model) -> tuple[str, ...]:
    """Say which weights stay because operators read their bits as they are packed."""
    readers = [node.op_type for node in model.graph.all_nodes() if edit.op_of(node) in FEW_BITS]
    if not readers:
        return ()
    what = f"{len(readers)} weights of packed bits ({', '.join(sorted({*readers}))}) stay, and what is float is trained"
    return (f"{what}; to train all, put distill before quantize-weights, or store them with format=qdq",)


def _subjects(model: ir.Model, free: Collection[str]) -> dict[ir.Value, Subject]:
    """Return what is trained: weights, and parameters of BatchNormalization, which are trained together or not."""
    found = value_subjects(value for value in edit.values(model.graph) if value.name in free)
    for node in model.graph.all_nodes():
        if node.op_type == "BatchNormalization":
            parameters = value_subjects(value for value in node.inputs[1:5] if value is not None)
            together = Subject().joined(*parameters.values())
            found |= dict.fromkeys(parameters, together)
    return found
