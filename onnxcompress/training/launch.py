"""Train in the other interpreter: write the job, let it run, take its weights back."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from ..errors import TrainingError
from ..progress import Progress, silent
from ..samples.samples import load_samples
from ..scratch import temporary_folder
from .augment import check_augment
from .checkpoint import check_checkpoint, checkpoint_folder, hash_arrays, how_to_resume, read_checkpoint
from .held_out import hold_out
from .job import initial_weights, write_job
from .loop.data import step_count
from .loop.flat import views
from .loss import Arrays, Loss
from .objective import Objective, build_evaluation, build_objective, running_statistics
from .process import LOG, choose_engine, run_worker
from .settings import Rehearsed, Settings, Trained
from .sort import Sorted, sort_samples
from .store import Store, save_teacher

Teacher = ir.Model | Arrays | None

TOKEN_AXES = 2
"""What has an answer for each token has so many axes beside that of the samples."""


def train(
    model: ir.Model,
    samples: Sorted | Arrays,
    loss: Loss,
    *,
    settings: Settings,
    teacher: Teacher = None,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
    frozen: Collection[str] = (),
    hooks: Mapping[str, Any] | None = None,
) -> Trained:
    """Train the weights of `model` on samples, starting from those it has.

    Parameters
    ----------
    model : onnx_ir.Model
        With float32 weights; not changed.
    samples : Sorted, or dict of str to numpy.ndarray
        What `sort_samples` found, or all N samples for each input of the model.
    loss : Loss
        What is minimised, with its targets for all N samples.
    settings : Settings
        How to train.
    teacher : onnx_ir.Model, or dict of str to numpy.ndarray, optional
        What computes the tensors that the loss wants of a teacher, or these, a row for each sample.
    checkpoint : pathlib.Path, optional
        A folder that gets a checkpoint after each epoch. If it holds one of the same training, it is taken up there
        and ends in the same weights.
    progress : callable, optional
        Called as ``progress(what, done, total)``; counts steps.
    frozen : collection of str
        Initializers to leave as they are.
    hooks : dict, optional
        What else happens at each step: a field for each of `loop.hooks.HOOKS`, with what it is told.

    Raises
    ------
    TrainingError
        A node has no gradient (it is named), the interpreter cannot start, or it died; the message says where the
        checkpoint is.
    DataError
        The samples do not fit the model.
    """
    told = progress or silent
    job = _Job(model, samples, loss, settings, frozen, hooks or {}, told)
    with temporary_folder() as folder, checkpoint_folder(checkpoint) as kept:
        job.write(folder, teacher, kept, told, kind="train", resumes=checkpoint is not None)
        failed = run_worker(folder, kept / LOG, told, job.engine).failed
        if failed:
            raise TrainingError(f"{failed} (log: {kept / LOG}); {how_to_resume(kept)}")
        return job.result(kept)


def rehearse(
    model: ir.Model,
    samples: Sorted | Arrays,
    loss: Loss,
    *,
    settings: Settings,
    teacher: Teacher = None,
    progress: Progress | None = None,
    frozen: Collection[str] = (),
    hooks: Mapping[str, Any] | None = None,
) -> Rehearsed:
    """Take a few steps of what `train` would do, and say what it would cost; nothing is trained.

    Parameters and exceptions are those of `train`.
    """
    told = progress or silent
    whole = _Job(model, samples, loss, settings, frozen, hooks or {}, told)
    with temporary_folder() as folder, checkpoint_folder(None) as kept:
        whole.write(folder, teacher, kept, told, kind="rehearse", resumes=False)
        answer = run_worker(folder, kept / LOG, told, whole.engine)
        if answer.failed:
            raise TrainingError(f"{answer.failed} (log: {kept / LOG})")
    cost = answer.said["rehearsed"]
    return whole.rehearsed(float(cost["seconds"]), cost["bytes"])


class _Job:
    """What is to be done, before and after it is on disk."""

    def __init__(
        self,
        model: ir.Model,
        samples: Sorted | Arrays,
        loss: Loss,
        settings: Settings,
        frozen: Collection[str],
        hooks: Mapping[str, Any],
        progress: Progress,
    ) -> None:
        self._model, self._loss, self._hooks = model, loss, hooks
        self._found = samples if isinstance(samples, Sorted) else sort_samples(load_samples(dict(samples), model))
        self._train, self._judge = hold_out(self._found.count, settings.holdout, settings.seed)
        frozen = {*frozen, *(running_statistics(model) if settings.batch_norm == "frozen" else ())}
        self.engine, self.why = choose_engine(settings.engine, progress)
        how: dict[str, Any] = {"samples": self._found.examples(), "engine": self.engine}
        self.objective: Objective = build_objective(model, loss, frozen=frozen, **how)
        self._evaluation = build_evaluation(model, loss, self.objective, **how) if self._judge.any() else None
        self._initial = initial_weights(model, self.objective)
        each = any(shape is not None and len(shape) == TOKEN_AXES for shape in self.objective.shapes.values())
        self._settings = settings.resolved(
            int(self._train.sum()), self.objective.fixed_batch, self._found.tokens if each else 0
        )
        check_augment(settings.augment)

    def write(
        self, folder: Path, teacher: Teacher, kept: Path, progress: Progress, *, kind: str, resumes: bool
    ) -> None:
        """Write everything that the worker reads."""
        with contextlib.closing(Store(folder, self._found, self._train, self._judge)) as store:
            live = self._add_targets(folder, store, teacher, progress, live=kind == "rehearse")
            fingerprint = self._fingerprint(store) if resumes else {}
            check_checkpoint(kept, fingerprint)
            if self._evaluation is not None:
                (folder / "evaluation.onnx").write_bytes(self._evaluation.SerializeToString())
            job: dict[str, Any] = {
                "kind": kind,
                "checkpoint": str(kept.resolve()),
                "fingerprint": fingerprint,
                "settings": dataclasses.asdict(self._settings),
                "batch_size": self._settings.batch_size,
                "fixed": self.objective.fixed_batch,
                "augment": [str(Path(name).resolve()) if ":" in name else name for name in self._settings.augment],
                "teacher": live,
                **self._hooks,
            }
            write_job(folder, self.objective, store, self._initial, job)
            self._steps = step_count(store.buckets, int(self._settings.batch_size), job["fixed"])

    def _add_targets(
        self, folder: Path, store: Store, teacher: Teacher, progress: Progress, *, live: bool
    ) -> dict[str, str]:
        """Write what the loss compares with; a teacher that the worker is to run itself comes as a file.

        Returns the outputs of that file by what they are for.
        """
        store.add(self._loss.targets(self.objective.shapes))
        wanted = self._loss.teacher
        if not isinstance(teacher, ir.Model):
            store.add({name: np.asarray((teacher or {})[name]) for name in wanted})
        elif wanted and (live or self._settings.augment):
            return save_teacher(folder / "teacher.onnx", teacher, wanted, self.engine, self.objective.fixed_batch)
        else:
            store.teach(teacher, wanted, progress)
        return {}

    def _fingerprint(self, store: Store) -> dict[str, Any]:
        """What must be the same for a checkpoint to be taken up."""
        graph = self.objective.proto.SerializeToString(deterministic=True)
        return {
            "graph": hashlib.blake2b(graph, digest_size=16).hexdigest(),
            "initial weights": hash_arrays(self._initial),
            "samples": store.fingerprint(),
            "settings": dataclasses.asdict(self._settings)
            | {"augment": list(self._settings.augment), "engine": self.engine.name},
            "masks, clusters or pruning": hash_arrays({"": np.frombuffer(json.dumps(self._hooks).encode(), np.uint8)}),
        }

    def result(self, kept: Path) -> Trained:
        """Return what the last checkpoint holds."""
        checkpoint = read_checkpoint(kept)
        if checkpoint is None:
            raise TrainingError(f"the training interpreter ended without a result (log: {kept / LOG})")
        header, arrays = checkpoint
        prefix, objective = "best_" if header["best"] else "", self.objective
        pieces = views(arrays[f"{prefix}flat"], [list(self._initial[name].shape) for name in objective.weights])
        weights = dict(zip(objective.weights, pieces, strict=True))
        for name in objective.parameters:
            del weights[name]
        weights |= {name: arrays[f"{prefix}running_{i}"] for i, name in enumerate(objective.states)}
        broken = next((name for name, array in weights.items() if not np.isfinite(array).all()), None)
        if broken is not None:
            raise TrainingError(f"training ended with '{broken}' not finite; try a lower learning rate")
        return Trained(
            weights,
            header["losses"],
            curve=[(float(loss), float(score)) for loss, score in header["curve"]],
            best=header["best"],
            settings=dataclasses.replace(self._settings, learning_rate=header["rate"], engine=self.engine.name),
            trained=int(self._train.sum()),
            held=int(self._judge.sum()),
            tried=[(float(rate), float(loss)) for rate, loss in header["tried"]],
            stopped=header["stopped"],
            pruned="prune" in self._hooks,
            notes=(self.why,) if self.why else (),
        )

    def rehearsed(self, seconds: float, memory: int | None) -> Rehearsed:
        """Return what it would be."""
        steps = int(self._settings.epochs) * self._steps
        counts = int(self._train.sum()), int(self._judge.sum())
        weights = tuple(name for name in self.objective.weights if name not in self.objective.parameters)
        notes = (self.why,) if self.why else ()
        return Rehearsed(self._settings, *counts, steps, seconds, memory, weights, notes)
