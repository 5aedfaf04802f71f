"""Something that gives samples piece by piece, as often as it is asked; the user's function is one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ..errors import DataError
from ..runtime.user_code import describe
from .data import Data
from .inputs import Layout

Piece = tuple[str, Mapping[str, Any]]
"""Arrays by name that belong together, and what messages call the place they came from."""

Holds = Callable[[npt.NDArray[np.int64]], npt.NDArray[np.bool_]]
"""Tells of each number whether it is meant."""

ENTRIES_AT_ONCE = 1024

T = TypeVar("T")

UNNAMED = ""
"""The name of an array that comes without one."""


@dataclass(frozen=True)
class Source:
    """Something that gives the same pieces each time it is asked.

    Attributes
    ----------
    pieces : callable
        Returns an iterator over the pieces, from the start.
    description : str
        What reports call it.
    random : bool
        The values are made up.
    streamed : bool
        The pieces are made as they are asked for, perhaps slowly, so they are not all checked beforehand.
    picked : callable, optional
        Returns an iterator over the pieces of the entries (files, rows) whose numbers the function that it is given
        holds; so the others need not be decoded.
    size : callable, optional
        Returns how many entries there are, without decoding any.
    notes : dict
        What the user is to know of the samples (left out, guessed, cast), each sentence under a key of its own, so
        that what is said again as the samples are gone through again replaces what was said before.
    decoders : dict
        Input → what makes text of the numbers of one sample, where they were made of text.
    """

    pieces: Callable[[], Iterator[Piece]]
    description: str
    random: bool = False
    streamed: bool = False
    picked: Callable[[Holds | None], Iterator[Piece]] | None = None
    size: Callable[[], int] | None = None
    notes: dict[str, str] = field(default_factory=dict)
    decoders: Mapping[str, Callable[[Sequence[int]], str]] = field(default_factory=dict)


def pick(entries: Iterator[T], holds: Holds | None) -> Iterator[tuple[int, T]]:
    """Yield the entries whose numbers `holds` tells (all without it), each with its number."""
    start = 0
    while block := list(islice(entries, ENTRIES_AT_ONCE)):
        numbers = np.arange(start, start + len(block))
        chosen = numbers if holds is None else numbers[holds(numbers)]
        yield from ((int(number), block[number - start]) for number in chosen)
        start += len(block)


def decoding(
    entries: Callable[[], Iterator[T]],
    decoded: Callable[[Iterator[tuple[int, T]]], Iterator[Piece]],
    description: str,
) -> Source:
    """Return a source of entries that are cheap to go through and dear to decode."""

    def picked(holds: Holds | None) -> Iterator[Piece]:
        return decoded(pick(entries(), holds))

    return Source(
        lambda: picked(None), description, streamed=True, picked=picked, size=lambda: sum(1 for _ in entries())
    )


@dataclass(frozen=True)
class Request:
    """What a reader is asked for: the user's words, and the model that the samples are for.

    Attributes
    ----------
    data : Data
    layout : Layout
        The model's inputs.
    model : onnx_ir.Model or None
        For what its metadata, its folder and its weights say.
    notes : dict
        See `Source`.
    """

    data: Data
    layout: Layout
    model: ir.Model | None = None
    notes: dict[str, str] = field(default_factory=dict)

    def beside(self, name: str) -> Path | None:
        """Return the file of that name in the data's folder, or else in the model's; None without one."""
        for folder in self.folders():
            if (folder / name).is_file():
                return folder / name
        return None

    def folders(self) -> list[Path]:
        """Return the folders in which what belongs to the data and the model is looked for."""
        path, found = self.data.path, []
        if path is not None:
            found = [path, path.parent] if path.is_dir() else [path.parent]
        if self.data.model is not None:
            found.append(Path(self.data.model).parent)
        return found


def called(files: Sequence[Path], request: Request) -> str:
    """Return what reports call files: their name, or that of their folder and how many they are."""
    path = request.data.path
    if path is None or not path.is_dir():
        return files[0].name
    kinds = sorted({file.suffix.lower() for file in files})
    return f"{path.resolve().name}/ ({len(files)} {', '.join(kinds)} files)"


def from_function(function: Callable[[], Any], label: str) -> Iterator[Piece]:
    """Call the user's function anew and hand on what it yields, its exceptions named."""
    try:
        items = iter(function())
    except Exception as error:
        raise DataError(f"data function {label} failed: {describe(error)}") from error
    index = 0
    while True:
        try:
            item = next(items)
        except StopIteration:
            return
        except Exception as error:
            raise DataError(f"data function {label} failed after {index} dicts: {describe(error)}") from error
        if not isinstance(item, Mapping):
            raise DataError(f"data function {label}: item {index} is a {type(item).__name__}, not a dict of arrays")
        yield f"{label}[{index}]", item
        index += 1
