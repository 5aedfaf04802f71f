"""Sensitivity as a table and as a page of curves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import units
from .page import Tick, fill, ticks

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ..analysis import Point, Sensitivity

Scale = Callable[[float], float]

HEIGHTS = "▁▂▃▄▅▆▇█"
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 300, 150, 46, 12, 12, 24


def table(found: Sensitivity) -> list[RenderableType]:
    """Return the drop of each group at each share, the most sensitive group first."""
    from rich.text import Text

    from .tables import gathered, new_table, titled

    top = max((p.drop for points in found.curves.values() for p in points), default=0.0)
    rows = new_table(("pruned alone", *(f">{share:.0%}" for share in found.shares), ""))
    for name, points in ranked(found):
        drops = {p.share: p.drop for p in points}
        curve = "".join(_height(p.drop, top) for p in points)
        rows.add_row(Text(name), *(units.number(drops.get(share)) for share in found.shares), curve)
    title = f"{found.metric} {units.number(found.value)} on {found.count} samples; lost when a share of one group goes"
    if found.random:
        title += "; random data: the metric says nothing about the model's job"
    parts: list[RenderableType] = [titled(title, rows)]
    if found.refused:
        parts.append(Text("Left alone: " + "; ".join(gathered(found.refused)[:8])))
    return parts


def ranked(found: Sensitivity) -> list[tuple[str, tuple[Point, ...]]]:
    """Return the curves, the most sensitive group's first."""
    return sorted(found.curves.items(), key=lambda item: -max((p.drop for p in item[1]), default=0.0))


def _height(drop: float, top: float) -> str:
    return HEIGHTS[min(int(max(drop, 0.0) / (top or 1.0) * len(HEIGHTS)), len(HEIGHTS) - 1)]


@dataclass(frozen=True)
class Curve:
    """One group's drawing."""

    name: str
    line: str
    marks: list[tuple[float, float, str]]


def page(found: Sensitivity, model: str) -> str:
    """Return one HTML page that needs nothing else: a curve for each group, all on the same scale."""
    values = [found.value, *(p.value for points in found.curves.values() for p in points)]
    spread = max(max(values) - min(values), abs(max(values)) * 0.01, 1e-6)
    up = ticks(max(values) - spread, max(values), 3)
    widest = max(found.shares)

    def x(share: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * share / widest, 1)

    def y(value: float) -> float:
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - up[0]) / (up[-1] - up[0]), 1)

    return fill(
        "sensitivity.html.j2",
        found=found,
        model=model,
        curves=[_curve(name, points, found.value, x, y) for name, points in ranked(found)],
        up=[Tick(y(value), f"{value:.4g}") for value in up],
        across=[Tick(x(share), f"{share:.0%}") for share in (0.0, *found.shares)],
        frame={"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": WIDTH - RIGHT, "top": TOP},
        bottom=HEIGHT - BOTTOM,
    )


def _curve(name: str, points: Sequence[Point], whole: float, x: Scale, y: Scale) -> Curve:
    values = [(0.0, whole), *((p.share, p.value) for p in points)]
    marks = [(x(share), y(value), f"{share:.0%} gone: {units.number(value)}") for share, value in values]
    return Curve(name, " ".join(f"{px},{py}" for px, py, _ in marks), marks)
