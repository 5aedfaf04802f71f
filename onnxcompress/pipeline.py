"""Runs passes one after another: plan, copy, apply, verify, commit."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from . import cautions
from .cautions import Ran
from .contract import Context, Pass, Plan
from .errors import DataError, OptionError, PlanError, VerifyError
from .evidence import Stage, Step, Verdict
from .graph import cost, edit
from .graph.fingerprint import Fingerprints
from .graph.save import weights
from .inspection import saved_bytes
from .kinds import to_ir, working_copy
from .layer_times.layer_times import LayerTimes
from .machines.workers import Here
from .origin import command_of, find_origin
from .package import folder
from .plans import PlannedStep, read_plans
from .progress import Progress, silent
from .report import Report
from .runtime.installed import runtime_version
from .runtime.provider import Provider, running, runs_on_provider
from .samples.split import split
from .targets.here import elsewhere
from .verify import Verifier

if TYPE_CHECKING:
    from .evaluation.compare import Comparison, Reference
    from .evaluation.profiled import Profiled
    from .evaluation.timing import Timing
    from .kinds import AnyModel
    from .machines.workers import Workers
    from .runtime.session import Array
    from .samples.samples import Samples

TIMED_SECONDS = 1.0
"""How long all stages together are timed."""

RANDOM_NODES = "The model draws random numbers, so that what is measured varies; steps were checked with fixed ones"
"""What is said of such a model, before its nodes."""

DEFAULTS = (
    "inputs have a default that a caller may replace, so that no pass changed them; freeze-inputs makes them constants"
)
"""What is said of a model with such inputs, after their number."""

VERDICTS = ("nothing helps", "not held", "not shown", "held")
"""The worst first."""

TIMED_BYTES = 1 << 28
"""Models up to this size are all timed side by side; of larger ones only the original and the result."""


@runs_on_provider
def apply(
    model: AnyModel,
    passes: Sequence[Pass] = (),
    *,
    plans: str | Path | Sequence[PlannedStep] | None = None,
    data: Any = None,
    metric: str | None = None,
    max_drop: float | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
    evaluate_on: Any = None,
    rehearsal: bool = False,
    provider: Provider | str | None = None,
    workers: Workers | None = None,
    details: bool = False,
    table: str | Path | None = None,
) -> tuple[Any, Report]:
    """Run passes over a model, verify each, measure, and save.

    Parameters
    ----------
    model : str, Path, onnx.ModelProto, onnx_ir.Model or gs.Graph
        Never changed. The result comes back in the same kind; a path comes back as an `onnx_ir.Model`.
    passes : sequence of Pass
    plans : str, Path or sequence of PlannedStep, optional
        In place of `passes`: what they decided in an earlier run over the same model (`Report.plans`), or the folder
        or file where that is. The same plans give the same bytes, without samples.
    data : optional
        Samples for the passes: an ``.npz`` file, a folder of them, ``file.py:function``, "random", or in Python a
        dict of arrays named after the inputs (and ``labels``); see `onnxcompress.samples.samples`.
    metric : str, optional
        A name, such as top1 or ``cosine:embedding``, or ``file.py:function``; see
        `onnxcompress.evaluation.metrics.find_metric`. By default what the model is for decides, and the labels; the
        report says where that is a guess.
    max_drop : float, optional
        How much of the metric may be lost (0.01 of top1 is a point): `Report.verdict` says whether that holds.
    output : str or Path, optional
        Where to save the result: a file, or where `model` is a folder (or the model of one that has a
        ``genai_config.json``) also a folder, which gets all that lies beside the model.
    overwrite : bool
        Replace `output` if it exists.
    seed : int
        Seeds everything random: the same call gives the same bytes.
    progress : callable, optional
        Called as ``progress(what, done, total)``.
    evaluate_on : optional
        Samples to measure on: what a pass was fitted to should not judge it. Without them, and with 50 of `data` or
        more, one sample in five is kept from passes that need samples, and judges; see `Report.basis`.
    rehearsal : bool
        Passes may estimate what takes long (training) in place of doing it; the report says so.
    provider : Provider or str, optional
        Where to measure, calibrate and judge: a name, such as "cuda", or an `onnxcompress.Provider`.
    workers : Workers, optional
        Who goes through the samples: an `onnxcompress.machines.dask_workers.DaskWorkers`, in place of this process. The
        result is the same.
    details : bool
        Look into each layer, and for the samples that suffer most, which takes some seconds: the page has more then.
    table : str or Path, optional
        Times of layers that `onnxcompress.measure` wrote, perhaps on another machine; by default they are measured
        here, where a pass asks for them.

    Returns
    -------
    model, report
        The compressed model and the `Report`.

    Raises
    ------
    OnnxCompressError
        See `onnxcompress.errors`; nothing is written then.
    """
    if output is not None:
        folder.check_output(model, output, overwrite=overwrite)
    steps = _steps(passes, plans)
    original, back = to_ir(model)
    if output is not None:
        folder.check_config(original, model, output)
    fits = any(step.needs.fits if planned is None else planned.fitted_to for step, planned in steps)
    samples = split(original, data, evaluate_on, fits=fits, seed=seed)
    _check_needs([step for step, planned in steps if planned is None], samples.fit)
    check_budget(max_drop, metric)
    workers = workers or Here()
    times = None if table is None else LayerTimes.read(table)
    run = Run(
        original,
        samples.fit,
        samples.judge,
        metric,
        seed,
        progress,
        apart=samples.apart,
        rehearsal=rehearsal,
        workers=workers,
        details=details,
        layer_times=times,
    )
    given = {"data": data, "evaluate_on": evaluate_on, "metric": metric, "output": output, "seed": seed}
    command = "" if plans is not None else command_of(model, passes, **given)
    run.report.origin = find_origin(model, original, command)
    run.report.stages[0].bytes = saved_bytes(model, original)
    for step, planned in steps:
        run.step(step, planned)
    run.judge(max_drop)
    report = run.finish()
    report.notes += workers.notes
    if output is not None:
        report.stays = folder.save_model(run.model, model, output, overwrite=overwrite)
    return back(run.model), report


def check_budget(max_drop: float | None, metric: str | None) -> None:
    """Raise `OnnxCompressError` unless so much of a metric can be asked for."""
    from .evaluation.metrics import find_metric

    if max_drop is not None and not max_drop >= 0:
        raise OptionError(f"max_drop = {max_drop!r}: expected 0 or more, such as 0.01")
    if max_drop is not None and metric is not None:
        find_metric(metric).drop(0.0, 0.0)


def _steps(
    passes: Sequence[Pass], plans: str | Path | Sequence[PlannedStep] | None
) -> list[tuple[Pass, PlannedStep | None]]:
    """Return each pass with what it decided before, if it did."""
    if plans is None:
        for step in passes:
            if not isinstance(step, Pass):
                raise OptionError(f"passes: expected Pass objects, got {type(step).__name__}; see onnxcompress.passes")
        return [(step, None) for step in passes]
    if passes:
        raise OptionError("apply: give passes or plans, not both")
    planned = read_plans(plans) if isinstance(plans, (str, Path)) else plans
    for each in planned:
        if not isinstance(each, PlannedStep):
            raise OptionError(f"plans: expected those of Report.plans, got {type(each).__name__}")
    return [(each.step, each) for each in planned]


def _check_needs(passes: Sequence[Pass], samples: Samples | None) -> None:
    for step in passes:
        if step.needs.samples and samples is None:
            raise DataError(f"{step.name} needs samples; give them with --data (data=...)")


class Run:
    """One run of a pipeline: the model as it is now, and the evidence so far.

    Parameters
    ----------
    original : onnx_ir.Model
        Never changed: work goes on in copies, which share its weights.
    samples, judges : Samples or None
        What passes see, and what the model is measured on.
    apart : bool
        What passes see does not judge.
    """

    def __init__(
        self,
        original: ir.Model,
        samples: Samples | None,
        judges: Samples | None,
        metric: str | None,
        seed: int,
        progress: Progress | None,
        *,
        apart: bool = False,
        rehearsal: bool = False,
        workers: Workers | None = None,
        details: bool = False,
        layer_times: LayerTimes | None = None,
    ) -> None:
        self._rehearsal, self._workers, self._details, self._layer_times = rehearsal, workers, details, layer_times
        self.original, self.samples, self.seed, self._apart = original, samples, seed, apart
        self.progress: Progress = progress or silent
        self.model = working_copy(original)
        feeds = None if samples is None else samples.few()
        self._sizes = None if feeds is None else {name: (1, *a.shape[1:]) for name, a in feeds[0].items() if a.ndim}
        self._verifier = Verifier(self.model, feeds)
        self._metric = metric
        self._judges, self._reference = judges, None if judges is None else _reference(original, judges)
        self._models: list[ir.Model] = []
        self._profiled: Profiled | None = None
        self._found: Comparison | None = None
        self._ran: list[Ran] = []
        self._fingerprints = Fingerprints()
        self.report = Report(seed=seed, versions=_versions(), provider=running().describe())
        if judges is not None:
            self.report.data, self.report.random, self.report.unseen = judges.description, judges.random, True
        if self._verifier.random:
            self.report.notes.append(f"{RANDOM_NODES}: {', '.join(self._verifier.random)}")
        self._measure("original")

    def step(self, step: Pass, planned: PlannedStep | None = None, *, judged: bool = True) -> Plan:
        """Plan, copy, apply, verify, commit; a pass that does not hold its promise leaves the model as it was.

        What was `planned` before is carried out as it is, and verified like any other. Where it is not to be `judged`,
        the metric is not taken.
        """
        fingerprint = self._fingerprints.of(self.model)
        self._forget()
        self.progress(step.name, 0, 1)
        if planned is None:
            planned = self._plan(step, fingerprint)
        elif planned.model != fingerprint:
            before = "" if not self.report.steps else f" than {self.report.steps[-1].name} leaves here"
            raise PlanError(f"{planned.of()}: model: it was made for another model{before}; plan anew")
        else:
            self._remember_fit(step, planned.fitted_to, unseen=None)
        self.report.plans.append(planned)
        self.report.unmet += [f"{step.name}: {text}" for text in planned.plan.unmet]
        given, copy = self.model, self.model.clone()
        changes = planned.carry_out(copy)
        if changes.done:
            self._check(step, copy)
            self.model = copy
        self.report.steps.append(
            Step(
                step.name,
                step.options() | planned.plan.chosen,
                list(changes.done),
                list(changes.refused),
                list(changes.notes),
                list(changes.curve),
            )
        )
        self._measure(step.name, judged=judged)
        said = self._rehearsal or bool(planned.plan.unmet)
        self._ran.append(Ran(step, self.report.steps[-1], self.report.stages[-1], said))
        if judged and (asked := step.options().get("max_drop")) is not None:
            self._judge_step(step.name, asked, given)
        self.progress(step.name, 1, 1)
        return planned.plan

    def _plan(self, step: Pass, fingerprint: str) -> PlannedStep:
        context = Context(
            self.model,
            original=self.original,
            samples=self.samples,
            seed=self.seed,
            progress=self.progress,
            metric=self._metric,
            verifier=self._verifier,
            rehearsal=self._rehearsal,
            workers=self._workers,
            layer_times=self._layer_times,
        )
        plan = step.plan(self.model, context)
        self._remember_fit(step, context.fitted_to, unseen=self._apart)
        return PlannedStep(step=step, plan=plan, model=fingerprint, fitted_to=context.fitted_to)

    def _check(self, step: Pass, copy: ir.Model) -> None:
        promised = step.promise
        try:
            self._verifier.check(
                copy,
                tolerance=promised.tolerance,
                retyped=promised.retypes,
                freezes=promised.freezes,
                narrows=promised.narrows,
            )
        except VerifyError as error:
            raise VerifyError(f"{step.name}: {error}; it was rolled back and nothing is written") from None

    def _remember_fit(self, step: Pass, samples: str, *, unseen: bool | None) -> None:
        """Remember that a pass was fitted to samples: one that may have seen what judges spoils the evidence."""
        if samples:
            self.report.fitted.append(step.name)
            self.report.fitted_to = samples
            self.report.unseen = unseen and self.report.unseen

    def judge(self, max_drop: float | None) -> None:
        """Say whether the model as it is now has lost no more of the metric than that, beside the original."""
        from . import verdict

        if max_drop is None:
            return
        if self._found is None:
            self._take(verdict.no_samples(max_drop))
        else:
            self._take(verdict.judge_drop(self._found, max_drop, unseen=self.report.unseen))

    def _judge_step(self, name: str, max_drop: float, given: ir.Model) -> None:
        """Say whether one pass has lost no more than that, beside the model that it was given."""
        from . import verdict

        if self._found is None or self._judges is None:
            return  # a plan that is carried out again was judged when it was made
        found = self._found
        if len(self.report.steps) > 1:
            found = _reference(given, self._judges).compare(self.model, self._metric)
        found_of = verdict.judge_drop(found, max_drop, unseen=self.report.unseen)
        self._take(replace(found_of, sentence=f"{name}: {found_of.sentence}"))

    def _take(self, verdict: Verdict) -> None:
        """Keep the worst verdict; the others are among its details."""
        known = self.report.verdict
        worst = verdict if known is None else min(verdict, known, key=lambda each: VERDICTS.index(each.state))
        others = tuple(each.sentence for each in (known, verdict) if each is not None and each is not worst)
        self.report.verdict = replace(worst, details=(*worst.details, *others))

    def finish(self, **clock: Any) -> Report:
        """Time the stages side by side, `clock` as for `time_models`, and compare the layers before and after."""
        from .evaluation.timing import time_models

        self._forget()
        if defaults := edit.defaults(self.model.graph):
            self.report.notes.append(f"{len(defaults)} {DEFAULTS}")
        for samples in (self.samples, self._judges):
            told = [] if samples is None else samples.notes
            self.report.notes += [text for text in told if text not in self.report.notes]
        count = len(self.report.stages)
        chosen = range(count) if len(self._models) == count else range(0, count, count - 1)
        feeds = dict(self._verifier.feeds[0]) if self.samples is None else next(iter(self.samples.head(1).batches()))
        timings = time_models(self._models, feeds, seconds=TIMED_SECONDS, **clock)
        for index, timing in zip(chosen, timings, strict=True):
            self.report.stages[index].time(timing.speed, timings[0].median_ms)
        self._say_where()
        self._caution()
        self._warn_of_slow_steps(feeds, timings)
        self._explain_slowness(feeds, timings)
        self._look_closer(feeds)
        return self.report

    def _look_closer(self, feeds: dict[str, Array]) -> None:
        from .evaluation.layers import Pair
        from .examine import Subject, examine

        pair = Pair(self._models[0], self.model, self._sizes)
        self.report.layers = pair.layers()
        if self._details:
            profile = partial(self._profile, feeds)
            subject = Subject(self._models[0], self.model, feeds, self.samples, self._reference, profile)
            examine(self.report, subject, pair)

    def _profile(self, feeds: dict[str, Array]) -> Profiled:
        """Profile the original and the result, once; kernels share the times that are in the report."""
        from .evaluation.profiled import profile_pair

        if self._profiled is None:
            first, last = (stage.milliseconds for stage in (self.report.stages[0], self.report.stages[-1]))
            times = (first, last) if first and last else None
            self._profiled = profile_pair(self._models[0], self.model, feeds, times)
        return self._profiled

    def _caution(self) -> None:
        """Say what nobody can have wanted; that nothing was done falls short of what was asked for."""
        idle = list(cautions.without_effect(self._ran))
        if cautions.nothing_done(self._ran):
            self.report.unmet += idle
        else:
            self.report.warnings += idle
        self.report.warnings += [*cautions.zeros_that_stay(self._ran), *cautions.growth(self.report.stages)]

    def _warn_of_slow_steps(self, feeds: dict[str, Array], timings: Sequence[Timing]) -> None:
        """Say which steps made the model slower; what is made for another target is not timed here."""
        from .evaluation.step_times import slower_steps

        if self._large and timings[-1].speed.state == "unclear":
            return  # to time them again takes as long as a pass
        names = [stage.name for stage in self.report.stages]
        targets = [None, *(step.options.get("target") for step in self.report.steps)]
        here = next((count for count, target in enumerate(targets) if elsewhere([target])), len(targets))
        if len(self._models) < len(names):  # only the first and the last of large models are kept
            names, here = [names[0], " and ".join(dict.fromkeys(names[1:]))], 2 if here == len(targets) else 0
        self.report.warnings += slower_steps(self._models[:here], names, timings, feeds, TIMED_SECONDS)

    def _explain_slowness(self, feeds: dict[str, Array], timings: Sequence[Timing]) -> None:
        """Look into a slower result, or a quantized one that is not faster than float, once a second timing agrees."""
        from .evaluation import slowness
        from .evaluation import timing as clock

        if not running().is_cpu or self._meant_for() or self.model is self._models[0]:
            return  # other providers have no kernels that could be told apart, and other targets other ones
        if self._large and not self._details:
            return  # it takes longer than all that went before
        quantized = slowness.is_quantized(self.model) and not slowness.is_quantized(self.original)
        if not slowness.is_slow(timings[-1], quantized=quantized):
            return
        again = clock.time_models([self._models[0], self.model], feeds, seconds=TIMED_SECONDS)[-1]
        if slowness.is_slow(again, quantized=quantized):
            self.report.not_faster = slowness.explain(self._profile(feeds))

    def _meant_for(self) -> str | None:
        """Return the target that a pass made the model for, where that is not what runs it here."""
        return elsewhere(step.options.get("target") for step in self.report.steps)

    def _say_where(self) -> None:
        """Note what the times stand for: how much of the models the provider runs, and for which target they are."""
        from .runtime.session import open_session

        where = running()
        if other := self._meant_for():
            self.report.notes.append(f"Made for {other}: its time on {where.name} here is not the time there")
        if where.is_cpu:
            return
        taken = [open_session(model).taken(where) for model in (self.original, self.model)]
        parts = [f"{found[0]} of {found[1]} nodes" for found in taken if found is not None]
        if len(parts) == len(taken):
            self.report.notes.append(f"{where.name} runs {parts[0]} of the original and {parts[1]} of the result")

    @property
    def _large(self) -> bool:
        return self.report.stages[0].bytes > TIMED_BYTES

    def _forget(self) -> None:
        """Free large models that are done with, and the pages of mapped weights.

        Nodes and values refer to each other, and so keep the weights of their models until they are collected.
        """
        if self._large:
            gc.collect()
            for tensor in weights(self.original):
                edit.release_pages(tensor)

    def _measure(self, name: str, *, judged: bool = True) -> None:
        known = cost.cost(self.model, self._sizes)
        stage = Stage(name, known.bytes, known.parameters, known.macs)
        if self._reference is not None and judged:
            found = self._reference.compare(self.model if self._models else self.original, self._metric)
            self._found = found
            self.report.metric, self.report.samples = found.metric, found.count
            stage.metric, stage.agreement = found.value_b, found.agreement
            self.report.notes += [note for note in found.notes if note not in self.report.notes]
            self.report.notes += [
                f"after {name}, output '{item.name}' has another size in {item.resized} of the runs over the samples"
                for item in found.outputs
                if item.resized
            ]
        self.report.stages.append(stage)
        if self._large:
            del self._models[1:]
        self._models.append(self.model)


def _reference(model: ir.Model, samples: Samples) -> Reference:
    from .evaluation.compare import Reference

    return Reference(model, samples)


def _versions() -> dict[str, str]:
    runtime, its_version = runtime_version()
    named = {name: version(name) for name in ("onnxcompress", "onnx", "onnx-ir", "numpy")}
    return {**named, runtime: its_version}
