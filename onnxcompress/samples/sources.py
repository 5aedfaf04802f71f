"""Where samples come from: files, folders, functions, arrays in memory, random values."""

from __future__ import annotations

import lzma
import math
import re
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np

from ..errors import DataError, did_you_mean
from ..runtime.session import Array
from ..runtime.user_code import describe, load_function
from .data import Data
from .inputs import Layout, random_feeds

Piece = tuple[str, Mapping[str, Any]]
"""Arrays by name that belong together, and what messages call the place they came from."""

RANDOM_COUNT = 16
"""How many random samples ``"random"`` gives (more if the model's fixed batch is larger)."""


BROKEN = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, ValueError, struct.error)
"""What Python's readers of archives raise for one that is damaged, or not theirs."""

BAD_MEMBER = (ValueError, TypeError, SyntaxError, tokenize.TokenError, RecursionError, MemoryError)
"""What numpy raises for a header that is none, or promises too much."""

ENCRYPTED = 1
"""The flag of an encrypted member."""

READ_HEADER = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


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
        The user's code makes the pieces, perhaps slowly, so they are not all checked beforehand.
    """

    pieces: Callable[[], Iterator[Piece]]
    description: str
    random: bool = False
    streamed: bool = False


def find_source(given: Data, layout: Layout, seed: int) -> Source:
    """Return the source of samples that is given; `onnxcompress.samples.samples.load_samples` says what it may be.

    Raises
    ------
    DataError
        `data` is nothing that samples can come from.
    OptionError
        The user's function cannot be loaded.
    """
    data = given.source
    if isinstance(data, (str, Path)):
        try:
            return _named_source(data, layout, seed)
        except (OSError, ValueError) as error:  # a name that is too long, or no name at all
            reason = getattr(error, "strerror", None) or error
            raise DataError(f"data {str(data)[:200]!r}: cannot be read: {reason}") from None
    if isinstance(data, Mapping):
        return Source(lambda: iter([("data", data)]), "arrays")
    if callable(data):
        name = getattr(data, "__name__", type(data).__name__)
        return Source(lambda: _from_function(data, name), f"function {name}", streamed=True)
    if isinstance(data, Sequence):
        return Source(lambda: ((f"data[{i}]", item) for i, item in enumerate(data)), "arrays")
    raise DataError(
        f"data: expected a path, 'file.py:function', 'random', a dict of arrays, a list of those or a function, "
        f"got {type(data).__name__}"
    )


def _named_source(data: str | Path, layout: Layout, seed: int) -> Source:
    path = Path(data)
    if data == "random":
        count = max(RANDOM_COUNT, layout.fixed_batch or 1) if layout.batched else 1
        count -= count % (layout.fixed_batch or 1)
        return Source(lambda: iter([("random", random_feeds(layout, count, seed))]), "random", random=True)
    if path.is_dir():
        files = sorted(path.glob("*.npz"))
        if not files:
            raise DataError(f"data '{data}': the folder holds no .npz file")
        description = f"{path.name}/ ({len(files)} .npz files)"
        return Source(lambda: ((file.name, read_npz(file)) for file in files), description)
    if path.is_file():
        if path.suffix != ".npz":
            raise DataError(f"data '{data}': expected an .npz file, a folder of them, or file.py:function")
        return Source(lambda: iter([(path.name, read_npz(path))]), path.name)
    if re.fullmatch(r".+:\w+", str(data)):
        function = load_function(str(data), "data")
        place, _, name = str(data).rpartition(":")
        label = f"{Path(place).name}:{name}"
        return Source(lambda: _from_function(function, label), label, streamed=True)
    hint = (
        did_you_mean(str(data), ["random"]) or "; expected an .npz file, a folder of them, file.py:function or 'random'"
    )
    raise DataError(f"data '{data}': no such file or folder{hint}")


def _from_function(function: Callable[[], Any], label: str) -> Iterator[Piece]:
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


def read_npz(path: Path) -> dict[str, Array]:
    """Read the arrays of an ``.npz`` file; those stored uncompressed are mapped, not read.

    Raises
    ------
    DataError
        The file is missing, no ``.npz`` file, truncated, or holds Python objects.
    """
    arrays: dict[str, Array] = {}
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            for member in archive.infolist():
                name = member.filename.removesuffix(".npy")
                try:
                    arrays[name] = _read_member(path, file, archive, member)
                except BAD_MEMBER as error:
                    raise DataError(f"{path.name}: array '{name}': {_why_not(error)}") from error
    except OSError as error:
        raise DataError(f"{path.name}: cannot be read: {error.strerror or error}") from error
    except BROKEN as error:
        raise DataError(f"{path.name}: no .npz file, or truncated ({error})") from error
    return arrays


def _read_member(path: Path, file: BinaryIO, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Array:
    if member.flag_bits & ENCRYPTED:
        raise ValueError("is encrypted; save it without a password")
    return _map_member(path, file, member) if member.compress_type == zipfile.ZIP_STORED else _unpack(archive, member)


def _why_not(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "does not fit into memory; split it into several files in a folder"
    if "allow_pickle" in str(error):
        return "holds Python objects, which are not read (they could run code); save plain arrays"
    return " ".join(str(error).split())[:300] or "its header cannot be read"


def _unpack(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Array:
    with archive.open(member) as stream:
        _check_size(stream, member.file_size)
    with archive.open(member) as stream:
        array: Array = np.lib.format.read_array(stream, allow_pickle=False)
    return array


def _check_size(stream: IO[bytes], size: int) -> None:
    """Raise `ValueError` if a header promises more than there is, before memory is allocated for it."""
    version = np.lib.format.read_magic(stream)
    if version in READ_HEADER:
        shape, _, dtype = READ_HEADER[version](stream)
        promised = math.prod(shape) * dtype.itemsize
        if not dtype.hasobject and (min(shape, default=0) < 0 or promised > size):
            raise ValueError(f"its header promises {dtype} {list(shape)}, and it holds {size} bytes")


def _map_member(path: Path, file: BinaryIO, member: zipfile.ZipInfo) -> Array:
    """Map a member where it lies in the file: behind its local header and its .npy header."""
    file.seek(member.header_offset + 26)
    lengths = file.read(4)
    name_length, extra_length = int.from_bytes(lengths[:2], "little"), int.from_bytes(lengths[2:], "little")
    start = member.header_offset + 30 + name_length + extra_length
    file.seek(start)
    _check_size(file, min(member.file_size, path.stat().st_size - start))
    file.seek(start)
    version = np.lib.format.read_magic(file)
    if version in READ_HEADER:
        shape, fortran, dtype = READ_HEADER[version](file)
        if not dtype.hasobject and 0 not in shape and shape and dtype.itemsize:
            order = "F" if fortran else "C"
            mapped = np.memmap(path, dtype, "r", file.tell(), shape, order)  # type: ignore[call-overload]
            return np.asarray(mapped)
    file.seek(start)
    array: Array = np.lib.format.read_array(file, allow_pickle=False)
    return array
