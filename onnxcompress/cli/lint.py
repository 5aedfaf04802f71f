"""``onnxcompress lint``."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
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
        str | None,
        typer.Option(
            "--target",
            metavar="T",
            help=f"{', '.join(TARGETS)}, or a .toml file; all by default.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """List what an engine would reject in MODEL, or leave in float."""
    from ..display import console
    from ..targets.linter import lint as run

    if target is None:
        return _all(model, as_json=as_json)
    found = run(model, target)
    if as_json:
        console.show_text(found.to_json())
    else:
        from ..display import tables

        console.show(*tables.findings(found))
    return 0 if found.clean else FELL_SHORT


def _all(model: Path, *, as_json: bool) -> int:
    """Lint a model for every target that there is; shows how much each finds."""
    from ..display import console
    from ..graph.load import load
    from ..targets.linter import lint as run

    loaded = load(model)
    found = [run(loaded, name) for name in TARGETS]
    if as_json:
        console.show_text(f"[{', '.join(report.to_json() for report in found)}]")
    else:
        from ..display import tables

        console.show(tables.lints(found))
    return 0
