"""Arrays that wait: in memory as long as they are few, in files from then on."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..runtime.session import Array
from ..scratch import NO_ROOM

LIMIT_BYTES = 64_000_000
"""What may wait in memory."""


class Spilled(NamedTuple):
    """An array that lies in a file of raw bytes (numpy's own format knows no bfloat16)."""

    path: Path
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


class Spill:
    """Keeps arrays until they are dropped; in memory after all if there is no room for files.

    Parameters
    ----------
    folder : Path
        For the files.
    limit_bytes : int
        How many bytes stay in memory.
    """

    def __init__(self, folder: Path, limit_bytes: int = LIMIT_BYTES) -> None:
        self._folder, self._left = folder, limit_bytes
        self._written = 0

    def put(self, array: Array) -> Array | Spilled:
        """Take an array, which nobody may write to any more, and return what `get` takes."""
        if array.nbytes <= self._left:
            self._left -= array.nbytes
            return array
        path = self._folder / str(self._written)
        self._written += 1
        try:
            path.write_bytes(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            path.unlink(missing_ok=True)
            self._left -= array.nbytes
            return array
        return Spilled(path, array.dtype, array.shape)

    def get(self, kept: Array | Spilled) -> Array:
        """Return an array, read-only if it lay in a file."""
        if not isinstance(kept, Spilled):
            return kept
        return np.frombuffer(kept.path.read_bytes(), kept.dtype).reshape(kept.shape)

    def drop(self, kept: Array | Spilled) -> None:
        """Forget an array."""
        if isinstance(kept, Spilled):
            kept.path.unlink()
        else:
            self._left += kept.nbytes
