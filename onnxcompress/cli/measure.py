"""``onnxcompress measure``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .app import AsJson, ModelPath, Overwrite
from .provider import on_provider


@on_provider
def measure(
    model: ModelPath,
    table: Annotated[Path, typer.Option("--table", metavar="FILE.json", help="Where the times go.")],
    threads: Annotated[int, typer.Option("--threads", metavar="N", min=1, help="Threads inside one operator.")] = 1,
    seconds: Annotated[float, typer.Option("--seconds", metavar="N", min=1, help="How long it may take.")] = 60.0,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> int:
    """Time the layers of MODEL at many widths, for apply --table on another machine."""
    from ..display import console
    from ..evaluation.measure import measure as run
    from ..files import check_apart, check_target
    from ..layer_times.table import to_json, write_table

    check_apart({"--table": table}, {"MODEL": model})
    check_target(table, overwrite=overwrite)
    with console.progress_bar() as progress:
        found = run(model, threads=threads, seconds=seconds, progress=progress)
    write_table(found, table, overwrite=overwrite)
    if as_json:
        console.show_text(to_json(found))
    else:
        count = sum(map(len, found.layers.values()))
        console.show(f"Written: {table}: {count} times of {len(found.layers)} kinds of layers, on {found.where()}")
    return 0
