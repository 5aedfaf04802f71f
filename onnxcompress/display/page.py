"""A report as one HTML page that needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import slowness, units
from .frame import Frame, Tick, range_ticks, ticks
from .training import drawings

if TYPE_CHECKING:
    from ..contract import Refusal
    from ..evidence import Evidence, Stage

MOST_LAYERS = 40
"""Bars in the chart of layers; what is smaller is added up in one more."""

NEAR = 16
"""Marks of a drawing that are nearer to each other, in its own units, share a label."""


@dataclass(frozen=True)
class Tile:
    """One headline: what, from where to where, and how much that is."""

    name: str
    value: str
    detail: str


@dataclass(frozen=True)
class Bar:
    """A layer: its bytes before and after, and both as a share (0 to 100) of the largest layer's."""

    name: str
    before: int
    after: int
    share_before: float
    share_after: float


@dataclass(frozen=True)
class Mark:
    """A stage in the drawing; stages in the same place share a label, which the first of them carries."""

    x: float
    y: float
    label: str
    number: int
    name: str
    detail: str


@dataclass(frozen=True)
class Chart:
    """Metric against size."""

    frame: Frame
    marks: list[Mark]
    across: list[Tick]
    up: list[Tick]


def render(report: Evidence) -> str:
    """Return the page of a run.

    Parameters
    ----------
    report : Evidence
    """
    steps = [(step, reasons(step.refused)) for step in report.steps]
    return fill(
        "report.html.j2",
        report=report,
        tiles=tiles(report),
        chart=chart(report.stages),
        bars=bars(report.layers),
        steps=steps,
        typed_options=units.typed_options,
        drawings=drawings,
    )


def fill(template: str, **variables: Any) -> str:
    """Fill a template of this folder."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "count": units.count,
        "size": units.size,
        "number": units.number,
        "ms": units.milliseconds,
        "headline": slowness.headline,
        "shares": slowness.shares,
        "share": partial(units.number, form=".1%"),
        "ratio": partial(units.number, form=".2f"),
    }
    return environment.get_template(template).render(**variables)


def tiles(report: Evidence) -> list[Tile]:
    """Return what matters most: the last stage beside the first."""
    if not report.stages:
        return []
    first, last = report.stages[0], report.stages[-1]
    grown = last.bytes > first.bytes
    size = (
        f"{units.times(last.bytes, first.bytes)} larger" if grown else f"{units.times(first.bytes, last.bytes)} smaller"
    )
    found = [Tile("Size", size, _change(first, last, "bytes"))]
    if last.speed:
        found.append(Tile("Latency", last.speed.headline, _change(first, last, "milliseconds")))
    if last.metric is not None and first.metric is not None:
        found.append(Tile(report.metric or "metric", units.number(last.metric), f"was {units.number(first.metric)}"))
    if last.agreement is not None and report.metric != "agreement":
        found.append(Tile("Agreement", units.number(last.agreement), "of decisions are the original's"))
    return found


def _change(first: Stage, last: Stage, what: str) -> str:
    if what == "bytes":
        return f"{units.size(first.bytes)} → {units.size(last.bytes)}"
    return f"{units.milliseconds(first.milliseconds)} → {units.milliseconds(last.milliseconds)} ms"


def bars(layers: dict[str, tuple[int, int]]) -> list[Bar]:
    """Return the largest layers, in the order of the model, and the sum of the others."""
    largest = max((max(pair) for pair in layers.values()), default=0) or 1
    ranked = sorted(layers, key=lambda name: -layers[name][0])
    kept = set(ranked[:MOST_LAYERS])
    found = [_bar(name, *pair, largest) for name, pair in layers.items() if name in kept]
    others = [layers[name] for name in ranked[MOST_LAYERS:]]
    if others:
        before, after = sum(b for b, _ in others), sum(a for _, a in others)
        found.append(_bar(f"{len(others)} smaller layers together", before, after, max(largest, before, after)))
    return found


def _bar(name: str, before: int, after: int, largest: int) -> Bar:
    return Bar(name, before, after, 100 * before / largest, 100 * after / largest)


def reasons(refused: Sequence[Refusal]) -> list[tuple[str, list[str]]]:
    """Gather refusals by their reason; the most frequent first."""
    found: dict[str, list[str]] = {}
    for refusal in refused:
        found.setdefault(refusal.reason, []).append(refusal.subject)
    return sorted(found.items(), key=lambda item: -len(item[1]))


def chart(stages: Sequence[Stage]) -> Chart | None:
    """Place the stages: bytes from 0 to the right, the metric's own range upwards; None without two of them."""
    scored = [
        (number, stage, stage.metric)
        for number, stage in enumerate(stages, 1)
        if stage.metric is not None and math.isfinite(stage.metric)
    ]
    if len(scored) < 2:
        return None
    across = ticks(0, max(stage.bytes for _, stage, _ in scored))
    up = range_ticks([value for _, _, value in scored])
    frame = Frame(440, 250, 54, 422, 28, 220, most=across[-1] or 1.0, low=up[0], high=up[-1])
    placed = [(frame.x(stage.bytes), frame.y(value), number, stage) for number, stage, value in scored]
    return Chart(
        frame,
        [
            Mark(
                px,
                py,
                _label(placed, i),
                number,
                stage.name,
                f"{units.number(stage.metric)}, {units.size(stage.bytes)}",
            )
            for i, (px, py, number, stage) in enumerate(placed)
        ],
        [Tick(frame.x(value), units.size(int(value)).replace(".0 ", " ")) for value in across],
        [Tick(frame.y(value), f"{value:.6g}") for value in up],
    )


def _label(placed: Sequence[tuple[float, float, int, Stage]], index: int) -> str:
    """Return the numbers of the marks around this one, if none before it carries them."""

    def near(a: int, b: int) -> bool:
        return abs(placed[a][0] - placed[b][0]) < NEAR and abs(placed[a][1] - placed[b][1]) < NEAR

    if any(near(index, other) for other in range(index)):
        return ""
    return ", ".join(str(placed[i][2]) for i in range(index, len(placed)) if near(index, i))
