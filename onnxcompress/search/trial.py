"""Carries out trials: one recipe each, from the passes to what it costs and loses. What trials share is kept."""

from __future__ import annotations

import dataclasses
import glob
import json
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from threading import Lock
from typing import Any

import onnx_ir as ir

from ..contract import MODEL, Context, Pass, Plan
from ..errors import OnnxCompressError, PassError
from ..evaluation import timing
from ..evaluation.compare import Comparison, Reference
from ..evaluation.sensitivity import Judge, measure
from ..graph import cost
from ..graph.fingerprint import Fingerprints
from ..kinds import working_copy
from ..layer_times.layer_times import LayerTimes
from ..machines.workers import Workers
from ..plans import PlannedStep
from ..progress import Progress, silent
from ..recipe import parse_pass, step_table
from ..runtime.session import open_session
from ..samples.samples import Samples
from ..samples.split import Parts
from .divide import divide
from .job import Job, Outcome, Part, Source
from .memory import peak_bytes

FIRST = 256
"""Samples that a trial is judged by before it is judged by all."""

TIMED_SECONDS = 0.4
"""How long a trial and the original are timed side by side."""

RANKED_BY = 64
"""Samples that tell which layers cost most."""

RANDOM = "random"
"""The samples where there are none."""

KEPT = 12
"""Models that are kept for trials that begin alike."""

FITTING, JUDGING, VERDICT = 0.01, 0.02, 0.05
"""The original may take such shares of the time of the search to go once through the samples that are fitted to, that
judge a trial, and that give the verdict."""

LEAST = 128
"""Fewer samples than these are not taken, however long they take."""

SIGMAS = 2.0
"""A drop that exceeds what is allowed by so many standard errors is beyond it."""


