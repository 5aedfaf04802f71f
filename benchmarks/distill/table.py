"""Tables of the results, in Markdown."""

from __future__ import annotations

import statistics
from typing import Any

COLUMNS = ("model", "what", "before", "score", "zeros", "bytes", "zipped")


def markdown(rows: list[dict[str, Any]], parts: list[str]) -> str:
    """Return a table for each part that has rows: mean ± deviation over the seeds."""
    return "\n\n".join(_part(name, [row for row in rows if row["part"] == name]) for name in parts)


def _part(name: str, rows: list[dict[str, Any]]) -> str:
    lines = [f"### {name}", "", "| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    for key in dict.fromkeys((row["model"], row["what"]) for row in rows):
        same = [row for row in rows if (row["model"], row["what"]) == key]
        if "refused" in same[-1]:
            lines.append(f"| {key[0]} | {key[1]} | refused: {same[-1]['refused']} |")
            continue
        cells = [_cell(column, [row[column] for row in same if row.get(column) is not None]) for column in COLUMNS[2:]]
        lines.append(f"| {key[0]} | {key[1]} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(column: str, values: list[float]) -> str:
    if not values:
        return ""
    if column in ("bytes", "zipped"):
        return f"{statistics.median(values):,.0f}"
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread}"
