"""Finds out what the user's data is, and which reader knows it."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from ..errors import DataError, did_you_mean
from ..runtime.user_code import load_function
from .random_values import random_source
from .readers import images, labels, npz, protobufs, rows, sound, tables, text
from .sources import Request, Source, from_function

EXPECTED = (
    "expected images, sound, .npz, .npy, .csv, .jsonl, .txt, .parquet, a folder of such files, file.py:function "
    "or 'random'; docs/samples.md shows each"
)
OTHERS_SHOWN = 3


def find_source(request: Request, seed: int) -> Source:
    """Return the source of samples that is asked for, its pictures made into numbers where they came as arrays.

    Raises
    ------
    DataError, OptionError
        See `_find`.
    """
    return dataclasses.replace(_find(request, seed), notes=request.notes)


def _arrays(source: Source, request: Request) -> Source:
    """Return arrays; where the user says how pictures become numbers, those that are pictures are made into some."""
    return source if request.data.preprocess is None else images.from_arrays(source, request)


def _read_arrays(files: Sequence[Path], request: Request) -> Source:
    return _arrays(npz.read(files, request), request)


Reader = Callable[[Sequence[Path], Request], Source]

READERS: dict[str, tuple[Reader, tuple[str, ...]]] = {
    "images": (images.read, images.ENDS),
    "sound": (sound.read, sound.ENDS),
    "arrays": (_read_arrays, (".npz", ".npy")),
    "protobufs": (protobufs.read, (".pb",)),
    "tables": (tables.read, (".csv", ".tsv", ".jsonl", ".parquet")),
    "text": (text.read, (".txt",)),
}
"""Kind of data → what reads it, and how the names of its files end; in a folder the kind with most files counts."""


def _find(request: Request, seed: int) -> Source:
    """Return the source of samples that is asked for; `onnxcompress.samples.samples.load_samples` says what it may be.

    Raises
    ------
    DataError
        The data is nothing that samples can come from.
    OptionError
        The user's function cannot be loaded.
    """
    data = request.data.source
    if isinstance(data, (str, Path)):
        try:
            return _named_source(str(data), request, seed)
        except (OSError, ValueError) as error:  # a name that is too long, or no name at all
            reason = getattr(error, "strerror", None) or error
            raise DataError(f"data {str(data)[:200]!r}: cannot be read: {reason}") from None
    if isinstance(data, Mapping):
        return _arrays(Source(lambda: iter([("data", data)]), "arrays"), request)
    if callable(data):
        name = getattr(data, "__name__", type(data).__name__)
        return _arrays(Source(lambda: from_function(data, name), f"function {name}", streamed=True), request)
    if isinstance(data, Sequence):
        return _arrays(Source(lambda: ((f"data[{i}]", item) for i, item in enumerate(data)), "arrays"), request)
    raise DataError(
        f"data: expected a path, 'file.py:function', 'random', a dict of arrays, a list of those or a function, "
        f"got {type(data).__name__}"
    )


def _named_source(data: str, request: Request, seed: int) -> Source:
    path = Path(data)
    if data == "random":
        return random_source(request, seed)
    if path.is_dir():
        return _folder(path, request)
    if path.is_file():
        kind = _kind(path)
        if kind is None:
            raise DataError(f"data '{data}': {EXPECTED}")
        return READERS[kind][0]([path], request)
    if re.fullmatch(r".+:\w+", data):
        function = load_function(data, "data")
        place, _, name = data.rpartition(":")
        label = f"{Path(place).name}:{name}"
        return _arrays(Source(lambda: from_function(function, label), label, streamed=True), request)
    hint = did_you_mean(data, ["random"]) or f"; {EXPECTED}"
    raise DataError(f"data '{data}': no such file or folder{hint}")


def _folder(path: Path, request: Request) -> Source:
    if any((path / name).is_file() for name in rows.SAVED_DATASET):
        return tables.read([path], request)
    files = sorted(_files(path))
    found: dict[str, list[Path]] = {}
    for file in files:
        if (kind := _kind(file)) is not None:
            found.setdefault(kind, []).append(file)
    if len(found) > 1:  # what says which class each file is of is no sample
        found = {kind: rest for kind, each in found.items() if (rest := [f for f in each if not labels.is_list(f)])}
    if not found:
        shown = ", ".join(file.name for file in files[:OTHERS_SHOWN])
        raise DataError(f"data '{path}': the folder holds no samples{f' (but {shown})' if shown else ''}; {EXPECTED}")
    order = list(READERS)
    kind = max(found, key=lambda kind: (len(found[kind]), -order.index(kind)))
    others = [file.name for other in found for file in found[other] if other != kind]
    if others:
        shown = ", ".join(others[:OTHERS_SHOWN]) + (", …" if len(others) > OTHERS_SHOWN else "")
        request.notes["others"] = f"{path.name}/: read as {kind}; {len(others)} files of other kinds left out ({shown})"
    return READERS[kind][0](found[kind], request)


def _files(root: Path) -> Iterator[Path]:
    """Walk through a folder, links to folders too (parts of larger data are often links), but not in circles."""
    seen = set()
    for folder, inside, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        inside[:] = [] if real in seen else [name for name in inside if not name.startswith((".", "__"))]
        if real not in seen:
            yield from (Path(folder, name) for name in names if not name.startswith("."))
        seen.add(real)


def _kind(file: Path) -> str | None:
    return next((kind for kind, (_, ends) in READERS.items() if file.suffix.lower() in ends), None)
