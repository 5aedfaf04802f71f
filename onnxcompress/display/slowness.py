"""A model that is slower, or not faster, in words and as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.text import Text

from . import units
from .layout import new_table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ..details import NotFaster
    from ..speed import Speed

KINDS = {
    "conversion": "conversions between float and integers",
    "float": "operators in float",
    "integer": "integer kernels",
    "layout": "changes of layout",
    "other": "shapes, indices and control flow",
}

MOST_OPERATORS = 5
MOST_LAYERS = 5
"""Rows in the terminal; the report has more."""


def headline(speed: Speed) -> str:
    """Return one line."""
    return f"{'Slower' if speed.state == 'slower' else 'Not faster'} than the original: {speed.share}"


def shares(found: NotFaster) -> str:
    """Return where the run's time goes, by kind of kernel and by operator."""
    kinds = ", ".join(f"{KINDS[kind]} {share:.0%}" for kind, share in found.kinds.items())
    largest = [item for item in found.operators if item.kernels_after][:MOST_OPERATORS]
    operators = ", ".join(f"{item.kernels_after} {item.operator} {item.after / found.after:.0%}" for item in largest)
    return f"The run's time: {kinds}. Most of it: {operators}."


def table(found: NotFaster, speed: Speed) -> RenderableType:
    """Return the layers that cost the time."""
    rows = new_table(("most costly node", "kernel", ">ms", ">was", ">share", "why"))
    for layer in found.layers[:MOST_LAYERS]:
        times = (units.milliseconds(layer.after), units.milliseconds(layer.before))
        rows.add_row(Text(layer.node), layer.operator, *times, f"{layer.share:.1%}", Text(layer.reason))
    return Group(Text(headline(speed), "bold"), Text(shares(found)), rows)
