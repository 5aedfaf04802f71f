"""Files under URLs, of whatever kind fsspec knows: copied here once in a process, and written there whole."""

from __future__ import annotations

import atexit
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from .errors import OnnxCompressError, OutputError
from .scratch import temporary_folder

SCHEME = re.compile(r"(?<![A-Za-z0-9+.-])([a-z][a-z0-9+.-]+):/+")
"""How a URL begins, and each link of a chain of them. A `Path` leaves one of the two strokes out; the letter of a
Windows drive is no scheme."""

LOCAL = ("file", "local")
"""Schemes of what lies here anyway."""


def located(path: str | Path) -> str | Path:
    """Return the URL that a path is (a `Path` made of one counts as one), or the path.

    >>> located("s3://bucket/m.onnx"), located(Path("s3://bucket/m.onnx"))
    ('s3://bucket/m.onnx', 's3://bucket/m.onnx')
    >>> located("zip://m.onnx::s3://bucket/a.zip"), located("file:///a").as_posix(), located("m.onnx").as_posix()
    ('zip://m.onnx::s3://bucket/a.zip', '/a', 'm.onnx')
    """
    text = str(path)
    found = SCHEME.match(text)
    if found is None:
        return Path(path)
    if found[1] in LOCAL:
        return Path("/" + text[found.end() :])
    return SCHEME.sub(lambda link: link[1] + (":///" if link[1] in LOCAL else "://"), text)


def here(path: str | Path, kind: type[OnnxCompressError]) -> Path:
    """Return where a file or folder is here: one under a URL is copied, once in a process.

    Raises
    ------
    OnnxCompressError
        Of the given kind: it cannot be copied.
    """
    where = located(path)
    if isinstance(where, Path):
        return where
    with _told(where, kind):
        return _copied(where)


def beside(path: str | Path, names: Iterable[str], kind: type[OnnxCompressError]) -> None:
    """Copy files that lie beside one that has been copied, too: those that are there and stay in its folder."""
    where = located(path)
    if isinstance(where, Path):
        return
    with _told(where, kind):
        (fs, inside), folder = _opened(where), _copied(where).parent
        for name in names:
            target = folder / name
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or target.exists():
                continue
            source = str(PurePosixPath(inside).parent / name)
            if fs.isfile(source):
                target.parent.mkdir(parents=True, exist_ok=True)
                fs.get_file(source, str(target))


def check_writable(url: str, *, overwrite: bool) -> None:
    """Raise `OutputError` if a URL cannot be written, as far as that can be known now."""
    with _told(url, OutputError):
        fs, inside = _opened(url)
        if fs.isdir(inside):
            raise OutputError(f"{url}: is a folder; give the name of a file")
        if not overwrite and fs.exists(inside):
            raise OutputError(f"{url}: exists already; give another name, or --overwrite (overwrite=True)")


def put(files: Sequence[Path], url: str) -> None:
    """Write files into the folder of a URL, which names the last of them; that is written when the others are there."""
    with _told(url, OutputError):
        fs, inside = _opened(url)
        folder = PurePosixPath(inside).parent
        fs.makedirs(str(folder), exist_ok=True)
        for file in files[:-1]:
            fs.put_file(str(file), str(folder / file.name))
        fs.put_file(str(files[-1]), inside)
    _copied.cache_clear()


@cache
def _copied(url: str) -> Path:
    fs, inside = _opened(url)
    folder = _scratch() / str(_copied.cache_info().misses)
    target = folder / (PurePosixPath(inside).name or "all")
    if not fs.exists(inside):
        raise FileNotFoundError("there is no such file")
    if fs.isdir(inside):
        fs.get(inside.rstrip("/") + "/", f"{target}/", recursive=True)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        fs.get_file(inside, str(target))
    return target


@cache
def _scratch() -> Path:
    """Return the folder of this process's copies, which goes with it."""
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(temporary_folder())


def _opened(url: str) -> tuple[Any, str]:
    import fsspec

    fs, inside = fsspec.core.url_to_fs(url)
    return fs, str(inside)


@contextmanager
def _told(url: str, kind: type[OnnxCompressError]) -> Iterator[None]:
    """Say in one line what a file system says, each of which raises what it likes."""
    try:
        yield
    except OnnxCompressError:
        raise
    except Exception as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())[:300] or type(error).__name__
        raise kind(f"{url}: {reason}") from error