class TimeIsUpError(OnnxCompressError):
    """A trial took longer than it may."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """A model on the way through a recipe, with what is known of it."""

    model: ir.Model
    context: Context
    planned: tuple[PlannedStep, ...] = ()


@dataclasses.dataclass(frozen=True)
class Shared:
    """What is found once for all processes: the samples, divided, and the seconds that the original takes for one."""

    parts: Parts
    pace: float


class Tester:
    """Carries out trials of one search.

    Parameters
    ----------
    original : onnx_ir.Model
        Not changed.
    source : Source
    shared : Shared, optional
        What is known already: in the process that the search began in.
    progress : callable, optional
    workers : Workers, optional
        Who goes through the samples.

    Attributes
    ----------
    original : onnx_ir.Model
    parts : Parts
        The samples, divided.
    feed, sizes : dict
        One sample, and the shapes of it.
    pace : float
        Seconds that the original takes for a sample.
    """

    def __init__(
        self,
        original: ir.Model,
        source: Source,
        *,
        shared: Shared | None = None,
        progress: Progress | None = None,
        workers: Workers | None = None,
    ) -> None:
        self.original, self.source, self._progress = original, source, progress or silent
        self.parts = _divided(self.original, source) if shared is None else shared.parts
        self._ends = float("inf")
        self._fingerprints = Fingerprints()
        self._stages: dict[tuple[Part, ...], Stage] = {}
        self.feed = _one(self.parts.search)
        self.sizes = {name: (1, *array.shape[1:]) for name, array in self.feed.items() if array.ndim}
        self.pace = _pace(self.original, self.parts.search) if shared is None else shared.pace
        self._fit = self.parts.fit.head(min(source.fit, self._count(FITTING, source.seconds)))
        self._judges = self.parts.search.head(min(source.search, self._count(JUDGING, source.seconds)))
        self._all = Reference(self.original, self._judges)
        self._first = None
        if self._judges.count > 1.5 * FIRST:
            self._first = Reference(self.original, self._judges.head(FIRST))
        context = Context(
            working_copy(self.original),
            original=self.original,
            samples=self._fit,
            seed=source.seed,
            metric=source.metric,
            progress=self._tell,
            workers=workers,
            layer_times=LayerTimes() if source.table is None else LayerTimes.read(source.table),
        )
        self._stages[()] = Stage(context.model, context)

    @cached_property
    def sent(self) -> tuple[Source, ir.Model, Shared]:
        """What `trials_of` takes: the samples themselves, for other processes may not have what they come from."""
        parts = dataclasses.replace(self.parts, fit=self._fit, search=self._judges, unseen=self._judges)
        return dataclasses.replace(self.source, data=None, evaluate_on=None), self.original, Shared(parts, self.pace)

    @property
    def shows(self) -> bool:
        """Whether there are samples that show what is lost."""
        return not self.parts.search.random

    def _count(self, share: float, seconds: float) -> int:
        """Return how many samples the original takes in a share of the time of the search, but no fewer than some."""
        return max(int(share * seconds / max(self.pace, 1e-9)), LEAST)

    def affordable(self, seconds: float) -> int:
        """Return how many samples the verdict may be given on."""
        return self._count(VERDICT, seconds)

    def _tell(self, what: str, done: int, total: int) -> None:
        """Pass on how far a pass is; ends a trial whose time is over."""
        if time.monotonic() > self._ends:
            raise TimeIsUpError("it took too long")
        self._progress(what, done, total)

    def run(self, job: Job) -> Outcome:
        """Carry out one trial; what goes wrong in it is part of the outcome."""
        self._ends = time.monotonic() + job.seconds
        try:
            stage = self.stage(job.recipe)
            return self._measured(job, stage)
        except OnnxCompressError as error:
            return Outcome(job.number, failed=str(error))
        except MemoryError:
            return Outcome(job.number, failed="not enough memory")
        except Exception as error:  # noqa: BLE001  one recipe that breaks must not end the search for others
            return Outcome(job.number, failed=f"internal error: {type(error).__name__}: {error}")
        finally:
            self._ends = float("inf")

    def stage(self, recipe: tuple[Part, ...]) -> Stage:
        """Return the model that a recipe makes; recipes that begin alike share what they begin with."""
        if recipe in self._stages:
            self._stages[recipe] = found = self._stages.pop(recipe)  # it is the latest now
            return found
        before = self.stage(recipe[:-1])
        step = self._step(recipe[-1], before)
        planned = PlannedStep(
            step=step,
            plan=step.plan(before.model, before.context),
            model=self._fingerprints.of(before.model),
            fitted_to=before.context.fitted_to if step.needs.fits else "",
        )
        copy = before.model.clone()
        stage = before
        if planned.carry_out(copy).done:
            stage = Stage(copy, before.context.on(copy), (*before.planned, planned))
        self._stages[recipe] = stage
        self._forget(recipe)
        return stage

    def _forget(self, recipe: tuple[Part, ...]) -> None:
        """Drop the models that were asked for longest ago, but those that this recipe begins with."""
        needed = {recipe[:length] for length in range(len(recipe) + 1)}
        for old in [key for key in self._stages if key not in needed][: max(len(self._stages) - KEPT - len(needed), 0)]:
            del self._stages[old]

    def _step(self, part: Part, before: Stage) -> Pass:
        step = parse_pass(part.text)
        share = float(part.spare)
        if not share:
            return step
        order = before.context.keep(("worst first", part.text), lambda: self._worst_first(step, before))
        names = tuple(glob.escape(name) for name in order[: max(round(share * len(order)), 1)])
        return type(step)(**step.options() | {"exclude": (*step.options()["exclude"], *names)})

    def _worst_first(self, step: Pass, before: Stage) -> list[str]:
        """Order the layers that a pass works on by the noise that each alone makes."""
        parts = step.plan(before.model, before.context).parts() or self._alone(step, before)
        if not parts:
            return []
        judge = Judge(before.model, self._judges.head(RANKED_BY), self.source.metric)
        curves, _ = measure(judge, step, {1.0: parts}, progress=self._tell)
        noise = {name: float("inf") if points[0].sqnr is None else points[0].sqnr for name, points in curves.items()}
        return sorted(noise, key=lambda name: noise[name])

    def _alone(self, step: Pass, before: Stage) -> dict[str, Plan]:
        """Return plans for single tensors where one plan cannot be taken apart; rounded to nearest, to be quick."""
        options = step.options()
        options |= {"rounding": "nearest"} if "rounding" in options else {}
        quick = type(step)(**options)
        done = quick.apply(before.model.clone(), quick.plan(before.model, before.context)).done
        names = dict.fromkeys(change.subject for change in done if change.subject != MODEL)
        made = {}
        for name in names:
            with suppress(PassError):  # it is no tensor of the model that was given
                made[name] = type(step)(**options | {"include": (glob.escape(name),)}).plan(
                    before.model, before.context
                )
        return made

    def _measured(self, job: Job, stage: Stage) -> Outcome:
        model, known = stage.model, cost.cost(stage.model, self.sizes)
        outcome = Outcome(
            job.number,
            passes=tuple(json.dumps(step_table(each.step)) for each in stage.planned),
            bytes=known.bytes,
            macs=known.macs,
            memory=peak_bytes(model, self.sizes),
            zipped=zipped_bytes(model) if job.zipped else None,
            fitted=any(each.fitted_to for each in stage.planned),
        )
        outcome = self._judged(job, model, outcome)
        if not job.timed or outcome.stopped:
            return outcome
        clock = timing.time_models(
            [self.original, model], self.feed, seconds=TIMED_SECONDS, **clocked(self.source.threads)
        )[-1]
        return dataclasses.replace(
            outcome,
            ratio=clock.ratio,
            ratio_low=clock.ratio_low,
            ratio_high=clock.ratio_high,
            milliseconds=clock.median_ms,
        )

    def _judged(self, job: Job, model: ir.Model, outcome: Outcome) -> Outcome:
        """Add what is lost; who loses too much on the first samples is not judged by the others."""
        for reference in (self._first, self._all):
            if reference is None:
                continue
            found = reference.compare(model, self.source.metric)
            drop, error = lost(found) if self.shows else (noise(found), None)
            likely, likely_error = (found.expected, found.expected_error) if self.shows else (None, None)
            outcome = dataclasses.replace(
                outcome, drop=drop, error=error, likely=likely, likely_error=likely_error, sqnr=found.sqnr
            )
            outcome = dataclasses.replace(outcome, metric=found.metric)
            if reference is self._first and drop is not None and drop - SIGMAS * (error or 0) > job.stop_above:
                return dataclasses.replace(outcome, stopped=True)
        return outcome


def lost(found: Comparison) -> tuple[float | None, float | None]:
    """Return the drop and its standard error: of one that counts decisions at least that of one more or less."""
    if found.drop is None:
        return None, None
    error = found.drop_error
    return found.drop, error if error is None or found.changed is None else max(error, 1 / found.count)


def noise(found: Comparison) -> float | None:
    """Return the noise of the first output as a part of its signal, which stands for the drop on made-up samples."""
    if found.sqnr is None:
        return None
    return float(10 ** (-found.sqnr / 20))


def zipped_bytes(model: ir.Model) -> int:
    """Return the bytes of a model compressed by zlib."""
    return len(zlib.compress(ir.to_proto(model).SerializeToString(), 6))


def clocked(threads: int) -> dict[str, Any]:
    """Return how `time_models` measures: on one thread what it computes, which nothing else on the machine disturbs."""
    return {"computing": True} if threads == 1 else {"threads": threads}


def trials_of(source: Source, model: ir.Model, shared: Shared) -> Callable[[Job], Outcome]:
    """Return what carries out trials, one at a time, in whatever process it is; see `onnxcompress.machines.workers`."""
    tester, alone = Tester(model, source, shared=shared), Lock()

    def run(job: Job) -> Outcome:
        with alone:
            return tester.run(job)

    return run


def _pace(model: ir.Model, samples: Samples) -> float:
    """Return the seconds that a sample takes, many at a time; not those in which the machine does something else."""
    session, times, count = open_session(model), [], 0
    for number, batch in enumerate(samples.head(timing.WARM_UP * 16).labelled(16)):
        begun, computed = time.perf_counter(), time.process_time()
        session.run(batch.feeds)
        if number:  # the first run only warms up
            times.append(min(time.perf_counter() - begun, time.process_time() - computed))
            count += batch.count
    return sum(times) / count if count else 0.0


def _divided(model: ir.Model, source: Source) -> Parts:
    data = RANDOM if source.data is None and source.evaluate_on is None else source.data
    return divide(model, data, source.evaluate_on, source.seed)


def _one(samples: Samples) -> dict[str, Any]:
    return next(iter(samples.head(1).batches()))
