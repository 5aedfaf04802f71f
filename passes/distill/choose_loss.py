"""From options, outputs and labels to the loss that is minimised."""

from __future__ import annotations

import fnmatch
from dataclasses import fields
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.errors import DataError, OptionError, TrainingError, did_you_mean
from onnxcompress.graph.output_kinds import fits
from onnxcompress.samples.samples import Batch, Samples
from onnxcompress.training import CrossEntropy, Loss

from .comparing import KINDS, ComparingPass
from .objectives.combined import Combined, Weighted
from .objectives.losses import FEATURE_LOSSES, LABEL_LOSS, LOSSES, OUTPUT_LOSSES, USUAL, USUAL_FEATURE
from .objectives.tensors import Kind, Output
from .outputs import Probe, find_outputs


def choose_loss(
    options: ComparingPass, student: ir.Model, teacher: ir.Model, samples: Samples, seed: int = 0
) -> tuple[Loss, tuple[str, ...]]:
    """Return the loss, and what is to be told of how it was chosen.

    Raises
    ------
    OptionError
        An option names no output or tensor, or a loss has nothing that it could compare.
    TrainingError
        An output or tensor has no counterpart in the teacher, or nothing can be compared.
    DataError
        The labels do not fit the model.
    """
    batch = next(iter(samples.head(2).labelled(2)))
    return _Chooser(options, student, teacher, batch, samples.labels, seed).choose()


