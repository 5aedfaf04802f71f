"""``onnxcompress lint``."""

from __future__ import annotations

from importlib.resources import files
from typing import Annotated

import typer

from .app import FELL_SHORT, AsJson, ModelPath

TARGETS = sorted(
    path.name.removesuffix(".toml")
    for path in files("onnxcompress").joinpath("targets").iterdir()
    if path.name.endswith(".toml")
)
"""Read off the folder: importing it takes long."""


def lint(
    model: ModelPath,
    target: Annotated[
        str,
        typer.Option("--target", metavar="T", help=f"{', '.join(TARGETS)}, or a .toml file that describes one."),
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
