"""The command line: one command for each public function, and no logic.

Nothing heavy is imported before a command runs, so that ``--help`` and wrong usage answer at once.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from .errors import OnnxCompressError, VerifyError
from .signals import how_it_ended, raise_on_end

FELL_SHORT, UNUSABLE, INTERNAL, PIPE_CLOSED = 1, 2, 70, 141
"""Exit statuses, beside 0; whoever is ended by a signal ends with 128 and its number."""

UsageError: type[Exception] = typer.BadParameter.__bases__[0]
"""Typer's own click, or the click it depends on, whichever this Typer has."""


class Commands(TyperGroup):
    """Turns whatever ends a command into one line on stderr and an exit status."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Run a command line, and end the process with its exit status."""
        options["standalone_mode"] = False
        try:
            status = super().main(*args, **options)
        except UsageError as error:
            status = _usage(error)
        except Exception as error:
            if os.environ.get("ONNXCOMPRESS_DEBUG") and not isinstance(error, OnnxCompressError):
                raise
            status = _failed(error)
        sys.exit(status or 0)

    def invoke(self, ctx: Any) -> int:
        """Run a command; what Typer would answer in its own way is answered here."""
        from .display import console

        try:
            return super().invoke(ctx) or 0
        except KeyboardInterrupt as error:
            word, status = how_it_ended(error)
            console.say(f"{word}; {ctx.meta.get('written', 'nothing')} was written")
            return status
        except BrokenPipeError:
            console.drop_output()
            return PIPE_CLOSED


def _usage(error: Exception) -> int:
    from .display import console

    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "onnxcompress"
    message: str = error.format_message()  # type: ignore[attr-defined]
    if type(error).__name__ == "NoArgsIsHelpError":
        console.say(f"error: a command is missing; see {command} --help")
    else:
        console.say(f"error: {message.rstrip('.')}; see {command} --help")
    return UNUSABLE


def _failed(error: Exception) -> int:
    from .display import console

    if isinstance(error, OnnxCompressError):
        console.say(f"error: {error}")
        return FELL_SHORT if isinstance(error, VerifyError) else error.exit_code
    if isinstance(error, MemoryError):
        console.say(f"error: not enough memory{f' ({error})' if str(error) else ''}; give fewer or smaller samples")
        return UNUSABLE
    if isinstance(error, OSError) and error.strerror is not None:
        console.say(f"error: {error.filename or 'a file'}: {error.strerror}")
        return UNUSABLE
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    console.say(f"error: internal error: {what}; run with ONNXCOMPRESS_DEBUG=1 for the traceback")
    return INTERNAL


class InOrder(TyperCommand):
    """Keeps the order in which -r and -p stand on the command line; Typer gathers each by itself."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse, and leave ``[("recipe", value), ("step", value), ...]`` in ``ctx.meta["steps"]``."""
        values, _, order = self.make_parser(ctx).parse_args(args=list(args))
        given = {name: iter(values.get(name) or ()) for name in ("recipe", "step")}
        ctx.meta["steps"] = [(p.name, next(given[p.name])) for p in order if p.name in given]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=Commands,
    help="Make exported ONNX models small and fast, with the evidence that they still do their job.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

