"""``onnxcompress bench``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .app import AsJson
from .provider import on_provider


@on_provider
def bench(
    models: Annotated[list[Path], typer.Argument(metavar="A [B ...]", help="Models that take the same inputs.")],
    as_json: AsJson = False,
) -> int:
    """Time models on one sample, taking turns."""
    from ..display import console
    from ..evaluation.bench import bench as run

    found = run(models)
    names = [str(model) for model in models]
    if as_json:
        console.show_text(console.to_json(dict(zip(names, found, strict=True))))
        return 0
    from ..display import tables

    console.show(tables.timings(names, found))
    return 0
