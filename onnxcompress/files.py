"""Files that the user asked for: looked at before long work starts, written whole or not at all."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from . import urls
from .errors import OutputError
from .scratch import BESIDE, owned_folder, sweep, temporary_folder

KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
"""What lies under a path that is no regular file."""


def kind_of(path: Path) -> str | None:
    """Return what a path leads to if that is no regular file, as in `KINDS`; None for a file, or nothing.

    Raises
    ------
    OSError
        Nobody can tell: a folder on the way may not be searched, or the name is too long.
    """
    try:
        return KINDS.get(stat.S_IFMT(path.stat().st_mode))
    except (FileNotFoundError, NotADirectoryError):
        return None


def check_target(path: str | Path, *, overwrite: bool = False, suffix: str | None = None) -> Path:
    """Raise `OutputError` if `path` cannot be written, as far as that can be known now.

    Parameters
    ----------
    path : str or Path
        A file; its folder must exist and take a new file. A symbolic link stands for the file that it leads to.
    overwrite : bool
        Whether a file that is there may be replaced.
    suffix : str, optional
        What the name must end in: that of an ONNX model.

    Returns
    -------
    Path
        The file to write, behind all symbolic links.
    """
    where = urls.located(path)
    if isinstance(where, str):
        _check_model_name(path, suffix)
        urls.check_writable(where, overwrite=overwrite)
        return Path(path)
    path = where
    try:
        real = Path(os.path.realpath(path)) if path.is_symlink() else path
        if real != path and not real.exists():
            raise OutputError(f"{path}: is a symbolic link to {real}, which is not there; remove the link")
        kind = kind_of(real)
        if kind is not None:
            raise OutputError(f"{path}: is {kind}; give the name of a file")
        if real.exists() and not overwrite:
            raise OutputError(f"{path}: exists already; give another name, or --overwrite (overwrite=True)")
        if not real.parent.is_dir():
            raise OutputError(f"{path}: the folder {real.parent} does not exist")
        with owned_folder(real.parent, BESIDE):
            pass
    except (OSError, ValueError) as error:
        raise OutputError(f"{path}: cannot be written: {getattr(error, 'strerror', None) or error}") from None
    _check_model_name(path, suffix)
    return real


def _check_model_name(path: str | Path, suffix: str | None) -> None:
    if suffix is not None and Path(path).suffix.lower() != suffix:
        raise OutputError(f"{path}: what is written is an ONNX model; give a name that ends in {suffix}")


def check_suffix(path: str | Path, allowed: Collection[str]) -> str:
    """Return what the name ends in, in small letters; raise `OutputError` unless that is allowed."""
    suffix = Path(path).suffix.lower()
    if suffix not in allowed:
        *most, last = allowed
        names = f"{', '.join(most)} or {last}" if most else last
        raise OutputError(f"{path}: a report ends in {names}; give such a name")
    return suffix


def check_apart(written: Mapping[str, str | Path | None], read: Mapping[str, str | Path | None]) -> None:
    """Raise `OutputError` if what is to be written is one file with something else that is written, or read.

    Parameters
    ----------
    written, read : mapping
        What each file is called in the message, and its path.
    """
    outputs = [(name, Path(path)) for name, path in written.items() if path is not None]
    inputs = [(name, Path(path)) for name, path in read.items() if path is not None]
    for index, (name, path) in enumerate(outputs):
        for other, against in (*outputs[index + 1 :], *inputs):
            if is_same_file(path, against):
                raise OutputError(f"{name} and {other} name the same file, {path}; give another name")


def is_same_file(one: Path, other: Path) -> bool:
    """Tell whether two paths lead to one file, through whatever links, or would once it is there.

    Names that differ in case only count as one, since on many file systems they are.
    """
    try:
        return one.samefile(other)
    except (OSError, ValueError):
        one, other = Path(os.path.realpath(one)), Path(os.path.realpath(other))
        return str(one).casefold() == str(other).casefold()


def check_folder(path: str | Path, called: str) -> None:
    """Raise `OutputError` if a folder, there or not, takes no file, as far as that can be known now."""
    if isinstance(urls.located(path), str):
        return  # there are no folders in most of what has URLs
    path = Path(path)
    try:
        there = next(each for each in (path, *path.absolute().parents) if each.exists() or each.is_symlink())
        if not there.is_dir():
            raise OutputError(f"{called}: {there} is no folder; give another name")
        with owned_folder(there, BESIDE):
            pass
    except (OSError, ValueError) as error:
        raise OutputError(f"{called}: cannot be written: {getattr(error, 'strerror', None) or error}") from None


def make_folder(path: str | Path) -> Path:
    """Make a folder, and those above it, if it is not there; raise `OutputError` if that cannot be."""
    if isinstance(urls.located(path), str):
        return Path(path)
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise OutputError(f"{path}: the folder cannot be made: {getattr(error, 'strerror', None) or error}") from None
    sweep(path, BESIDE)
    return path


def write_text(path: str | Path, text: str, *, overwrite: bool = False) -> None:
    """Write a text file in UTF-8; see `write_bytes`."""
    write_bytes(path, text.encode(), overwrite=overwrite)


def write_bytes(path: str | Path, data: bytes, *, overwrite: bool = False) -> None:
    """Write a file whose bytes are there; see `write_pieces`."""
    write_pieces(path, (data,), overwrite=overwrite)


def write_pieces(path: str | Path, pieces: Iterable[bytes], *, overwrite: bool = False) -> None:
    """Write a file piece by piece: a temporary file beside it, then a rename.

    Raises
    ------
    OutputError
        The file exists and `overwrite` is false, or it cannot be written; what was there stays.
    """
    real = check_target(path, overwrite=overwrite)
    if isinstance(url := urls.located(path), str):
        with temporary_folder() as folder:
            write_pieces(folder / real.name, pieces)
            urls.put([folder / real.name], url)
        return
    with staging_beside(real) as staging:
        staged = staging / "file"
        with staged.open("wb") as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
        move(staged, real, overwrite=overwrite)


def move(source: Path, target: Path, *, overwrite: bool) -> None:
    """Rename a file to another name on the same file system, in one step.

    Raises
    ------
    FileExistsError
        There is something under the other name, and it must not be replaced; of several that want a name that is
        free, one gets it.
    """
    if overwrite:
        source.replace(target)
        return
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        target.open("xb").close()
        try:
            source.replace(target)
        finally:
            if source.exists():
                target.unlink()
    else:
        source.unlink()


@contextmanager
def staging_beside(path: Path) -> Iterator[Path]:
    """Make a temporary folder beside a target, on the same file system, and remove it whatever happens.

    Raises
    ------
    OutputError
        The folder cannot be made, or something in the block failed to be written.
    """
    try:
        with owned_folder(path.parent, BESIDE) as staging:
            yield staging
    except FileExistsError:
        raise OutputError(f"{path}: exists already; give another name, or --overwrite (overwrite=True)") from None
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from None
    except MemoryError:
        raise OutputError(f"{path}: cannot be written: not enough memory") from None
