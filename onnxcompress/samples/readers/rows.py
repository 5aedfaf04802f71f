"""Tables, whatever they are stored in: columns, and rows that are read as they are asked for."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from ...errors import DataError, did_you_mean
from ..extras import need

Row = dict[str, Any]
MOST_SHOWN = 30
"""Columns, and letters of the name of one, that a message shows."""

AT_ONCE = 256
"""Rows that are read together where they are stored so."""

SAVED_DATASET = ("state.json", "dataset_dict.json")
"""Files that Hugging Face's datasets leaves in a folder."""


@dataclass(frozen=True)
class Table:
    """Rows of named columns.

    Attributes
    ----------
    name : str
        What messages call it.
    columns : tuple of str
    rows : callable
        Returns an iterator over the rows, from the start.
    folder : Path
        Where files lie that cells name.
    """

    name: str
    columns: tuple[str, ...]
    rows: Callable[[], Iterator[Row]]
    folder: Path

    @property
    def listing(self) -> str:
        """The names of the columns on one line, as messages show them."""
        names = [" ".join(name.split())[:MOST_SHOWN] for name in self.columns[:MOST_SHOWN]]
        return ", ".join(names) + (", …" if len(self.columns) > MOST_SHOWN else "")

    def check(self, *names: str) -> None:
        """Raise `DataError` unless there are columns of these names."""
        for name in names:
            if name not in self.columns:
                close = did_you_mean(name, list(self.columns))
                raise DataError(f"{self.name}: no column '{name}'{close}; there are: {self.listing}")

    def check_row(self, row: Row, names: Sequence[str]) -> None:
        """Raise `DataError` unless a row has a value in each of these columns."""
        for name in names:
            if row.get(name) is None:
                raise DataError(f"{self.name}: a row has nothing in column '{name}': {str(row)[:80]}")


def open_table(path: Path) -> Table:
    """Return the table in a file or in a folder that Hugging Face's datasets saved.

    Raises
    ------
    DataError
        It cannot be read, or has no columns.
    """
    openers = {".csv": _csv, ".tsv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}
    table = _dataset(path) if path.is_dir() else openers[path.suffix.lower()](path)
    if not table.columns:
        raise DataError(f"{table.name}: is empty")
    return table


def _csv(path: Path) -> Table:
    names = next(_cells(path), (0, []))[1]
    headless = bool(names) and all(is_number(name) for name in names)
    columns = tuple(str(number) for number in range(len(names))) if headless else tuple(names)
    return Table(path.name, columns, lambda: _csv_rows(path, columns, skip=not headless), path.parent)


def _cells(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of each line that is not empty and its cells."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            reader = csv.reader(file, delimiter=_delimiter(path, first))
            yield from ((reader.line_num, [cell.strip() for cell in cells]) for cells in reader if cells)
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name}: is no UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except (OSError, csv.Error) as error:
        raise DataError(f"{path.name}: cannot be read: {error}") from None


def _delimiter(path: Path, first: str) -> str:
    return "\t" if path.suffix.lower() == ".tsv" else ";" if first.count(";") > first.count(",") else ","


def _csv_rows(path: Path, names: Sequence[str], *, skip: bool) -> Iterator[Row]:
    for line, values in islice(_cells(path), int(skip), None):
        if len(values) != len(names):
            raise DataError(f"{path.name}: line {line} has {len(values)} cells; expected {len(names)} as in the first")
        yield dict(zip(names, values, strict=True))


def is_number(cell: Any) -> bool:
    """Tell whether a cell is a number, or text that reads as one."""
    try:
        float(cell)
    except (TypeError, ValueError):
        return False
    return True


def _jsonl(path: Path) -> Table:
    first: Row = next(_jsonl_rows(path), {})
    return Table(path.name, tuple(first), lambda: _jsonl_rows(path), path.parent)


def _jsonl_rows(path: Path) -> Iterator[Row]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise DataError(f"{path.name}: line {number} is no JSON: {error}") from None
                if not isinstance(row, dict):
                    raise DataError(
                        f'{path.name}: line {number} is a {type(row).__name__}; expected {{"column": value}}'
                    )
                yield row
    except OSError as error:
        raise DataError(f"{path.name}: cannot be read: {error.strerror or error}") from None


def _parquet(path: Path) -> Table:
    parquet = need("pyarrow.parquet", "datasets", "Parquet files")
    from pyarrow import ArrowException

    def rows() -> Iterator[Row]:
        try:
            with parquet.ParquetFile(path) as file:
                for batch in file.iter_batches(AT_ONCE):
                    yield from batch.to_pylist()
        except (ArrowException, OSError) as error:
            raise DataError(f"{path.name}: cannot be read: {' '.join(str(error).split())[:200]}") from None

    try:
        with parquet.ParquetFile(path) as file:
            names = tuple(file.schema_arrow.names)
    except (ArrowException, OSError) as error:
        raise DataError(f"{path.name}: no Parquet file, or truncated: {' '.join(str(error).split())[:200]}") from None
    return Table(path.name, names, rows, path.parent)


def _dataset(path: Path) -> Table:
    datasets = need("datasets", "datasets", "Hugging Face datasets")
    if (path / SAVED_DATASET[1]).is_file():
        parts = sorted(part.name for part in path.iterdir() if part.is_dir())
        raise DataError(
            f"{path.name}/: holds {len(parts)} splits; give one, such as --data {path / (parts or ['test'])[0]}"
        )
    try:
        found = datasets.load_from_disk(str(path))
        for name, kind in found.features.items():
            if isinstance(kind, (datasets.Image, datasets.Audio)):
                found = found.cast_column(name, type(kind)(decode=False))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path.name}/: cannot be read as a dataset: {' '.join(str(error).split())[:200]}") from None

    def rows() -> Iterator[Row]:
        for batch in found.iter(AT_ONCE):
            names = list(batch)
            for values in zip(*batch.values(), strict=True):
                yield dict(zip(names, values, strict=True))

    return Table(f"{path.name}/", tuple(found.column_names), rows, path)