class _Chooser:
    """The terms and the judges, collected output by output."""

    def __init__(
        self,
        options: ComparingPass,
        student: ir.Model,
        teacher: ir.Model,
        batch: Batch,
        labels: npt.NDArray[Any] | None,
        seed: int,
    ) -> None:
        self.options, self.student, self.teacher, self.batch, self.labels = options, student, teacher, batch, labels
        self.seed = seed
        kinds = {term: _kinds_for(word) for term, word in options.outputs.items()}
        self.outputs, self.ignored = find_outputs(student, teacher, batch, kinds, labels)
        self.labelled = self._labelled()
        self.terms: list[Weighted] = []
        self.judges: list[Weighted] = []
        self.notes: list[str] = []

    def choose(self) -> tuple[Loss, tuple[str, ...]]:
        """Return the loss and notes."""
        self._check_weights()
        weights = {output.name: self._weights(output) for output in self.outputs}
        total = sum(self._output_weight(name) for name, own in weights.items() if own)
        for output in self.outputs:
            self._compare(output, weights[output.name], self._output_weight(output.name) / (total or 1))
        self._compare_features()
        self._check_use()
        self._tell_rest()
        return Combined(tuple(self.terms), tuple(self.judges)), tuple(self.notes)

    def _labelled(self) -> Output | None:
        """Return the output that the labels are of."""
        if self.labels is None:
            return None
        classes = [output for output in self.outputs if output.kind == "classes"]
        found = next((output for output in classes if fits(self.labels, output.student)), None)
        plain = next((output for output in classes if not any(n > 1 for n in output.student.positions)), None)
        meant = plain if found is None else found
        if meant is not None:
            self._cross_entropy(meant).targets({meant.student.name: meant.student.shape[1:]})  # says what is wrong
        return found

    def _cross_entropy(self, output: Output) -> CrossEntropy:
        assert self.labels is not None, "asked for only where there are labels"
        labels, positions = self.labels, output.student.positions
        if labels.ndim != len(positions) + 1 and labels.size == len(labels) * int(np.prod(positions)):
            labels = labels.reshape(len(labels), *positions)
        return CrossEntropy(labels, output.student.name, output.student.axis, self.options.label_smoothing, output.mask)

    def _compare(self, output: Output, weights: dict[str, float], share: float) -> None:
        """Add the losses of an output, which has this share of the whole."""
        losses: dict[str, Loss] = {name: self._make(name, output) for name in weights}
        self.terms += [(losses[name], weight * share) for name, weight in weights.items()]
        if not weights:
            self.ignored[output.name] = f"none of the losses is for {output.kind}"
            return
        judge = self._cross_entropy(output) if output is self.labelled else OUTPUT_LOSSES[USUAL[output.kind]](output)
        self.judges.append((judge, share))
        what = " + ".join(name if weight == 1 else f"{weight:g} {name}" for name, weight in weights.items())
        axis = f" on axis {output.student.axis}" if output.kind == "classes" and len(output.student.shape) > 2 else ""
        padding = f", without padding ('{output.mask}')" if output.mask else ""
        self.notes.append(f"output '{output.name}': {output.kind}{axis} ({output.why}), compared by {what}{padding}")

    def _weights(self, output: Output) -> dict[str, float]:
        """Return the losses of one output, and their weights."""
        given = self.options.losses
        word = next(
            (w for t, w in reversed([*self.options.outputs.items()]) if fnmatch.fnmatchcase(output.name, t)), ""
        )
        if word and word not in KINDS:
            return {word: given.get(word, 1.0)}
        label = {LABEL_LOSS: given[LABEL_LOSS]} if LABEL_LOSS in given and output is self.labelled else {}
        if given:
            named = {name: OUTPUT_LOSSES[name] for name in given if name in OUTPUT_LOSSES}
            own = {name: given[name] for name, kind in named.items() if output.kind in kind.kinds} | label
            return own or {name: given[name] for name, kind in named.items() if output.kind in kind.others}
        usual = USUAL[output.kind]
        hard = self.options.hard_weight if output is self.labelled else 0.0
        return {name: weight for name, weight in ((usual, 1 - hard), (LABEL_LOSS, hard)) if weight}

    def _output_weight(self, name: str) -> float:
        given = reversed([*self.options.output_weights.items()])
        return next((weight for term, weight in given if fnmatch.fnmatchcase(name, term)), 1.0)

    def _make(self, name: str, output: Output) -> Loss:
        if name == LABEL_LOSS:
            if output is not self.labelled:
                raise OptionError(
                    f"distill: outputs.{output.name}: '{LABEL_LOSS}' needs labels, and there are none for it"
                )
            return self._cross_entropy(output)
        kind = OUTPUT_LOSSES[name]
        if output.kind not in kind.kinds | kind.others:
            raise OptionError(f"distill: outputs.{output.name}: '{name}' is not for {output.kind}")
        options = {"temperature": self.options.temperature, "beta": self.options.beta}
        options["labels"] = self._cross_entropy(output) if output is self.labelled else None  # type: ignore[assignment]
        taken = {each.name for each in fields(kind)}
        return kind(output, **{key: value for key, value in options.items() if key in taken})

    def _compare_features(self) -> None:
        given = {name: weight for name, weight in self.options.losses.items() if name in FEATURE_LOSSES}
        if not self.options.features:
            return
        names, their_names = list(self.options.features), list(self.options.features.values())
        mine, its = (
            Probe(model, self.batch, inner, called)
            for model, inner, called in ((self.student, names, "student"), (self.teacher, their_names, "teacher"))
        )
        for name, other in self.options.features.items():
            one, two = mine.inner(name), its.inner(other)
            for loss, weight in (given or {USUAL_FEATURE: 1.0}).items():
                made = FEATURE_LOSSES[loss](one, two, mine.mask(one), self.seed)
                if reason := made.why_not():
                    raise TrainingError(f"features: '{loss}' cannot compare {one} of the student with {two}: {reason}")
                self.terms.append((made, weight))
                times = "" if weight == 1 else f"{weight:g} "
                trained = f", {type(made).__name__.lower()} trained along" if made.parameters() else ""
                self.notes.append(f"tensor {one} is compared with {two} of the teacher by {times}{loss}{trained}")

    def _check_weights(self) -> None:
        names = [output.name for output in self.outputs]
        for term in self.options.output_weights:
            if not fnmatch.filter(names, term):
                hint = did_you_mean(term, names) or f"; there are {', '.join(names) or 'none'}"
                raise OptionError(f"distill: output_weights: '{term}' matches no output that is compared{hint}")

    def _check_use(self) -> None:
        """Raise an error where a loss compares nothing, or where nothing is compared."""
        used = {type(loss) for loss, _ in self.terms}
        for name in self.options.losses:
            if LOSSES[name] not in used:
                if name == LABEL_LOSS and self.labels is None:
                    raise DataError(f"distill: losses: '{name}' needs labels, and the samples have none")
                kinds = ", ".join(f"'{output.name}' ({output.kind})" for output in self.outputs) or "none"
                raise OptionError(f"distill: losses: '{name}' fits no output (compared: {kinds}); see outputs")
        if not self.terms:
            reasons = ", ".join(f"'{name}': {why}" for name, why in self.ignored.items())
            raise TrainingError(
                f"no output of the model can be compared with the teacher's ({reasons}); say what one is, with "
                "outputs.NAME=KIND, or compare inner tensors, with features.STUDENT=TEACHER"
            )

    def _tell_rest(self) -> None:
        self.notes += [f"output '{name}' is not compared: {why}" for name, why in self.ignored.items()]
        if self.labels is not None and self.labelled is None:
            self.notes.append(
                f"the labels, {self.labels.dtype} {list(self.labels.shape)}, fit no output and are not used"
            )


def _kinds_for(word: str) -> tuple[Kind, ...]:
    """Return the kinds that a word of `outputs` allows, the usual one first."""
    if word in KINDS:
        return (cast(Kind, word),)
    if word == LABEL_LOSS:
        return ("classes",)
    loss = OUTPUT_LOSSES[word]
    return tuple(kind for kinds in (loss.kinds, loss.others) for kind in sorted(kinds, reverse=word != "kl"))
