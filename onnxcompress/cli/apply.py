"""``onnxcompress apply``."""

from __future__ import annotations

from collections.abc import Sized
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from ..urls import located
from .app import (
    FELL_SHORT,
    AsJson,
    DataOption,
    JudgeOption,
    MaxDrop,
    MetricOption,
    ModelOrFolder,
    Overwrite,
    SchedulerOption,
    Seed,
    TableOption,
    exit_status,
)
from .provider import on_provider

if TYPE_CHECKING:
    from ..report import Report

OutOption = Annotated[
    Path | None, typer.Option("-o", "--output", metavar="OUT", help="What to write: a file, or a folder for one.")
]
RecipeOption = Annotated[
    list[str] | None, typer.Option("-r", "--recipe", metavar="FILE.toml", help="A file of passes.")
]
StepOption = Annotated[list[str] | None, typer.Option("-p", "--pass", metavar="'NAME key=value ...'", help="One pass.")]
ReportOption = Annotated[
    Path | None, typer.Option("--report", metavar="FILE", help="Write the evidence: .html, .json or .md.")
]
PlansOption = Annotated[
    Path | None, typer.Option("--plans", metavar="DIR", help="Write what each pass decided, a JSON file for each.")
]
ReplayOption = Annotated[
    Path | None,
    typer.Option("--replay", metavar="DIR", help="Carry out plans: of a folder, or one file."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what each pass would do; write nothing.")]


class InOrder(TyperCommand):
    """Keeps the order in which -r and -p stand on the command line; Typer gathers each by itself."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse, and leave ``[("recipe", value), ("step", value), ...]`` in ``ctx.meta["steps"]``."""
        values, _, order = self.make_parser(ctx).parse_args(args=list(args))
        given = {name: iter(values.get(name) or ()) for name in ("recipe", "step")}
        ctx.meta["steps"] = [(p.name, next(given[p.name])) for p in order if p.name in given]
        return super().parse_args(ctx, args)


@on_provider
def apply(
    ctx: typer.Context,
    model: ModelOrFolder,
    out: OutOption = None,
    recipe: RecipeOption = None,
    step: StepOption = None,
    replay: ReplayOption = None,
    data: DataOption = None,
    evaluate_on: JudgeOption = None,
    metric: MetricOption = None,
    max_drop: MaxDrop = None,
    report: ReportOption = None,
    plans: PlansOption = None,
    table: TableOption = None,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
    seed: Seed = 0,
    scheduler: SchedulerOption = None,
    as_json: AsJson = False,
) -> int:
    """Run passes over MODEL, in the order of -r and -p."""
    _check_usage(
        ctx,
        {
            "give one recipe (-r) or pass (-p) at least, or --replay": not recipe and not step and replay is None,
            "--replay takes no -r and no -p: the plans say what to do": replay is not None and bool(recipe or step),
            "give -o OUT, or --dry-run": not dry_run and out is None,
            "--dry-run writes nothing, so it takes no --report": dry_run and report is not None,
            "--dry-run writes nothing, so it takes no --plans": dry_run and plans is not None,
        },
    )
    from .. import folders
    from ..display import console
    from ..machines.dask_workers import workers_at
    from ..outputs import check_outputs, named_by
    from ..plans import read_plans
    from ..recipe import read_steps

    planned = None if replay is None else read_plans(replay)
    passes = read_steps(ctx.meta["steps"]) if planned is None else [each.step for each in planned]
    target = None if dry_run else out
    read = named_by(data, evaluate_on, metric) | {f"-r {r}": r for r in recipe or ()}
    read |= {} if table is None else {"--table": str(table)}
    read |= {f"--replay {each.where}": each.where for each in planned or ()}
    check_outputs(model, output=target, report=report, plans=plans, read=read, passes=passes, overwrite=overwrite)
    given: dict[str, Any] = {"data": data, "evaluate_on": evaluate_on, "metric": metric, "max_drop": max_drop}
    given |= {"seed": seed, "rehearsal": dry_run, "details": report is not None, "table": table}
    with workers_at(scheduler) as workers, console.progress_bar() as progress:
        given |= {"workers": workers, "progress": progress, "output": target, "overwrite": overwrite}
        found = folders.apply_all(model, () if planned is not None else passes, plans=planned, **given)
    status = 0
    for name, each in found.items():
        each.origin = replace(each.origin, command=ctx.meta["command"])
        if len(found) > 1 and not as_json:
            console.show(name)
        if target is not None:
            ctx.meta["written"] = f"{located(target)}"
            write(each, beside(report, name, found), within(plans, name, found), overwrite=overwrite)
        _show(each, target, as_json=as_json)
        status = max(status, _verdict(each, dry_run=dry_run))
    return status


def beside(path: Path | None, name: str, found: Sized) -> Path | None:
    """Return where the report of one model of several goes."""
    several = path is not None and len(found) > 1
    return path.with_name(f"{path.stem}-{Path(name).stem}{path.suffix}") if several and path is not None else path


def within(path: Path | None, name: str, found: Sized) -> Path | None:
    """Return where the plans of one model of several go."""
    return path / Path(name).stem if path is not None and len(found) > 1 else path


def write(found: Report, report: Path | None, plans: Path | None, *, overwrite: bool) -> None:
    """Write the evidence and the plans to where the user wants them."""
    from ..plans import write_plans

    if report is not None:
        found.to_file(report, overwrite=overwrite)
    if plans is not None:
        write_plans(plans, found.plans, overwrite=overwrite)


def _show(found: Report, target: Path | None, *, as_json: bool) -> None:
    from ..display import console, tables

    if as_json:
        console.show_text(found.to_json())
    elif target is None:
        console.show(*tables.plans(found.steps))
    else:
        console.show(found.to_table(), tables.steps(found.steps), f"Written: {located(target)}", *found.stays)


def _verdict(found: Report, *, dry_run: bool) -> int:
    from ..display import console

    if dry_run:
        return 0
    for text in found.unmet:
        console.say(f"fell short: {text}")
    status = exit_status(found.verdict)
    return FELL_SHORT if found.unmet else status


def _check_usage(ctx: typer.Context, wrong: dict[str, bool]) -> None:
    for message, holds in wrong.items():
        if holds:
            raise typer.BadParameter(message, ctx)
