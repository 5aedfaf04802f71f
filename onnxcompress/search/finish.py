"""What comes behind a search: the winner is made once more, judged on samples that nothing has seen, and told of."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir

from .. import files
from ..display import units
from ..evidence import Trial, Verdict
from ..graph.exports import model_file
from ..graph.save import save, weights
from ..package.folder import is_file_name, save_model
from ..pipeline import Run
from .budget import Budget
from .decide import cost_of, front, gains, loss_of, usable
from .job import Outcome
from .space import describe
from .trial import clocked

if TYPE_CHECKING:
    from ..kinds import AnyModel
    from ..plans import PlannedStep
    from ..report import Report
    from .rounds import Rounds

CALLED = {
    "latency": "time",
    "size": "bytes",
    "zipped": "zipped bytes",
    "macs": "multiply-accumulates",
    "memory": "memory",
}


def made_again(
    search: Rounds, planned: Sequence[PlannedStep], original_bytes: int, *, details: bool = False
) -> tuple[ir.Model, Report]:
    """Carry out plans step by step, verified, and judge what comes of them on samples that nothing has seen.

    Raises
    ------
    VerifyError
        A pass has not kept its promise.
    """
    tester = search.tester
    parts, source = tester.parts, tester.source
    unseen = parts.unseen.head(tester.affordable(search.budget.seconds))
    run = Run(
        tester.original, parts.fit, unseen, source.metric, source.seed, search.progress, apart=True, details=details
    )
    run.report.stages[0].bytes = original_bytes
    for number, each in enumerate(planned, 1):
        run.step(each.step, each, judged=number == len(planned))
    run.report.unseen = parts.apart
    run.judge(search.budget.max_drop)
    return run.model, run.finish(**clocked(search.threads))


def untouched(model: AnyModel, original: ir.Model, output: str | Path, *, overwrite: bool) -> None:
    """Write the original as it came."""
    external = any(isinstance(tensor, ir.ExternalTensor) for tensor in weights(original))
    if not is_file_name(output):
        save_model(original, model, output, overwrite=overwrite)
    elif isinstance(model, (str, Path)) and not external:
        files.write_bytes(output, model_file(model).read_bytes(), overwrite=overwrite)
    else:
        save(original, output, overwrite=overwrite)


def trials(search: Rounds, winner: Outcome | None) -> list[Trial]:
    """Return what was tried, as evidence."""
    on_front = {id(each) for each in front(search.outcomes, search.base, search.budget)}
    found = []
    for params, outcome in search.tried:
        state = "front" if id(outcome) in on_front else "dominated"
        state = (
            "winner" if outcome is winner else "failed" if outcome.failed else "stopped" if outcome.stopped else state
        )
        note = outcome.failed or ("it lost too much on the first samples" if outcome.stopped else "")
        found.append(
            Trial(
                outcome.number,
                describe(params, search.able),
                outcome.bytes,
                outcome.zipped,
                outcome.macs,
                outcome.ratio,
                outcome.drop,
                outcome.error,
                state,  # type: ignore[arg-type]
                note,
            )
        )
    return found


def nothing_helps(search: Rounds, why: str = "") -> Verdict:
    """Return the verdict where the original is the best there is, with why."""
    budget, base = search.budget, search.base
    asked = budget.asked()
    if why:
        return Verdict("nothing helps", f"Nothing helps: {why}; the original stays as it is", asked=asked)
    named = [(describe(p, search.able), o) for p, o in search.tried if usable(o) and gains(o, base, budget)]
    what = CALLED[budget.objective]
    tried = f"none of {len(search.tried)} recipes takes less {what} and keeps what was asked for"
    details = []
    if named:
        name, nearest = min(named, key=lambda each: loss_of(each[1])[0])
        details.append(
            f"The nearest was {name}: {cost_of(nearest, base, budget):.2f} of the {what}, "
            f"drop {units.number(nearest.drop)}" + (f", {nearest.ratio:.2f} of the time" if nearest.ratio else "")
        )
    failed = sorted({outcome.failed for outcome in search.outcomes if outcome.failed})
    details += [f"Not possible: {text}" for text in failed[:3]]
    return Verdict("nothing helps", f"Nothing helps: {tried}; the original stays as it is", tuple(details), asked=asked)


def cannot_show(winner: Outcome, budget: Budget) -> Verdict:
    """Return the verdict where there are no samples that could tell what is lost."""
    sentence = "Not shown: random samples cannot tell how much of the metric is lost; give samples with --data"
    noise = () if winner.sqnr is None else (f"On random inputs the signal is {winner.sqnr:.0f} dB above what changed",)
    return Verdict("not shown", sentence, noise, asked=budget.asked())


def judge_limits(verdict: Verdict | None, report: Report, memory: int, budget: Budget) -> Verdict | None:
    """Add to a verdict what else was asked for, and whether that is so."""
    if verdict is None:
        return None
    first, last = report.stages[0], report.stages[-1]
    reached: list[tuple[bool, str]] = []
    if last.ratio is not None and budget.speedup is not None:
        reached.append(
            (last.ratio * budget.speedup <= 1, f"{1 / last.ratio:.2f} times as fast, {budget.speedup:g} asked")
        )
    if budget.target_size is not None:
        sizes = f"{units.size(last.bytes)}, at most {units.size(budget.target_size)} asked"
        reached.append((last.bytes <= budget.target_size, sizes))
    if budget.max_ms is not None and last.milliseconds is not None:
        times = f"{last.milliseconds:.3g} ms, at most {budget.max_ms:g} asked"
        reached.append((last.milliseconds <= budget.max_ms, times))
    if budget.max_memory is not None:
        takes = f"about {units.size(memory)} of memory, at most {units.size(budget.max_memory)} asked"
        reached.append((memory <= budget.max_memory, takes))
    missed = [text for held, text in reached if not held]
    gained = f"{units.size(first.bytes)} became {units.size(last.bytes)}"
    gained += f", {last.speed.headline}: {last.speed.share}" if last.speed is not None else ""
    details = (gained, *verdict.details, *(text for held, text in reached if held))
    found = dataclasses.replace(verdict, details=details, asked=budget.asked())
    if not missed:
        return found
    sentence = f"Not held: {'; '.join(missed)}"
    return dataclasses.replace(found, state="not held", sentence=sentence, details=(verdict.sentence, *details))
