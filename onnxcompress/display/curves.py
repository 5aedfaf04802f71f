"""Sensitivity as a table and as a page of curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import units
from .frame import Frame, Tick, range_ticks
from .page import fill, reasons
from .training import HEIGHTS

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ..evaluation.sensitivity import Point, Sensitivity


def table(found: Sensitivity) -> list[RenderableType]:
    """Return the drop of each group at each share, the most sensitive group first."""
    from rich.text import Text

    from .layout import new_table, titled
    from .tables import gathered

    if not found.shares:
        return _layers(found)
    top = max((p.drop for points in found.curves.values() for p in points), default=0.0)
    rows = new_table(("pruned alone", *(f">{share:.0%}" for share in found.shares), ""))
    for name, points in ranked(found):
        drops = {p.share: p.drop for p in points}
        curve = "".join(_height(p.drop, top) for p in points)
        rows.add_row(Text(name), *(units.number(drops.get(share)) for share in found.shares), curve)
    title = f"{found.metric} {units.number(found.value)} on {found.basis()}; lost when a share of one group goes"
    if found.random:
        title += "; random data: the metric says nothing about the model's job"
    parts: list[RenderableType] = [titled("\n".join([title, *found.notes]), rows)]
    if found.refused:
        parts.append(Text("Left alone: " + "; ".join(gathered(found.refused)[:8])))
    return parts


def _layers(found: Sensitivity) -> list[RenderableType]:
    """Return what each layer costs alone, the one that hurts most first."""
    from rich.text import Text

    from .layout import new_table, titled
    from .tables import gathered

    worst = _worst_first(found)
    rows = new_table((">rank", "layer, alone", f">{found.metric} lost", ">SQNR dB"))
    for rank, (name, (point, *_)) in enumerate(worst, 1):
        rows.add_row(str(rank), Text(name), units.number(point.drop), units.number(point.sqnr, ".1f"))
    title = f"{found.metric} {units.number(found.value)} on {found.basis()}; what each layer alone costs"
    parts: list[RenderableType] = [titled("\n".join([title, *found.notes]), rows)]
    if found.refused:
        parts.append(Text("Left alone: " + "; ".join(gathered(found.refused)[:8])))
    return parts


def _worst_first(found: Sensitivity) -> list[tuple[str, tuple[Point, ...]]]:
    return sorted(found.curves.items(), key=lambda item: math.inf if item[1][0].sqnr is None else item[1][0].sqnr)


def ranked(found: Sensitivity) -> list[tuple[str, tuple[Point, ...]]]:
    """Return the curves, the most sensitive group's first."""
    return sorted(found.curves.items(), key=lambda item: -max((p.drop for p in item[1]), default=0.0))


def _height(drop: float, top: float) -> str:
    return HEIGHTS[min(int(max(drop, 0.0) / (top or 1.0) * len(HEIGHTS)), len(HEIGHTS) - 1)]


WIDEST = 160
"""Pixels of the bar of the noisiest layer."""

QUIET = 60.0
"""Decibels at which a layer's bar has no length."""


@dataclass(frozen=True)
class Row:
    """A layer that was changed alone; the bar is the longer the more noise that makes."""

    rank: int
    name: str
    point: Point
    width: int


def _rows(found: Sensitivity) -> list[Row]:
    rows = []
    for rank, (name, (point, *_)) in enumerate(_worst_first(found), 1):
        quiet = QUIET if point.sqnr is None else min(max(point.sqnr, 0.0), QUIET)
        rows.append(Row(rank, name, point, round(WIDEST * (1 - quiet / QUIET))))
    return rows


@dataclass(frozen=True)
class Curve:
    """One group's drawing."""

    name: str
    line: str
    marks: list[tuple[float, float, str]]


def page(found: Sensitivity, model: str) -> str:
    """Return one HTML page that needs nothing else: a curve for each group, all on the same scale."""
    refused = reasons([("", found.refused)])
    if not found.shares:
        return fill("sensitivity.html.j2", found=found, model=model, rows=_rows(found), refused=refused)
    values = [found.value, *(p.value for points in found.curves.values() for p in points)]
    up = range_ticks(values, 3)
    frame = Frame(300, 150, 46, 288, 12, 126, most=max(found.shares), low=up[0], high=up[-1])
    return fill(
        "sensitivity.html.j2",
        found=found,
        model=model,
        refused=refused,
        curves=[_curve(name, points, found.value, frame) for name, points in ranked(found)],
        up=[Tick(frame.y(value), f"{value:.4g}") for value in up],
        across=[Tick(frame.x(share), f"{share:.0%}") for share in (0.0, *found.shares)],
        frame=frame,
    )


def _curve(name: str, points: Sequence[Point], whole: float, frame: Frame) -> Curve:
    values = [(0.0, whole), *((p.share, p.value) for p in points)]
    marks = [(frame.x(share), frame.y(value), f"{share:.0%} gone: {units.number(value)}") for share, value in values]
    return Curve(name, " ".join(f"{px},{py}" for px, py, _ in marks), marks)
