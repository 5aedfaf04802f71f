"""``onnxcompress lint``."""

from __future__ import annotations

from typing import Annotated

import typer

from .app import FELL_SHORT, AsJson, ModelPath


def lint(
    model: ModelPath,
    target: Annotated[
        str,
        typer.Option("--target", metavar="T", help="An engine, such as tensorrt, or a .toml file that describes one."),
    ],
    as_json: AsJson = False,
) -> int:
    """List what an engine would reject in MODEL, or leave in float."""
    from ..display import console
    from ..targets.linter import lint as run

    found = run(model, target)
    if as_json:
        console.show_text(found.to_json())
    else:
        from ..display import tables

        console.show(*tables.findings(found))
    return 0 if found.clean else FELL_SHORT
