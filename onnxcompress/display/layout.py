"""How every table of the terminal looks."""

from __future__ import annotations

from collections.abc import Iterable

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text


def new_table(columns: Iterable[str]) -> Table:
    """Return an empty table; a column whose title begins with ``>`` is one of numbers."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for column in columns:
        if column.startswith(">"):
            table.add_column(column[1:], justify="right", no_wrap=True)
        else:
            table.add_column(column, overflow="fold")
    return table


def titled(title: str, table: Table) -> Group:
    """Put a line above a table; Rich's own title would be wrapped to the table's width."""
    return Group(Text(title, "bold"), table)
