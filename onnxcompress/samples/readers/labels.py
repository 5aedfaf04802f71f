"""Labels of files: from a list beside them, or from the folders that they are in."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError
from ...runtime.session import Array
from ..fitting import LABEL_NAMES
from ..sources import Request
from . import rows

LISTS = ("labels", "metadata", "annotations")
CLASSES = "classes.txt"
FILE_COLUMNS = ("file_name", "filename", "file", "image", "path", "name", "audio")
SHOWN = 3


def is_list(file: Path) -> bool:
    """Tell whether a file, by its name, says which class others are of."""
    return file.stem.lower() in LISTS or file.name == CLASSES


def labelled(files: Sequence[Path], request: Request) -> Callable[[], Iterator[tuple[str, Path, Any]]]:
    """Return what gives the name, the path and the label (None without) of each file that is a sample."""
    found = find_labels(files, request)
    kept, labels = (list(files), [None] * len(files)) if found is None else (found[0], list(found[1]))
    return lambda: ((file.name, file, label) for file, label in zip(kept, labels, strict=True))


def find_labels(files: Sequence[Path], request: Request) -> tuple[list[Path], Array] | None:
    """Return the files that have a label, and the labels; None where nothing gives any.

    Raises
    ------
    DataError
        A list is there and names none of the files.
    """
    root = request.data.path
    if root is None or not root.is_dir():
        return None
    listed = _list_of(root)
    if listed is not None:
        return _from_list(files, root, listed, request)
    folders = [file.relative_to(root).parts[:-1] for file in files]
    if not all(folders):
        return None
    names = [parts[0] for parts in folders]
    return list(files), numbered(names, request, "folders")


def _list_of(root: Path) -> Path | None:
    """Return ``labels.csv`` or the like in a folder, or a list of the folder's own name beside it."""
    ends = (".csv", ".tsv", ".jsonl", ".txt")
    inside = [root / f"{name}{end}" for name in LISTS for end in ends]
    beside = [root.parent / f"{root.resolve().name}{end}" for end in ends[:-1]]
    return next((path for path in [*inside, *beside] if path.is_file()), None)


def _from_list(files: Sequence[Path], root: Path, listed: Path, request: Request) -> tuple[list[Path], Array]:
    by_name = _read_list(listed, request.data.columns)
    found = []
    for file in files:
        label = by_name.get(file.relative_to(root).as_posix(), by_name.get(file.name, by_name.get(file.stem)))
        if label is not None:
            found.append((file, label))
    if not found:
        raise DataError(f"{listed.name}: names none of the files in {root.name}/, such as {files[0].name}")
    if len(found) < len(files):
        request.notes["unlisted"] = (
            f"{len(files) - len(found)} of {len(files)} files are not in {listed.name}, left out"
        )
    return [file for file, _ in found], numbered([label for _, label in found], request, listed.name)


def _read_list(listed: Path, columns: Mapping[str, str]) -> dict[str, Any]:
    """Return file → label: columns of a table, or two words a line."""
    if listed.suffix == ".txt":
        lines = listed.read_text(encoding="utf-8", errors="replace").splitlines()
        parts = [re.split(r"[\s,;]+(?=\S+$)", line.strip()) for line in lines if line.strip()]
        return {pair[0]: pair[1] for pair in parts if len(pair) == 2}
    table = rows.open_table(listed)
    file = columns.get("image", columns.get("sound")) or _first(FILE_COLUMNS, table, listed)
    label = columns.get("labels") or _first((*LABEL_NAMES, "class"), table, listed)
    table.check(file, label)
    return {str(row[file]): row[label] for row in table.rows()}


def _first(names: Sequence[str], table: rows.Table, listed: Path) -> str:
    found = next((name for name in names if name in table.columns), None)
    if found is None:
        raise DataError(
            f"{listed.name}: no column {' or '.join(names[:SHOWN])}; there are: {table.listing}; "
            "name them with --columns image=...,labels=..."
        )
    return found


def numbered(given: Sequence[Any], request: Request, where: str) -> Array:
    """Return labels as numbers: those that are, the places of names in a list of classes, or in alphabetical order."""
    texts = [str(label).strip() for label in given]
    if all(re.fullmatch(r"[+-]?\d+", text) for text in texts):
        return np.array([int(text) for text in texts])
    if all(rows.is_number(text) for text in texts):
        return np.array([float(text) for text in texts])
    distinct = sorted(set(texts))
    classes, why = _classes(request)
    missing = [name for name in distinct if name not in classes]
    if classes and not missing:
        request.notes["labels"] = f"labels: names numbered as in {why}"
        return np.array([classes[text] for text in texts])
    shown = ", ".join(f"{number} = {name}" for number, name in enumerate(distinct[:SHOWN]))
    shown += ", …" if len(distinct) > SHOWN else ""
    lacks = f" ({why} lacks {missing[0]})" if classes else ""
    request.notes["labels"] = (
        f"labels: the {len(distinct)} names of {where} in alphabetical order: {shown}{lacks}; "
        f"if the model counts otherwise, put its names in order into {CLASSES}"
    )
    order = {name: number for number, name in enumerate(distinct)}
    return np.array([order[text] for text in texts])


def _classes(request: Request) -> tuple[dict[str, int], str]:
    """Return name → number as a file or the model's metadata gives it, and what that is; the first word names too."""
    if (path := request.beside(CLASSES)) is not None:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        names = [line.strip() for line in lines if line.strip()]
        return {line.split()[0]: i for i, line in enumerate(names)} | {n: i for i, n in enumerate(names)}, CLASSES
    if (path := request.beside("config.json")) is not None:
        try:
            known = json.loads(path.read_text(encoding="utf-8")).get("label2id")
        except (OSError, ValueError, AttributeError):
            known = None
        if isinstance(known, dict) and all(isinstance(number, int) for number in known.values()):
            return known, "config.json"
    text = "" if request.model is None else request.model.metadata_props.get("names", "")
    try:  # Ultralytics writes {0: 'person', 1: 'bicycle'}
        known = ast.literal_eval(text) if text else {}
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        known = {}
    named = {str(name): number for number, name in known.items()} if isinstance(known, dict) else {}
    return named, "the model's metadata"
