"""``onnxcompress compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .app import FELL_SHORT, AsJson, MetricOption
from .provider import on_provider


@on_provider
def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="The original.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="The other.")],
    data: Annotated[str, typer.Option("--data", help="Samples, as for apply.")],
    metric: MetricOption = None,
    max_drop: Annotated[
        float | None, typer.Option("--max-drop", metavar="X", help="Exit with status 1 if more is lost.")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Tell how far B falls short of A."""
    from ..display import console
    from ..errors import MetricError
    from ..evaluation.compare import compare as run
    from ..evaluation.metrics import find_metric

    if max_drop is not None and metric is not None:
        find_metric(metric).drop(0.0, 0.0)
    found = run(first, second, data, metric=metric)
    if max_drop is not None and found.drop is None:
        raise MetricError(f"metric '{found.metric}' has no drop to limit")
    short = max_drop is not None and found.drop is not None and not found.drop <= max_drop
    if as_json:
        console.show_text(console.to_json(found))
    else:
        from ..display import tables

        console.show(*tables.comparison(found))
    if short:
        console.say(f"fell short: {found.metric} dropped by {found.drop:.4g}, and at most {max_drop:g} is allowed")
    return FELL_SHORT if short else 0
