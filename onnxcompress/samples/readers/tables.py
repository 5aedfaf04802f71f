"""Tables: of texts, of pictures or sound (or where they lie), or of numbers, a row for each sample."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError
from ...runtime.session import Array
from ..explain import takes
from ..fitting import LABEL_NAMES, LABELS
from ..roles import LATER, role
from ..sources import UNNAMED, Piece, Request, Source
from . import images, sound, text
from .labels import FILE_COLUMNS, numbered
from .rows import AT_ONCE, Row, Table, is_number, open_table

TEXTS = (
    ("sentence1", "sentence2"), ("premise", "hypothesis"), ("question", "context"), ("question1", "question2"),
    ("query", "passage"), ("text", "pair"), ("text",), ("sentence",), ("content",), ("review",), ("prompt",),
    ("question",), ("query",), ("document",),
)  # fmt: skip
"""Columns that are texts, or pairs of them, by the names that public data has; the first that are there."""

FILES = {
    "image": (images.pictures, ("image", "img", "picture", *FILE_COLUMNS), images.ENDS),
    "sound": (sound.recordings, ("audio", "sound", "speech", *FILE_COLUMNS), sound.ENDS),
}
"""What cells may hold or name: what makes samples of it, the names of such columns, the ends of such files' names."""


def read(files: Sequence[Path], request: Request) -> Source:
    """Return the rows of a table as samples, with labels where a column has them.

    Raises
    ------
    DataError
        No column fits what the model takes.
    """
    if len(files) > 1:
        first, second = files[0].name, files[1].name
        raise DataError(f"{request.data.source}: holds {len(files)} tables ({first}, {second}, …); give one of them")
    table = open_table(files[0])
    columns = request.data.columns
    table.check(*columns.values())
    row: Row = next(table.rows(), {})
    label = columns.get(LABELS) or next((name for name in LABEL_NAMES if name in table.columns), None)
    labels = _labels(table, label, row, request)
    for kind, (make, names, ends) in FILES.items():
        candidates = [columns[kind]] if kind in columns else [] if columns.keys() - {LABELS} else names
        for name in candidates:
            if name in row and _file(row[name], table, ends) is not None:
                return make(_entries(table, name, ends, labels), table.name, request)
    chosen = _texts(table, row, label, request)
    if chosen:
        return text.texts(_lines(table, chosen, labels), table.name, request, labelled=labels is not None)
    return _arrays(table, row, label, labels, request)


def _labels(table: Table, label: str | None, row: Row, request: Request) -> Callable[[], Iterator[Any]] | None:
    """Return what gives the label of each row in turn; names are numbered, for which all are looked at first."""
    if label is None or label in {item.name for item in request.layout.inputs}:
        return None
    table.check(label)
    if not isinstance(row.get(label), str):
        return lambda: (each[label] for each in table.rows())
    found = numbered([each[label] for each in table.rows()], request, f"column {label}")
    return lambda: iter(found)


def _file(cell: Any, table: Table, ends: tuple[str, ...]) -> Path | bytes | None:
    """Return the bytes that a cell holds, or the file that it names, beside the table or in a folder of its name."""
    if isinstance(cell, dict):  # as Hugging Face's datasets store pictures and sound
        named = str(cell.get("path") or "")
        if named and not named.lower().endswith(ends):
            return None
        return cell["bytes"] if isinstance(cell.get("bytes"), bytes) else _file(named, table, ends)
    if isinstance(cell, bytes):
        return cell
    if not isinstance(cell, str) or not cell.lower().endswith(ends):
        return None
    places = (table.folder / cell, table.folder / Path(table.name).stem / cell)
    return next((place for place in places if place.is_file()), places[0])


def _entries(
    table: Table, name: str, ends: tuple[str, ...], labels: Callable[[], Iterator[Any]] | None
) -> Callable[[], Iterator[tuple[str, Any, Any]]]:
    def entries() -> Iterator[tuple[str, Any, Any]]:
        given = None if labels is None else labels()
        for number, row in enumerate(table.rows()):
            found = _file(row[name], table, ends)
            called = found.name if isinstance(found, Path) else f"row {number + 1}"
            yield called, b"" if found is None else found, None if given is None else next(given)

    return entries


