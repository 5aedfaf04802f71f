"""Large weights in files, written once, that every session maps instead of holding copies of its own."""

from __future__ import annotations

import atexit
import os
import tempfile
import weakref
import zlib
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ..scratch import TEMPORARY, owned_folder

LEAST_BYTES = 1 << 18
"""Smaller weights are not worth a file."""

TYPES = {ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.INT8, ir.DataType.UINT8}
"""Types of weights that numpy has itself."""


class Store:
    """The files of one process. A file goes with its tensor, and the folder with the process."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self._held = ExitStack()
        self.folder = self._held.enter_context(owned_folder(Path(tempfile.gettempdir()), TEMPORARY))
        self._known: dict[int, tuple[int, str]] = {}
        self._written = 0
        atexit.register(self._finish)

    def keep(self, tensor: ir.TensorProtocol) -> str | None:
        """Return the name of the file that holds a tensor's bytes; None if there is no room for it.

        What is in a file is compared by a checksum, as nothing forbids to change an array under a tensor.
        """
        known = self._known.get(id(tensor))
        if known is not None and isinstance(tensor, ir.LazyTensor):
            return known[1]
        data = np.ascontiguousarray(tensor.numpy()).reshape(-1).view(np.uint8).data
        checksum = zlib.crc32(data)
        if known is not None and known[0] == checksum:
            return known[1]
        name = f"{self._written}.bin"
        self._written += 1
        try:
            (self.folder / name).write_bytes(data)
        except OSError:
            self._remove(name)
            return None
        self._known[id(tensor)] = checksum, name
        weakref.finalize(tensor, self._forget, id(tensor), name)
        return name

    def array(self, tensor: ir.TensorProtocol) -> npt.NDArray[Any]:
        """Return a tensor's array; of one that is computed whenever it is read, what the file holds."""
        known = self._known.get(id(tensor)) if isinstance(tensor, ir.LazyTensor) else None
        if known is None:
            return np.ascontiguousarray(tensor.numpy())
        return np.memmap(self.folder / known[1], tensor.dtype.numpy(), "r", shape=tuple(tensor.shape.numpy()))

    def _forget(self, key: int, name: str) -> None:
        if self._known.get(key, (0, ""))[1] == name:
            del self._known[key]
        self._remove(name)

    def _remove(self, name: str) -> None:
        if os.getpid() == self.owner:
            (self.folder / name).unlink(missing_ok=True)

    def _finish(self) -> None:
        if os.getpid() == self.owner:
            self._held.close()


_store: Store | None = None


def store() -> Store | None:
    """Return this process' store; None if there is no room for a folder."""
    global _store
    if _store is None or _store.owner != os.getpid() or not _store.folder.is_dir():
        try:
            _store = Store()
        except OSError:
            return None
    return _store


def can_be_stored(value: ir.Value) -> bool:
    """Tell whether a value is a weight in memory that is worth a file."""
    tensor = value.const_value
    if tensor is None or isinstance(tensor, ir.ExternalTensor) or value.is_graph_input() or value.is_graph_output():
        return False
    return tensor.nbytes >= LEAST_BYTES and tensor.dtype in TYPES
