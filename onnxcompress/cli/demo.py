"""``onnxcompress demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .app import FELL_SHORT


def demo(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the files go.")] = Path("onnxcompress-demo"),
) -> int:
    """Prune, distil and quantize a digit classifier."""
    from ..demo.run import run_demo
    from ..display import console

    with console.progress_bar() as progress:
        result = run_demo(out, progress=progress)
    console.show(result.report.to_table(), *result.lines())
    return 0 if result.holds else FELL_SHORT
