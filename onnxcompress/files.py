"""Files that the user asked for: looked at before long work starts, written whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import OutputError


def check_target(path: str | Path, *, overwrite: bool = False) -> None:
    """Raise `OutputError` if `path` cannot be written, as far as that can be known now.

    Parameters
    ----------
    path : str or Path
        A file; its folder must exist and take a new file.
    overwrite : bool
        Whether a file that is there may be replaced.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise OutputError(f"{path}: is a folder; give the name of a file")
        if path.exists() and not overwrite:
            raise OutputError(f"{path}: exists already; give another name, or --overwrite (overwrite=True)")
        if not path.parent.is_dir():
            raise OutputError(f"{path}: the folder {path.parent} does not exist")
        Path(tempfile.mkdtemp(prefix=".onnxcompress-", dir=path.parent)).rmdir()
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from None


def make_folder(path: str | Path) -> Path:
    """Make a folder, and those above it, if it is not there; raise `OutputError` if that cannot be."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: the folder cannot be made: {error.strerror}") from None
    return path


def write_text(path: str | Path, text: str, *, overwrite: bool = False) -> None:
    """Write a text file in UTF-8; see `write_bytes`."""
    write_bytes(path, text.encode(), overwrite=overwrite)


def write_bytes(path: str | Path, data: bytes, *, overwrite: bool = False) -> None:
    """Write a file: a temporary file beside it, then a rename.

    Raises
    ------
    OutputError
        The file exists and `overwrite` is false, or it cannot be written; what was there stays.
    """
    path = Path(path)
    check_target(path, overwrite=overwrite)
    with staging_beside(path) as staging:
        with (staging / path.name).open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        (staging / path.name).replace(path)


@contextmanager
def staging_beside(path: Path) -> Iterator[Path]:
    """Make a temporary folder beside a target, on the same file system, and remove it whatever happens.

    Raises
    ------
    OutputError
        The folder cannot be made, or something in the block failed to be written.
    """
    staging: Path | None = None
    try:
        staging = Path(tempfile.mkdtemp(prefix=".onnxcompress-", dir=path.parent))
        yield staging
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from None
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
