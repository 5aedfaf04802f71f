"""Decoded pictures, kept in a file for the next time that they are gone through."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from math import prod

import numpy as np
import numpy.typing as npt

from ...errors import OutputError
from ...scratch import temporary_folder

MOST_BYTES = 1 << 31
"""What is beyond is decoded again each time."""


class Pixels:
    """Keeps the bytes of pictures in a temporary file, which goes with this object; the first ones of very many.

    Decoding a photograph takes several times as long as a small network does to look at it, and samples are gone
    through many times.
    """

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self._shape, self._size = shape, prod(shape)
        self._places: dict[int, int] = {}
        self._off = not hasattr(os, "pread")
        self._lock = threading.Lock()
        self._file: int | None = None

    def __reduce__(self) -> tuple[type[Pixels], tuple[tuple[int, int, int]]]:
        """Elsewhere they are decoded anew."""
        return Pixels, (self._shape,)

    def get(self, number: int) -> npt.NDArray[np.uint8] | None:
        """Return a picture, or None where it is not kept."""
        place = self._places.get(number)
        if self._file is None or place is None:
            return None
        found = os.pread(self._file, self._size, place * self._size)
        return np.frombuffer(found, np.uint8).reshape(self._shape)

    def put(self, number: int, picture: npt.NDArray[np.uint8]) -> None:
        """Keep a picture, as long as there is room."""
        if self._off:
            return
        try:
            with self._lock:
                place = len(self._places)
                if (place + 1) * self._size > MOST_BYTES:
                    return
                self._file = self._open() if self._file is None else self._file
                if os.pwrite(self._file, picture.tobytes(), place * self._size) == self._size:
                    self._places[number] = place
        except (OSError, OutputError):  # no room, or no folder: they are decoded again
            self._off = True

    def _open(self) -> int:
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(temporary_folder())
            file = os.open(folder / "pixels", os.O_RDWR | os.O_CREAT, 0o600)
            stack.callback(os.close, file)
            weakref.finalize(self, stack.pop_all().close)
        return file
