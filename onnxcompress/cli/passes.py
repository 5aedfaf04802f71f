"""``onnxcompress passes``."""

from __future__ import annotations

from typing import Annotated

import typer


def passes(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="One pass, in full.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Every option of every pass, as a page.")] = False,
) -> int:
    """List the passes, or every option of one."""
    from ..display import catalogue, console, options, tables

    if markdown:
        known = catalogue.catalogue() if name is None else [catalogue.entry(name)]
        console.show_text(options.markdown(known).rstrip("\n"))
    elif name is None:
        console.show(tables.catalogue(catalogue.catalogue()))
    else:
        console.show(*tables.entry(catalogue.entry(name)))
    return 0
