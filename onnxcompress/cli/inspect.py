"""``onnxcompress inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .app import AsJson, ModelPath, Overwrite


def inspect(
    model: ModelPath,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write it as a page.")] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> int:
    """Show what is in MODEL, and what can be pruned."""
    from .. import files
    from ..display import console, inspected, tables
    from ..graph.load import load
    from ..inspection import inspect as look
    from ..origin import find_origin

    if html is not None:
        files.check_suffix(html, (".html",))
        files.check_target(html, overwrite=overwrite)
    found = look(model)
    if html is not None:
        files.write_text(html, inspected.page(found, find_origin(model, load(model))), overwrite=overwrite)
    if as_json:
        console.show_text(found.to_json())
    else:
        console.show(*tables.inspection(found))
    return 0