def _texts(table: Table, row: Row, label: str | None, request: Request) -> list[str]:
    """Return the columns of texts: those that the user names, or those of a known name, or the only one."""
    columns = request.data.columns
    if "text" in columns:
        return [columns["text"], *([columns["pair"]] if "pair" in columns else [])]
    if "pair" in columns:
        raise DataError(f"{table.name}: --columns names a pair and no text; give text=COLUMN too")
    words = [name for name, cell in row.items() if isinstance(cell, str) and name != label and not is_number(cell)]
    inputs = {columns.get(item.name, item.name) for item in request.layout.inputs}
    if not words or inputs <= set(table.columns):
        return []
    known = next((names for names in TEXTS if set(names) <= set(words)), None)
    if known is None and len(words) > 1:
        raise DataError(
            f"{table.name}: which column is the text: {', '.join(words)}? Name it with --columns text=..., "
            "or two with text=...,pair=..."
        )
    return list(known or words)


def _lines(
    table: Table, chosen: list[str], labels: Callable[[], Iterator[Any]] | None
) -> Callable[[], Iterator[tuple[tuple[str, ...], Any]]]:
    def lines() -> Iterator[tuple[tuple[str, ...], Any]]:
        given = None if labels is None else labels()
        for row in table.rows():
            table.check_row(row, chosen)
            yield tuple(str(row[name]) for name in chosen), None if given is None else next(given)

    return lines


def _arrays(
    table: Table, row: Row, label: str | None, labels: Callable[[], Iterator[Any]] | None, request: Request
) -> Source:
    """Return rows of numbers: columns named after the inputs, or all of them in order for the one input."""
    inputs = request.layout.inputs
    columns = request.data.columns
    by_input = {item.name: columns.get(item.name, item.name) for item in inputs}
    rest = [name for name in table.columns if name != label]
    by_input = {name: column for name, column in by_input.items() if column in table.columns}
    if any(item.name not in by_input and role(item.name) not in LATER for item in inputs):
        if len(inputs) != 1 or not all(is_number(row.get(name)) for name in rest):
            raise DataError(
                f"{table.name}: no columns for the model's inputs; {takes(request.layout)}; "
                f"there are: {table.listing}; name them with --columns INPUT=COLUMN,..."
            )
        by_input = {}

    def pieces() -> Iterator[Piece]:
        waiting, start = table.rows(), 1
        given = None if labels is None else labels()
        while block := list(islice(waiting, AT_ONCE)):
            where = f"{table.name}: row {start} and on"
            marks = None if given is None else list(islice(given, len(block)))
            for places in _alike(block, list(by_input.values())):
                some = [block[place] for place in places]
                feeds: dict[str, Any] = {UNNAMED: _numbers(some, rest, where)} if not by_input else {}
                for item in (item for item in inputs if item.name in by_input):
                    array = _column(some, by_input[item.name], where)
                    short = len(item.shape or ()) - array.ndim
                    feeds[item.name] = array.reshape(array.shape + (1,) * max(short, 0))
                if marks is not None:
                    feeds[LABELS] = np.array([marks[place] for place in places])
                yield where, feeds
            start += len(block)

    return Source(pieces, table.name, streamed=True)


def _alike(block: Sequence[Row], names: Sequence[str]) -> Iterable[list[int]]:
    """Return the rows whose lists are of the same lengths (tokens of texts), together."""
    found: dict[tuple[int, ...], list[int]] = {}
    for place, row in enumerate(block):
        lengths = tuple(len(cell) if isinstance(cell := row.get(name), list) else 0 for name in names)
        found.setdefault(lengths, []).append(place)
    return found.values()


def _numbers(block: Sequence[Row], names: Sequence[str], where: str) -> Array:
    columns = {name: _column(block, name, where) for name in names}
    for name, column in columns.items():
        if column.dtype == object:
            raise DataError(f"{where}: column '{name}': not all of it is numbers")
    return np.stack(list(columns.values()), axis=1)


def _column(block: Sequence[Row], name: str, where: str) -> Array:
    cells = [row.get(name) for row in block]
    try:
        if all(isinstance(cell, str) and is_number(cell) for cell in cells):
            return np.array([float(cell) for cell in cells])  # type: ignore[arg-type]
        if all(isinstance(cell, str) for cell in cells):
            return np.array(cells, object)
        array = np.array(cells)
    except ValueError:
        raise DataError(f"{where}: column '{name}': rows of different lengths") from None
    if array.dtype == object:
        raise DataError(f"{where}: column '{name}': holds what is neither number nor text, or not everywhere")
    return array
