"""``onnxcompress passes``."""

from __future__ import annotations

from typing import Annotated

import typer


def passes(name: Annotated[str | None, typer.Argument(metavar="NAME", help="One pass, in full.")] = None) -> int:
    """List the passes, or every option of one."""
    from ..display import catalogue, console, tables

    if name is None:
        console.show(tables.catalogue(catalogue.catalogue()))
    else:
        console.show(*tables.entry(catalogue.entry(name)))
    return 0
