"""A report as one HTML page that needs nothing else: templates of this folder, drawings in SVG, one small script.

Drawings are a handful of lines and circles with labels that have to follow dark mode, narrow screens and print through
one style sheet. plotly's script alone has more than 3 MB and Vega's nearly one; Matplotlib's SVG turns text into paths,
knows no style sheet, and needs more lines here than the templates have.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar

from . import slowness, units
from .frame import Frame, Tick, range_ticks, ticks
from .training import drawings
from .trials import plot

if TYPE_CHECKING:
    import jinja2

    from ..contract import Refusal
    from ..details import GroupInfo
    from ..evidence import Evidence, Stage

T = TypeVar("T")

NEAR = 16
"""Marks of a drawing that are nearer to each other, in its own units, share a label."""

MOST_ROWS = 1000
"""Rows of a table that a model's size decides, so that a page stays below a megabyte; the JSON has all of them."""

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Tile:
    """One headline: what, from where to where, and how much that is."""

    name: str
    value: str
    detail: str


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


@dataclass
class Reason:
    """A reason why things were left alone: what, and by which passes."""

    reason: str
    subjects: list[str]
    passes: list[str]


def render(report: Evidence) -> str:
    """Return the page of a run.

    Parameters
    ----------
    report : Evidence
    """
    return fill(
        "report.html.j2",
        report=report,
        layers=foremost(report.layers, lambda row: (row.milliseconds_after or row.milliseconds or 0.0, row.bytes)),
        tiles=tiles(report),
        chart=chart(report.stages),
        trials=plot(report),
        refused=reasons((step.name, step.refused) for step in report.steps),
        frozen=by_reason(report.frozen),
        typed_options=units.typed_options,
        drawings=drawings,
    )


def notebook(report: Evidence) -> str:
    """Return what a notebook shows in place of the object: the headlines and the stages."""
    return fill("notebook.html.j2", report=report, tiles=tiles(report))


def fill(template: str, **variables: Any) -> str:
    """Fill a template. Names in models are anybody's: all text is escaped, and no script runs but ours."""
    script = (TEMPLATES / "table.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    markup = _environment().get_template(template)
    safe = {"script": _trusted(script), "script_hash": digest, "show": SHOW}
    return markup.render(**safe, **variables)


def _trusted(text: str) -> Any:
    import markupsafe

    return markupsafe.Markup(text)  # noqa: S704 - a file of this folder


SHOW = SimpleNamespace(size=units.size, count=units.count, ms=units.milliseconds)
"""How macros show numbers."""


@cache
def _environment() -> jinja2.Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "count": units.count,
        "size": units.size,
        "number": units.number,
        "plain": units.plain,
        "ms": units.milliseconds,
        "date": units.date,
        "shape": units.shape,
        "wave": wave,
        "headline": slowness.headline,
        "shares": slowness.shares,
        "share": partial(units.number, form=".1%"),
        "ratio": partial(units.number, form=".2f"),
    }
    return environment


def foremost(rows: Sequence[T], worth: Callable[[T], Any]) -> Sequence[T]:
    """Return the rows that are worth most, as many as fit on a page, in their own order."""
    if len(rows) <= MOST_ROWS:
        return rows
    ranked = sorted(range(len(rows)), key=lambda index: worth(rows[index]), reverse=True)
    return [rows[index] for index in sorted(ranked[:MOST_ROWS])]


def tiles(report: Evidence) -> list[Tile]:
    """Return what matters most: the last stage beside the first."""
    if not report.stages:
        return []
    first, last = report.stages[0], report.stages[-1]
    size = f"{units.size(first.bytes)} → {units.size(last.bytes)}"
    found = [Tile("Size", units.smaller(first.bytes, last.bytes), size)]
    if last.speed:
        times = f"{units.milliseconds(first.milliseconds)} → {units.milliseconds(last.milliseconds)} ms"
        found.append(Tile("Latency", last.speed.headline, f"{last.speed.share}, {times}"))
    if last.metric is not None and first.metric is not None:
        found.append(Tile(report.metric or "metric", units.number(last.metric), f"was {units.number(first.metric)}"))
    if last.agreement is not None and report.metric != "agreement":
        found.append(Tile("Agreement", units.number(last.agreement), "of decisions are the original's"))
    return found


def reasons(refused: Iterable[tuple[str, Sequence[Refusal]]]) -> list[Reason]:
    """Gather what passes refused by the reason; the most frequent first."""
    found: dict[str, Reason] = {}
    for name, refusals in refused:
        for refusal in refusals:
            known = found.setdefault(refusal.reason, Reason(refusal.reason, [], []))
            known.subjects.append(refusal.subject)
            known.passes += [] if name in known.passes else [name]
    return sorted(found.values(), key=lambda each: -len(each.subjects))


def by_reason(groups: Sequence[GroupInfo]) -> list[tuple[str, list[GroupInfo]]]:
    """Gather groups by the reason why they cannot go; that of most channels first."""
    found: dict[str, list[GroupInfo]] = {}
    for group in groups:
        found.setdefault(group.reason, []).append(group)
    return sorted(found.items(), key=lambda item: -sum(group.channels for group in item[1]))


def wave(heights: str) -> str:
    """Return the points of a line 160 wide and 40 high, of heights from -1 to 1.

    >>> wave("0 1 -1")
    '0.0,20.0 80.0,1.0 160.0,39.0'
    """
    try:
        values = [float(height) for height in heights.split()]
    except ValueError:
        return ""
    step = 160 / max(len(values) - 1, 1)
    return " ".join(f"{index * step:.1f},{20 - 19 * value:.1f}" for index, value in enumerate(values))


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
    frame = Frame(440, 250, 64, 422, 28, 220, most=across[-1] or 1.0, low=up[0], high=up[-1])
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
        [Tick(frame.x(value), units.round_size(value)) for value in across],
        [Tick(frame.y(value), f"{value:.6g}") for value in up],
    )


def _label(placed: Sequence[tuple[float, float, int, Stage]], index: int) -> str:
    """Return the numbers of the marks around this one, if none before it carries them."""

    def near(a: int, b: int) -> bool:
        return abs(placed[a][0] - placed[b][0]) < NEAR and abs(placed[a][1] - placed[b][1]) < NEAR

    if any(near(index, other) for other in range(index)):
        return ""
    return ", ".join(str(placed[i][2]) for i in range(index, len(placed)) if near(index, i))
