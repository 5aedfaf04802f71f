"""``onnxcompress bench``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .app import AsJson, find_model
from .provider import on_provider


@on_provider
def bench(
    models: Annotated[
        list[Path], typer.Argument(metavar="A [B ...]", callback=find_model, help="Models that take the same inputs.")
    ],
    data: Annotated[
        str | None, typer.Option("--data", help="Samples, of which the first is run; as for apply.")
    ] = None,
    threads: Annotated[int, typer.Option("--threads", metavar="N", min=0, help="Of one operator; 0: all cores.")] = 0,
    seconds: Annotated[float, typer.Option("--seconds", metavar="N", min=0.1, help="How long, all together.")] = 2.0,
    as_json: AsJson = False,
) -> int:
    """Time models on one sample, taking turns."""
    from ..display import console
    from ..evaluation.bench import bench as run
    from ..runtime.provider import running

    found = run(models, data=data, threads=threads, seconds=seconds)
    names = [str(model) for model in models]
    if as_json:
        console.show_text(console.to_json(dict(zip(names, found, strict=True))))
        return 0
    from ..display import tables

    console.show(tables.timings(names, found, running().describe()))
    return 0
