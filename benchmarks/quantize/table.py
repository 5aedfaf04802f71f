"""The rows as tables: one a model, candidates down."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from candidates import CANDIDATES, PLAIN
from rich.console import Console
from rich.table import Table

Rows = dict[tuple[str, str, str], dict[str, Any]]
Cells = dict[str, str]


def _over(key: str) -> Callable[[dict[str, Any], dict[str, Any]], float]:
    return lambda row, plain: row[key] / plain[key]


def _memory(row: dict[str, Any], plain: dict[str, Any]) -> float:
    return (row["peak_mb"] - row["idle_mb"]) - (plain["peak_mb"] - plain["idle_mb"])


COLUMNS: dict[str, tuple[str, Callable[[dict[str, Any], dict[str, Any]], float]]] = {
    "score": ("{:.3f}", lambda row, _: row["score"]),
    "agreement": ("{:.3f}", lambda row, _: row["agreement"]),
    "cosine": ("{:.4f}", lambda row, _: row["cosine"]),
    "SQNR dB": ("{:.1f}", lambda row, _: row["sqnr"]),
    "bytes": ("{:.2f}", lambda row, _: row["bytes"]),
    "latency": ("{:.2f}", lambda row, _: row["latency"]),
    "time": ("{:.1f}×", _over("seconds")),
    "CPU": ("{:.1f}×", _over("cpu")),
    "MB": ("{:.0f}", _memory),
    "integer kernels": ("{:.0f}", lambda row, _: row["integer"]),
    "left in float": ("{:.0f}", lambda row, _: row["float_heavy"]),
    "stray": ("{:.0f}", lambda row, _: row["conversions"]),
}
"""Column → format and value from a row and the row of plain inference.

Bytes and latency are over the float model's; time and CPU over those of plain inference of the same samples; MB is what
the process grew by since its imports beyond what plain inference grew by.
"""


def _lines(rows: Rows, model: str, only: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield each candidate with its cells, or with one cell that says what went wrong."""
    plain = rows.get(("quantized", model, PLAIN), {})
    for name in CANDIDATES:
        row = rows.get(("quantized", model, name))
        if row is None or (name not in only and name != PLAIN):
            continue
        if "failed" in row:
            yield name, [row["failed"]]
            continue
        row = {**row, **rows.get(("latency", model, name), {})}
        yield name, [_cell(column, row, plain) for column in COLUMNS]


def _cell(column: str, row: dict[str, Any], plain: dict[str, Any]) -> str:
    form, value = COLUMNS[column]
    try:
        number = value(row, plain)
    except KeyError:  # not measured
        return "–"
    return "–" if number is None else form.format(number)


def show(rows: Rows, models: list[str], only: list[str], console: Console) -> None:
    """Print one table a model."""
    for model in models:
        table = Table(title=model, title_justify="left")
        for column in ("", *COLUMNS):
            table.add_column(column, justify="right" if column else "left")
        failures = []
        for name, cells in _lines(rows, model, only):
            if len(cells) == 1:
                failures.append((name, cells[0]))
            else:
                table.add_row(name, *cells)
        console.print(table)
        for name, failure in failures:
            console.print(f"  {name}: {failure}", markup=False)


def markdown(rows: Rows, models: list[str], only: list[str]) -> str:
    """Return the same in Markdown, failures within the table."""
    lines = [f"| model | candidate | {' | '.join(COLUMNS)} |", "|---|---|" + "---|" * len(COLUMNS)]
    for model in models:
        label = model
        for name, cells in _lines(rows, model, only):
            if len(cells) == 1:
                cells = [cells[0].replace("|", "/"), *[""] * (len(COLUMNS) - 1)]
            lines.append(f"| {label} | {name} | {' | '.join(cells)} |")
            label = ""
    return "\n".join(lines)


def across(rows: Rows, models: list[str], only: list[str], column: str) -> str:
    """Return one column of all models in Markdown, candidates down and models across."""
    cells = {(name, model): found for model in models for name, found in _lines(rows, model, only)}
    at = list(COLUMNS).index(column)
    lines = [f"| {column} | {' | '.join(models)} |", "|---|" + "---|" * len(models)]
    for name in CANDIDATES:
        found = [cells.get((name, model), []) for model in models]
        if any(found):
            row = (line[at] if len(line) > 1 else "fails" if line else "–" for line in found)
            lines.append(f"| {name} | {' | '.join(row)} |")
    return "\n".join(lines)
