"""``onnxcompress compress``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..urls import located
from .app import (
    AsJson,
    DataOption,
    JudgeOption,
    MetricOption,
    ModelOrFolder,
    Overwrite,
    SchedulerOption,
    Seed,
    TableOption,
    exit_status,
)
from .apply import PlansOption, ReportOption
from .provider import on_provider

if TYPE_CHECKING:
    from ..report import Report

RECIPE = "recipe.toml"
"""The name of the recipe among the plans."""


@on_provider
def compress(
    ctx: typer.Context,
    model: ModelOrFolder,
    out: Annotated[
        Path, typer.Option("-o", "--output", metavar="OUT", help="What to write: a file, or a folder for one.")
    ],
    data: DataOption = None,
    evaluate_on: JudgeOption = None,
    metric: MetricOption = None,
    objective: Annotated[
        str, typer.Option("--for", metavar="WHAT", help="latency, size, zipped, macs or memory.")
    ] = "latency",
    max_drop: Annotated[
        str, typer.Option("--max-drop", metavar="X", help="How much of the metric may be lost: 1%, or 0.01.")
    ] = "1%",
    speedup: Annotated[
        float | None, typer.Option("--speedup", metavar="N", help="At least so many times as fast; below 1: slower.")
    ] = None,
    target_size: Annotated[
        str | None, typer.Option("--target-size", metavar="SIZE", help="The largest file: 300kB.")
    ] = None,
    max_ms: Annotated[
        float | None, typer.Option("--max-ms", metavar="MS", help="The longest run of one sample, here.")
    ] = None,
    max_memory: Annotated[
        str | None, typer.Option("--max-memory", metavar="SIZE", help="The most memory of a run, estimated: 20MB.")
    ] = None,
    budget: Annotated[str, typer.Option("--budget", metavar="TIME", help="How long to search: 90s, 5m, 1h.")] = "5m",
    train: Annotated[
        str, typer.Option("--train", metavar="TIME", help="How long to train what loses a little too much: 30m.")
    ] = "0",
    keep: Annotated[
        int, typer.Option("--keep", metavar="N", min=1, help="Write so many models of the front: OUT, OUT-2, ...")
    ] = 1,
    target: Annotated[
        str | None, typer.Option("--target", metavar="NAME", help="The engine that it is for; see lint --help.")
    ] = None,
    threads: Annotated[
        int, typer.Option("--threads", metavar="N", min=0, help="Time on so many threads; 0: on all cores.")
    ] = 1,
    table: TableOption = None,
    study: Annotated[Path | None, typer.Option("--study", metavar="FILE", help="Keep what is tried in a file.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the study in that file.")] = False,
    report: ReportOption = None,
    plans: PlansOption = None,
    overwrite: Overwrite = False,
    seed: Seed = 0,
    scheduler: SchedulerOption = None,
    as_json: AsJson = False,
) -> int:
    """Search for the best recipe within a budget, and write what it makes of MODEL."""
    from ..display import console
    from ..machines.dask_workers import workers_at
    from ..outputs import check_outputs, named_by
    from ..search.compress import compress as run

    read = named_by(data, evaluate_on, metric) | {f"--study {study}": None if study is None else str(study)}
    read |= {} if table is None else {"--table": str(table)}
    check_outputs(model, output=out, report=report, plans=plans, read=read, overwrite=overwrite)
    with workers_at(scheduler) as workers, console.progress_bar() as progress:
        _, found = run(
            model,
            objective=objective,
            data=data,
            evaluate_on=evaluate_on,
            metric=metric,
            max_drop=max_drop,
            speedup=speedup,
            target_size=target_size,
            max_ms=max_ms,
            max_memory=max_memory,
            budget=budget,
            train=train,
            keep=keep,
            target=target,
            threads=threads,
            table=table,
            study=study,
            resume=resume,
            output=out,
            overwrite=overwrite,
            seed=seed,
            progress=progress,
            say=console.say,
            details=report is not None,
            workers=workers,
        )
    found.origin = replace(found.origin, command=ctx.meta["command"])
    ctx.meta["written"] = f"{located(out)}"
    _write(found, report, plans, overwrite=overwrite)
    _show(found, out, as_json=as_json)
    return exit_status(found.verdict)


def _write(found: Report, report: Path | None, plans: Path | None, *, overwrite: bool) -> None:
    from .. import files
    from ..recipe import write_recipe
    from .apply import write

    write(found, report, plans, overwrite=overwrite)
    if plans is not None and found.plans:
        text = write_recipe([each.step for each in found.plans])
        files.write_text(plans / RECIPE, text, overwrite=overwrite)


def _show(found: Report, out: Path, *, as_json: bool) -> None:
    from ..display import console, tables

    if as_json:
        console.show_text(found.to_json())
        return
    console.show(found.to_table(), tables.trials(found), f"Written: {located(out)}", *found.stays)
