"""Arrays in ``.npz`` and ``.npy`` files, mapped where that is possible, and checked before memory is asked for."""

from __future__ import annotations

import lzma
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np

from ...errors import DataError
from ...runtime.session import Array
from ..sources import UNNAMED, Request, Source, called

BROKEN = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, ValueError, struct.error)
"""What Python's readers of archives raise for one that is damaged, or not theirs."""

BAD_MEMBER = (ValueError, TypeError, SyntaxError, tokenize.TokenError, RecursionError, MemoryError)
"""What numpy raises for a header that is none, or promises too much."""

ENCRYPTED = 1
"""The flag of an encrypted member."""

READ_HEADER = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read(files: Sequence[Path], request: Request) -> Source:
    """Return the arrays of ``.npz`` files, or of ``.npy`` files, each a piece."""
    readers = {".npz": read_npz, ".npy": read_npy}
    return Source(lambda: ((file.name, readers[file.suffix.lower()](file)) for file in files), called(files, request))


def read_npy(path: Path) -> dict[str, Array]:
    """Map the array of an ``.npy`` file.

    Raises
    ------
    DataError
        The file is missing, no ``.npy`` file, truncated, or holds Python objects.
    """
    try:
        with path.open("rb") as file:
            return {UNNAMED: _map_array(path, file, 0, path.stat().st_size)}
    except OSError as error:
        raise DataError(f"{path.name}: cannot be read: {error.strerror or error}") from error
    except BAD_MEMBER as error:
        raise DataError(f"{path.name}: {_why_not(error)}") from error


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
    start = stream.tell()
    version = np.lib.format.read_magic(stream)
    if version in READ_HEADER:
        shape, _, dtype = READ_HEADER[version](stream)
        size -= stream.tell() - start
        promised = math.prod(shape) * dtype.itemsize
        if not dtype.hasobject and (min(shape, default=0) < 0 or promised > size):
            raise ValueError(f"its header promises {dtype} {list(shape)}, and it holds {size} bytes")


def _map_member(path: Path, file: BinaryIO, member: zipfile.ZipInfo) -> Array:
    """Map a member where it lies in the file: behind its local header and its .npy header."""
    file.seek(member.header_offset + 26)
    lengths = file.read(4)
    name_length, extra_length = int.from_bytes(lengths[:2], "little"), int.from_bytes(lengths[2:], "little")
    start = member.header_offset + 30 + name_length + extra_length
    return _map_array(path, file, start, min(member.file_size, path.stat().st_size - start))


def _map_array(path: Path, file: BinaryIO, start: int, size: int) -> Array:
    file.seek(start)
    _check_size(file, size)
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
