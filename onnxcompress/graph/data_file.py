"""Which data file a saved model wrote for itself, and whether it may go when the model is replaced."""

from __future__ import annotations

import hashlib
import mmap
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import google.protobuf.message
import msgspec
import onnx

from .tensors import locations_in

RECORD = "onnxcompress.data"
"""The key in a saved model's metadata under which it describes the data file that was written with it."""

FIRST_BYTE = b"\x08"
"""How a serialised model begins, whatever its file is called: the tag of `ir_version`."""

CHUNK = 1 << 20


@dataclass(frozen=True)
class DataFile:
    """A data file: the model it was written for, its own name beside that, its size and the digest of its bytes."""

    model: str
    file: str
    bytes: int
    sha256: str

    @classmethod
    def of(cls, model: str, path: Path) -> DataFile:
        """Describe a file that is there."""
        return cls(model, path.name, path.stat().st_size, _digest(path))

    def named(self, file: str) -> DataFile:
        """Return the same under another name."""
        return replace(self, file=file)

    def to_json(self) -> str:
        """Return what the metadata hold."""
        return msgspec.json.encode(self).decode()


@dataclass(frozen=True)
class Replaced:
    """The model that was under a path a moment ago, and the data files that it named.

    Attributes
    ----------
    path : Path
    linked : bool
        It has other names, under which it lives on.
    record : DataFile or None
        What it says of the file that was written with it.
    files : dict of str to os.stat_result
        What it refers to, of what lies beside it as a plain file.
    """

    path: Path
    linked: bool = False
    record: DataFile | None = None
    files: dict[str, os.stat_result] = field(default_factory=dict)

    @classmethod
    def at(cls, path: Path) -> Replaced:
        """Look at the model that is under `path` now; whatever is no model refers to nothing."""
        try:
            linked = path.stat().st_nlink > 1
            if not _mentions(path, b"location"):
                return cls(path)
            proto = onnx.load(path, format="protobuf", load_external_data=False)
            record = next((entry.value for entry in proto.metadata_props if entry.key == RECORD), None)
            found = {name: _stat(path.parent / name) for name in locations_in(proto) if Path(name).name == name}
        except (OSError, ValueError, google.protobuf.message.DecodeError):
            return cls(path)
        return cls(path, linked, _read(record), {name: status for name, status in found.items() if status is not None})

    def clean_up(self) -> list[str]:
        """Remove the data file if it is the replaced model's own; return which files stay, and why."""
        stay = []
        for name in sorted(self.files):
            reason = self._why_not(name)
            if reason is not None:
                stay.append(f"{self.path.parent / name} stays: {reason}")
                continue
            with suppress(OSError):
                # Nobody writes to a file under this name, so at worst it is another writer's that took it just now.
                if _is_same(_stat(self.path.parent / name), self.files[name]):
                    (self.path.parent / name).unlink()
        return stay

    def _why_not(self, name: str) -> str | None:
        """Return why a data file must stay; it stays wherever that is not certain."""
        file, before, record = self.path.parent / name, self.files[name], self.record
        if record is None or (record.model, record.file) != (self.path.name, name):
            return f"onnxcompress did not write it for {self.path.name}"
        if before.st_size != record.bytes or before.st_nlink > 1:
            return "it is not as it was written"
        if self.linked:
            return "the model that was replaced has another name, under which it lives on"
        reader = next((other.name for other in _models_beside(file) if _mentions_safely(other, name)), None)
        if reader is not None:
            return f"{reader} reads it"
        with suppress(OSError):
            return None if _digest(file) == record.sha256 else "it is not as it was written"
        return None


def _read(record: str | None) -> DataFile | None:
    try:
        return None if record is None else msgspec.json.decode(record, type=DataFile)
    except msgspec.DecodeError:
        return None


def _stat(path: Path) -> os.stat_result | None:
    """Look at a regular file; None if it is anything else, a symbolic link included."""
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status if stat.S_ISREG(status.st_mode) else None


def _is_same(now: os.stat_result | None, before: os.stat_result) -> bool:
    return now is not None and (now.st_dev, now.st_ino, now.st_mtime_ns) == (
        before.st_dev,
        before.st_ino,
        before.st_mtime_ns,
    )


def _models_beside(file: Path) -> Iterator[Path]:
    """Every file of the folder that looks like a model, by its name or by how it begins."""
    with os.scandir(file.parent) as entries:
        for entry in entries:
            path = Path(entry.path)
            if entry.name == file.name or not entry.is_file():
                continue
            if path.suffix.lower() == ".onnx" or _begins(path) in (FIRST_BYTE, None):
                yield path


def _begins(path: Path) -> bytes | None:
    try:
        with path.open("rb") as handle:
            return handle.read(1)
    except OSError:
        return None


def _mentions_safely(path: Path, name: str) -> bool:
    try:
        return _mentions(path, name.encode())
    except FileNotFoundError:
        return False
    except OSError:
        return True


def _mentions(path: Path, text: bytes) -> bool:
    """Tell whether a file holds these bytes anywhere."""
    with path.open("rb") as handle:
        if not os.fstat(handle.fileno()).st_size:
            return False
        with mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(text) >= 0


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while chunk := handle.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
