"""Folders for what is being written: gone with the process, and swept by a later one if that was killed."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import OutputError

try:
    import fcntl
except ImportError:  # Windows: nothing is swept there
    fcntl = None  # type: ignore[assignment]

BESIDE = ".onnxcompress-"
"""How the names of folders beside an output begin."""

TEMPORARY = "onnxcompress-"
"""How the names of folders in the temporary folder begin."""

OWNER = ".owner"
"""The file in each such folder that its process keeps locked; it holds the name of the machine.

A lock goes with its process however that ends, and tells processes apart that have the same number, one after the
other or in two containers. The name guards file systems that several machines share, but not their locks.
"""

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says of a full disk, a full quota, and a limit on the size of files."""


@contextmanager
def owned_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """Make a folder that is removed behind the block; sweep those that killed processes left beside it.

    Raises
    ------
    OSError
        It cannot be made.
    """
    sweep(parent, prefix)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    with contextlib.ExitStack() as stack:
        if fcntl is not None:
            _sign(folder, stack)
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        yield folder


def _sign(folder: Path, stack: contextlib.ExitStack) -> None:
    """Lock, and only then name the machine: a folder without the name is never swept."""
    with contextlib.suppress(OSError):
        handle = os.open(folder / OWNER, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        stack.callback(os.close, handle)
        fcntl.flock(handle, fcntl.LOCK_EX)
        os.write(handle, socket.gethostname().encode())


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Make a folder in the system's temporary one, and remove it behind the block.

    Raises
    ------
    OutputError
        It cannot be made, or there is no room for what the block writes.
    """
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(owned_folder(Path(tempfile.gettempdir()), TEMPORARY))
        except OSError as error:
            raise _no_room(error) from None
        try:
            yield folder
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            raise _no_room(error) from None


def _no_room(error: OSError) -> OutputError:
    parent = tempfile.tempdir or "of the system"
    return OutputError(
        f"the temporary folder {parent} cannot be written: {error.strerror or error}; "
        "make room there, or name another folder in TMPDIR"
    )


def sweep(parent: Path, prefix: str) -> None:
    """Remove folders of this user whose processes, on this machine, are no more."""
    if fcntl is None:
        return
    with contextlib.suppress(OSError), os.scandir(parent) as entries:
        for entry in entries:
            if entry.name.startswith(prefix) and entry.is_dir(follow_symlinks=False):
                _remove_abandoned(Path(entry.path))


def _remove_abandoned(folder: Path) -> None:
    with contextlib.suppress(OSError):
        if folder.lstat().st_uid != os.geteuid():
            return
        handle = os.open(folder / OWNER, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.read(handle, 300) == socket.gethostname().encode():
                shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(handle)
