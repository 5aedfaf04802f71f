"""From a budget to a model: looks, searches, judges once on samples that nothing has seen, and writes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from ..errors import OnnxCompressError, OptionError
from ..graph import cost
from ..graph.fingerprint import Fingerprints
from ..inspection import saved_bytes
from ..kinds import to_ir
from ..machines.workers import Here
from ..origin import find_origin
from ..package.folder import check_output, save_model
from ..pipeline import check_budget
from ..progress import Progress, silent
from ..runtime.provider import Provider, runs_on_provider
from ..samples.data import located
from ..targets import load_target
from . import space
from .budget import MAX_DROP, SECONDS, Budget, read_budget
from .decide import NOISE, Base, best, front, neighbours
from .finish import cannot_show, judge_limits, made_again, nothing_helps, trials, untouched
from .job import Outcome, Part, Source
from .look import look
from .memory import peak_bytes
from .rounds import Rounds
from .study import Study
from .train import train_best
from .trial import Tester, zipped_bytes

if TYPE_CHECKING:
    from ..kinds import AnyModel
    from ..machines.workers import Workers
    from ..report import Report

QUANTIZED = "it is quantized already; give the float model that it was made of"

Say = Callable[[str], None]


@runs_on_provider
def compress(
    model: AnyModel,
    *,
    objective: str = "latency",
    data: Any = None,
    evaluate_on: Any = None,
    metric: str | None = None,
    max_drop: float | str = MAX_DROP,
    speedup: float | None = None,
    target_size: int | str | None = None,
    max_ms: float | None = None,
    max_memory: int | str | None = None,
    budget: float | str = SECONDS,
    train: float | str = 0,
    keep: int = 1,
    target: str | None = None,
    threads: int = 1,
    table: str | Path | None = None,
    study: str | Path | None = None,
    resume: bool = False,
    output: str | Path | None = None,
    overwrite: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
    provider: Provider | str | None = None,
    workers: Workers | None = None,
    details: bool = False,
) -> tuple[Any, Report]:
    """Find the recipe that makes most of a model within a budget.

    Parameters
    ----------
    model : str, Path, onnx.ModelProto, onnx_ir.Model or gs.Graph
        Never changed. The result comes back in the same kind; a path comes back as an `onnx_ir.Model`.
    objective : {"latency", "size", "zipped", "macs", "memory"}
        What is to become small.
    data, evaluate_on, metric
        As for `onnxcompress.apply`. Samples are divided: to some passes are fitted, by others trials are judged, and
        the rest (or `evaluate_on`) gives the verdict.
    max_drop : float or str
        How much of the metric may be lost: 0.01, or "1%".
    speedup : float, optional
        How many times as fast it has to be. Without it, what is slower is never taken for latency, and for other
        objectives only where it is smaller by more than it is slower; the verdict says so.
    target_size, max_memory : int or str, optional
        The most bytes of the file, and of the weights and tensors of a run (estimated): "300kB".
    max_ms : float, optional
        The most milliseconds of a run of one sample, here.
    budget : float or str
        How long to search: "5m".
    train : float or str
        How long to train what loses a little too much, or else the best: "30m". Training needs the extra `[train]`, or
        the onnxruntime that is there.
    keep : int
        How many models of the front to write: others than the best get its name with -2, -3, ...
    target : str, optional
        As for `onnxcompress.passes.Quantize`.
    threads : int
        Models are timed on so many; 0: on all cores. One tells most about a model: what else the machine does disturbs
        it least.
    table : str or Path, optional
        Layer times of another machine, as `onnxcompress.measure` writes them, for the widths that pruning leaves.
    study : str or Path, optional
        A file that keeps what was tried.
    resume : bool
        Go on with the study in that file.
    output : str or Path, optional
        Where to save the result.
    overwrite : bool
        Replace what is there.
    seed : int
    progress, say : callable, optional
        Called as ``progress(what, done, total)``, and with each line of what the model is and what will be tried.
    provider : Provider or str, optional
        Where models run; see `onnxcompress.Provider`.
    workers : Workers, optional
        Who carries out trials.
    details : bool
        As for `onnxcompress.apply`.

    Returns
    -------
    model, report
        The best model, or the original where nothing helps; `Report.verdict` says which, `Report.trials` what was
        tried, `Report.plans` what the passes decided.

    Raises
    ------
    OnnxCompressError
        See `onnxcompress.errors`; nothing is written then.

    Notes
    -----
    Known good recipes come first; then the tree-structured Parzen estimator varies them for both, cost and drop.
    Ozaki et al. 2020, "Multiobjective tree-structured Parzen estimator", doi:10.1145/3377930.3389817; Akiba et al.
    2019, arXiv:1907.10902.
    """
    asked = read_budget(
        objective,
        max_drop=max_drop,
        speedup=speedup,
        target_size=target_size,
        max_ms=max_ms,
        max_memory=max_memory,
        budget=budget,
        train=train,
    )
    check_budget(asked.max_drop, metric)
    names = _names(model, output, keep, overwrite=overwrite)
    if target is not None:
        load_target(target)
    original, back = to_ir(model)
    source = Source(
        located(data, original),
        located(evaluate_on, original),
        metric,
        seed,
        asked.seconds,
        threads,
        None if table is None else str(table),
    )
    tester = Tester(original, source, progress=progress, workers=workers)
    search, why = _prepared(tester, asked, saved_bytes(model, original), target, workers, progress, say or _silent)
    if not why:
        search.study = Study(
            search.able,
            space.ladder(asked.objective, search.able),
            fingerprint=_fingerprint(tester, asked, target),
            path=study,
            resume=resume,
            seed=seed,
        )
        search.run()
        train_best(search)
    made, report, winner = _result(search, why, details=details)
    report.origin = find_origin(model, original)
    if names and winner is None:
        untouched(model, original, names[0], overwrite=overwrite)
    elif names and winner is not None:
        report.stays = save_model(made, model, names[0], overwrite=overwrite)
        report.notes += _save_others(search, winner, model, names[1:], overwrite=overwrite)
    report.notes += [] if workers is None else workers.notes
    return back(made), report


def _silent(line: str) -> None:
    """Say nothing."""


def _names(model: AnyModel, output: str | Path | None, keep: int, *, overwrite: bool) -> list[Path]:
    """Return the files of the best model, and of the others that are kept."""
    if keep < 1:
        raise OptionError(f"keep = {keep}: expected 1 or more")
    if output is None:
        return []
    path = Path(output)
    names = [path, *(path.with_name(f"{path.stem}-{number}{path.suffix}") for number in range(2, keep + 1))]
    for name in names:
        check_output(model, name, overwrite=overwrite)
    return names


def _prepared(
    tester: Tester,
    budget: Budget,
    size: int,
    target: str | None,
    workers: Workers | None,
    progress: Progress | None,
    say: Say,
) -> tuple[Rounds, str]:
    """Look at the model, say what will be tried, and return the search, or why there is nothing to search for."""
    folded = tester.stage(tuple(Part(text) for text in space.FOLDS))
    seen = look(tester.original, folded.model, tester.feed, tester.parts, target)
    able, lacking = space.elements(budget.objective, seen.facts)
    for line in seen.lines(able, lacking, tester.parts, budget):
        say(line)
    if not tester.shows:
        budget = dataclasses.replace(budget, max_drop=max(budget.max_drop, NOISE))
    original = tester.original
    base = Base(
        size,
        zipped_bytes(original) if budget.objective == "zipped" else None,
        cost.cost(original, tester.sizes).macs,
        peak_bytes(original, tester.sizes),
    )
    search = Rounds(tester, able, budget, base, target, workers or Here(), progress or silent)
    return search, "" if "float" in seen.facts else QUANTIZED


def _fingerprint(tester: Tester, budget: Budget, target: str | None) -> str:
    """Return what tells studies apart: the model, the samples, and what was asked for."""
    parts = tester.parts
    data = f"{parts.fit.description} {parts.search.count}"
    return f"{Fingerprints().of(tester.original)} {data} {tester.source.metric} {budget.objective} {target}"


def _result(search: Rounds, why: str, *, details: bool) -> tuple[ir.Model, Report, Outcome | None]:
    """Make the best model once more; one whose passes do not keep their promise gives way to the next."""
    outcomes = list(search.outcomes)
    while not why and (winner := best(outcomes, search.base, search.budget)) is not None:
        stage = search.stage_of(winner)
        try:
            made, report = made_again(search, stage.planned, search.base.bytes, details=details)
        except OnnxCompressError as error:
            search.fail(winner, str(error))
            outcomes = list(search.outcomes)
            continue
        verdict = report.verdict if search.tester.shows else cannot_show(winner, search.budget)
        report.verdict = judge_limits(verdict, report, winner.memory, search.budget)
        return made, _told(search, report, winner), winner
    made, report = made_again(search, (), search.base.bytes)
    report.verdict = nothing_helps(search, why)
    return search.tester.original, _told(search, report, None), None


def _told(search: Rounds, report: Report, winner: Outcome | None) -> Report:
    report.objective, report.trials = search.budget.objective, trials(search, winner)
    report.notes += ["The search was interrupted; this is the best until then"] if search.interrupted else []
    return report


def _save_others(search: Rounds, winner: Outcome, model: AnyModel, names: list[Path], *, overwrite: bool) -> list[str]:
    """Write what else is on the front, the nearest to the winner first; returns a line for each."""
    on_front = front(search.outcomes, search.base, search.budget)
    said = []
    for name, other in zip(names, neighbours(winner, on_front, len(names)), strict=False):
        stage = search.stage_of(other)
        save_model(stage.model, model, name, overwrite=overwrite)
        said.append(f"{name.name}: {search.words_of(other)}, drop {other.drop:.4f} on the samples of the search")
    return said
