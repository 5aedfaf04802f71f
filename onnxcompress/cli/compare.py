"""``onnxcompress compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .app import AsJson, MaxDrop, MetricOption, exit_status, find_model
from .provider import on_provider


@on_provider
def compare(
    first: Annotated[Path, typer.Argument(metavar="A", callback=find_model, help="The original.")],
    second: Annotated[Path, typer.Argument(metavar="B", callback=find_model, help="The other.")],
    data: Annotated[str, typer.Option("--data", help="Samples, as for apply.")],
    metric: MetricOption = None,
    max_drop: MaxDrop = None,
    as_json: AsJson = False,
) -> int:
    """Tell how far B falls short of A."""
    from ..display import console
    from ..errors import MetricError
    from ..evaluation.compare import compare as run
    from ..pipeline import check_budget
    from ..verdict import judge_drop

    check_budget(max_drop, metric)
    found = run(first, second, data, metric=metric)
    if max_drop is not None and found.drop is None:
        raise MetricError(f"metric '{found.metric}' has no drop to limit")
    verdict = None if max_drop is None else judge_drop(found, max_drop)
    if as_json:
        console.show_text(console.to_json({**vars(found), "verdict": verdict}))
    else:
        from ..display import tables

        console.show(*tables.comparison(found, verdict))
    return exit_status(verdict)
