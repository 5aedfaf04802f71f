"""The folder that a training can be taken up from, seen from the parent."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import TrainingError
from ..scratch import NO_ROOM
from .job import UNREADABLE, read_arrays
from .loop.state import CHECKPOINT, KEPT
from .loss import Arrays
from .process import LOG


@contextmanager
def checkpoint_folder(given: Path | None) -> Iterator[Path]:
    """Give the folder for checkpoint and log; one of our own goes away again unless a failed worker wrote a log."""
    keep = given is not None
    try:
        folder = given or Path(tempfile.mkdtemp(prefix="onnxcompress-training-"))
        folder.mkdir(parents=True, exist_ok=True)
        try:
            yield folder
        except TrainingError:
            keep = keep or (folder / LOG).exists()
            raise
        finally:
            if not keep:
                shutil.rmtree(folder)
    except OSError as error:
        place = error.filename or given or tempfile.gettempdir()
        room = "; make room there, or name another folder in TMPDIR" if error.errno in NO_ROOM else ""
        raise TrainingError(
            f"{place}: the training's files cannot be written: {error.strerror or error}{room}"
        ) from None


def hash_arrays(arrays: Arrays) -> str:
    """Return a digest of names, types, shapes and values."""
    digest = hashlib.blake2b(digest_size=16)
    for name, array in arrays.items():
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data.cast("B") if array.size else b"")
    return digest.hexdigest()


def read_checkpoint(kept: Path) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]] | None:
    """Return the header and the arrays of the checkpoint in a folder, or None where there is none."""
    path = kept / CHECKPOINT
    if not path.exists():
        return None
    try:
        arrays = read_arrays(path)
        header: dict[str, Any] = json.loads(arrays.pop("header").tobytes())
        return {key: header[key] for key in ("fingerprint", *KEPT)}, arrays
    except UNREADABLE as error:
        raise TrainingError(f"{path} is no training checkpoint ({error}); delete it or name another folder") from None


def how_to_resume(kept: Path) -> str:
    """Say how a training that broke off goes on."""
    checkpoint = read_checkpoint(kept)
    if checkpoint is None or not checkpoint[0]["epoch"]:
        return "no epoch was finished"
    return f"a checkpoint of epoch {checkpoint[0]['epoch']} is in {kept}; train again with it as checkpoint to go on"


def check_checkpoint(kept: Path, fingerprint: Mapping[str, Any]) -> None:
    """Raise `TrainingError` where the checkpoint in a folder is one of another training."""
    checkpoint = read_checkpoint(kept)
    if checkpoint is None:
        return
    other = [key for key, value in fingerprint.items() if checkpoint[0]["fingerprint"].get(key) != value]
    if other:
        raise TrainingError(
            f"{kept / CHECKPOINT} belongs to another training ({' and '.join(other)} differ); "
            "delete it or name another folder"
        )
