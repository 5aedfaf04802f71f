"""``onnxcompress apply``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from .app import FELL_SHORT, DataOption, MetricOption, ModelPath, Overwrite, Seed

OutOption = Annotated[Path | None, typer.Option("-o", "--output", metavar="OUT", help="The file to write.")]
RecipeOption = Annotated[
    list[str] | None, typer.Option("-r", "--recipe", metavar="FILE.toml", help="A file of passes.")
]
StepOption = Annotated[list[str] | None, typer.Option("-p", "--pass", metavar="'NAME key=value ...'", help="One pass.")]
ReportOption = Annotated[
    Path | None, typer.Option("--report", metavar="FILE", help="Write the evidence: .html, or JSON.")
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


def apply(
    ctx: typer.Context,
    model: ModelPath,
    out: OutOption = None,
    recipe: RecipeOption = None,
    step: StepOption = None,
    data: DataOption = None,
    metric: MetricOption = None,
    report: ReportOption = None,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
    seed: Seed = 0,
) -> int:
    """Run passes over MODEL, in the order of -r and -p."""
    _check_usage(
        ctx,
        {
            "give one recipe (-r) or pass (-p) at least": not recipe and not step,
            "give -o OUT, or --dry-run": not dry_run and out is None,
            "--dry-run writes nothing, so it takes no --report": dry_run and report is not None,
        },
    )
    from .. import files, pipeline
    from ..display import console, tables
    from ..outputs import check_outputs
    from ..recipe import read_steps

    passes = read_steps(ctx.meta["steps"])
    target = None if dry_run else out
    read = {"--data": data, "--metric": metric} | {f"-r {text}": text for text in recipe or ()}
    check_outputs(model, output=target, report=report, read=read, passes=passes, overwrite=overwrite)
    with console.progress_bar() as progress:
        _, found = pipeline.apply(
            model, passes, data=data, metric=metric, output=target, overwrite=overwrite, seed=seed, progress=progress
        )
    if dry_run:
        console.show(*tables.plans(found.steps))
        return 0
    ctx.meta["written"] = f"{out}"
    if report is not None:
        text = found.to_html() if report.suffix == ".html" else found.to_json()
        files.write_text(report, text, overwrite=overwrite)
    console.show(found.to_table(), tables.steps(found.steps), f"Written: {out}", *found.stays)
    for text in found.unmet:
        console.say(f"fell short: {text}")
    return FELL_SHORT if found.unmet else 0


def _check_usage(ctx: typer.Context, wrong: dict[str, bool]) -> None:
    for message, holds in wrong.items():
        if holds:
            raise typer.BadParameter(message, ctx)