ModelPath = Annotated[Path, typer.Argument(metavar="MODEL", help="An .onnx file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
DataOption = Annotated[
    str | None,
    typer.Option("--data", help="Samples: an .npz file, a folder of them, file.py:function, or random."),
]
MetricOption = Annotated[
    str | None,
    typer.Option("--metric", help="top1, top5, agreement, cosine, max_abs, sqnr, or file.py:function."),
]


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the files go.")] = Path("onnxcompress-demo"),
) -> int:
    """Prune, distil and quantize a digit classifier."""
    from .demo.run import run_demo
    from .display import console

    with console.progress_bar() as progress:
        result = run_demo(out, progress=progress)
    console.show(result.report.to_table(), *result.lines())
    return 0 if result.holds else FELL_SHORT


OutOption = Annotated[Path | None, typer.Option("-o", "--output", metavar="OUT", help="The file to write.")]
RecipeOption = Annotated[
    list[str] | None, typer.Option("-r", "--recipe", metavar="FILE.toml", help="A file of passes.")
]
StepOption = Annotated[list[str] | None, typer.Option("-p", "--pass", metavar="'NAME key=value ...'", help="One pass.")]
ReportOption = Annotated[
    Path | None, typer.Option("--report", metavar="FILE", help="Write the evidence: .html, or JSON.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what each pass would do; write nothing.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")]
Seed = Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Seeds everything random.")]


@app.command(cls=InOrder)
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
    from . import files, pipeline
    from .display import console, tables
    from .outputs import check_outputs
    from .recipe import parse_pass, read_recipe

    passes = []
    for kind, text in ctx.meta["steps"]:
        passes += read_recipe(text) if kind == "recipe" else [parse_pass(text)]
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


@app.command()
def inspect(model: ModelPath, as_json: AsJson = False) -> int:
    """Show what is in MODEL, and what can be pruned."""
    from .display import console
    from .inspection import inspect as look

    found = look(model)
    if as_json:
        console.show_text(found.to_json())
        return 0
    from .display import tables

    console.show(*tables.inspection(found))
    return 0


@app.command()
def lint(
    model: ModelPath,
    target: Annotated[
        str,
        typer.Option("--target", metavar="T", help="An engine, such as tensorrt, or a .toml file that describes one."),
    ],
    as_json: AsJson = False,
) -> int:
    """List what an engine would reject in MODEL, or leave in float."""
    from .display import console
    from .targets.linter import lint as run

    found = run(model, target)
    if as_json:
        console.show_text(found.to_json())
    else:
        from .display import tables

        console.show(*tables.findings(found))
    return 0 if found.clean else FELL_SHORT


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="The original.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="The other.")],
    data: Annotated[str, typer.Option("--data", help="Samples, as for apply.")],
    metric: MetricOption = None,
    max_drop: Annotated[
        float | None, typer.Option("--max-drop", metavar="X", help="Exit with status 1 if more is lost.")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Tell how far B falls short of A."""
    from .display import console
    from .errors import MetricError
    from .evaluation.compare import compare as run
    from .evaluation.metrics import find_metric

    if max_drop is not None and metric is not None:
        find_metric(metric).drop(0.0, 0.0)
    found = run(first, second, data, metric=metric)
    if max_drop is not None and found.drop is None:
        raise MetricError(f"metric '{found.metric}' has no drop to limit")
    short = max_drop is not None and found.drop is not None and not found.drop <= max_drop
    if as_json:
        console.show_text(console.to_json(found))
    else:
        from .display import tables

        console.show(*tables.comparison(found))
    if short:
        console.say(f"fell short: {found.metric} dropped by {found.drop:.4g}, and at most {max_drop:g} is allowed")
    return FELL_SHORT if short else 0


@app.command()
def sensitivity(
    model: ModelPath,
    data: Annotated[str, typer.Option("--data", help="Samples, as for apply.")],
    step: Annotated[
        str,
        typer.Option(
            "-p",
            "--pass",
            metavar="'NAME key=value ...'",
            help="prune-channels, magnitude-prune, quantize, …",
        ),
    ] = "prune-channels",
    metric: MetricOption = None,
    share: Annotated[list[float] | None, typer.Option("--share", help="A sparsity to try; may be repeated.")] = None,
    report: Annotated[Path | None, typer.Option("--report", metavar="FILE.html", help="Write the curves.")] = None,
    overwrite: Overwrite = False,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> int:
    """Tell how much a metric loses when one group of MODEL alone is pruned, or one layer alone quantized."""
    from . import files
    from .display import console
    from .evaluation.sensitivity import sensitivity as run
    from .outputs import check_outputs
    from .recipe import parse_pass

    parsed = parse_pass(step)
    read = {"--data": data, "--metric": metric}
    check_outputs(model, report=report, read=read, passes=[parsed], overwrite=overwrite)
    with console.progress_bar() as progress:
        found = run(model, data, parsed, metric=metric, shares=share, seed=seed, progress=progress)
    from .display import curves

    if report is not None:
        files.write_text(report, curves.page(found, str(model)), overwrite=overwrite)
    if as_json:
        console.show_text(console.to_json(found))
    else:
        console.show(*curves.table(found))
    return 0


@app.command()
def bench(
    models: Annotated[list[Path], typer.Argument(metavar="A [B ...]", help="Models that take the same inputs.")],
    as_json: AsJson = False,
) -> int:
    """Time models on one sample, taking turns."""
    from .display import console
    from .evaluation.bench import bench as run

    found = run(models)
    names = [str(model) for model in models]
    if as_json:
        console.show_text(console.to_json(dict(zip(names, found, strict=True))))
        return 0
    from .display import tables

    console.show(tables.timings(names, found))
    return 0


@app.command()
def passes(name: Annotated[str | None, typer.Argument(metavar="NAME", help="One pass, in full.")] = None) -> int:
    """List the passes, or every option of one."""
    from .display import catalogue, console, tables

    if name is None:
        console.show(tables.catalogue(catalogue.catalogue()))
    else:
        console.show(*tables.entry(catalogue.entry(name)))
    return 0


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    raise_on_end()
    app()
