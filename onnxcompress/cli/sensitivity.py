"""``onnxcompress sensitivity``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .app import AsJson, JudgeOption, MetricOption, ModelPath, Overwrite, SchedulerOption, Seed
from .provider import on_provider

FORMS = (".html", ".json")
"""What the name of a report may end in."""


@on_provider
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
    evaluate_on: JudgeOption = None,
    metric: MetricOption = None,
    share: Annotated[list[float] | None, typer.Option("--share", help="A sparsity to try; may be repeated.")] = None,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE", help="Write the page, .html, or the figures, .json.")
    ] = None,
    overwrite: Overwrite = False,
    seed: Seed = 0,
    scheduler: SchedulerOption = None,
    as_json: AsJson = False,
) -> int:
    """Tell how much a metric loses when one group of MODEL alone is pruned, or one layer alone quantized."""
    from .. import files
    from ..display import console
    from ..evaluation.sensitivity import sensitivity as run
    from ..machines.dask_workers import workers_at
    from ..outputs import check_outputs, named_by
    from ..recipe import parse_pass

    parsed = parse_pass(step)
    read = named_by(data, evaluate_on, metric)
    check_outputs(model, report=report, read=read, passes=[parsed], overwrite=overwrite, forms=FORMS)
    with workers_at(scheduler) as workers, console.progress_bar() as progress:
        found = run(
            model,
            data,
            parsed,
            metric=metric,
            shares=share,
            seed=seed,
            progress=progress,
            evaluate_on=evaluate_on,
            workers=workers,
        )
    from ..display import curves

    if report is not None:
        text = curves.page(found, model.name) if report.suffix.lower() == ".html" else console.to_json(found)
        files.write_text(report, text, overwrite=overwrite)
    if as_json:
        console.show_text(console.to_json(found))
    else:
        console.show(*curves.table(found))
    for note in workers.notes:
        console.say(note)
    return 0
