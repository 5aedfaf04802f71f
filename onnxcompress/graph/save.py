"""Save a model so that a crash, a full disk, ctrl-C or another writer at any moment leaves a whole model."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import google.protobuf.message
import onnx
import onnx_ir as ir

from .. import urls
from ..errors import OutputError
from ..files import check_target, is_same_file, move, staging_beside
from ..scratch import temporary_folder
from . import edit
from .constants import is_mapped
from .data_file import RECORD, DataFile, Replaced
from .tensors import tensors_in
from .written import written

PROTOBUF_LIMIT = 2**31 - 2**26
"""Bytes of weights above which a model cannot be one protobuf (2 GB) and gets an external data file."""


def save(model: ir.Model, path: str | Path, *, overwrite: bool = False) -> list[str]:
    """Write `model` to `path`: temporary files beside it, then a rename.

    A model that came with external data, or is too large for one protobuf, is written with a data file beside it,
    whose name no other writer gets: ``m.onnx.data`` for a new ``m.onnx``, and one with a digest of the weights in it
    where a model is replaced. The rename of the model commits both. The data file of the model that was replaced is
    removed after that, if this function has written it for this path and nothing else reads it.

    Parameters
    ----------
    model : onnx_ir.Model
        Stays unchanged and stays usable, even when `path` is the file it was loaded from.
    path : str or Path
        The target file, ``*.onnx``, or a URL that fsspec knows. Where it is a symbolic link, the file that it leads
        to is written.
    overwrite : bool
        Replace the target if it exists.

    Returns
    -------
    list of str
        Which data files of the replaced model stay, and why.

    Raises
    ------
    OutputError
        The target exists and `overwrite` is false, or it cannot be written.
    """
    real = check_target(path, overwrite=overwrite, suffix=".onnx")
    url = urls.located(path)
    if isinstance(url, str):
        with temporary_folder() as folder:
            save(model, folder / real.name)
            urls.put(sorted(folder.glob(f"{real.name}*"), reverse=True), url)
        return []
    with staging_beside(real) as staging:
        try:
            return _write(model, real, staging, overwrite=overwrite)
        except google.protobuf.message.EncodeError as error:
            raise OutputError(f"{path}: cannot be written: {error}") from None


STAGED, STAGED_DATA = "model", "data"
"""Names in the staging folder."""


def _write(model: ir.Model, path: Path, staging: Path, *, overwrite: bool) -> list[str]:
    model = written(model)
    staged, staged_data = staging / STAGED, staging / STAGED_DATA
    external = STAGED_DATA if needs_external_data(model) else None
    with _without_record(model):
        ir.save(without_small_files(model), staged, format="protobuf", external_data=external)
    data = DataFile.of(path.name, staged_data) if staged_data.exists() else None
    if data is not None:
        _sync(staged_data)
        data = _claim(staged_data, path, data)
    try:
        if data is not None:
            _refer(staged, data)
        _sync(staged)
        replaced = Replaced.at(path)
        move(staged, path, overwrite=overwrite)
    except BaseException:
        # Of an interrupt nobody knows whether it came before the rename or behind it.
        if data is not None and staged.exists() and not is_same_file(staged, path):
            (path.parent / data.file).unlink(missing_ok=True)
        raise
    return replaced.clean_up()


@contextmanager
def _without_record(model: ir.Model) -> Iterator[None]:
    """Leave out what an earlier file says of its own data file."""
    record = model.metadata_props.pop(RECORD, None)
    try:
        yield
    finally:
        if record is not None:
            model.metadata_props[RECORD] = record


def _sync(path: Path) -> None:
    with path.open("rb+") as handle:
        os.fsync(handle.fileno())


def _claim(source: Path, path: Path, data: DataFile) -> DataFile:
    """Move a data file to a name of its own beside `path`; a name comes back only with the same weights behind it."""
    stem = f"{path.name}.{data.sha256[:12]}"
    names = [f"{path.name}.data"] if not path.exists() else []
    for name in (*names, f"{stem}.data", *(f"{stem}.{number}.data" for number in range(1, 1000))):
        try:
            move(source, path.parent / name, overwrite=False)
        except FileExistsError:
            continue
        return data.named(name)
    raise OutputError(f"{path}: a thousand data files of the same weights are there; remove some")


def _refer(staged: Path, data: DataFile) -> None:
    """Let the written model refer to its data file, and record that the file is its own."""
    proto = onnx.load(staged, format="protobuf", load_external_data=False)
    for tensor in tensors_in(proto):
        for entry in tensor.external_data:
            if entry.key == "location" and entry.value == STAGED_DATA:
                entry.value = data.file
    proto.metadata_props.add(key=RECORD, value=data.to_json())
    staged.write_bytes(proto.SerializeToString())


def without_small_files(model: ir.Model) -> ir.Model:
    """Return a copy for onnx-ir to save: it closes the files of small ones, which fails while they are read."""
    copy = model.clone()
    for graph in copy.graphs():
        for value in graph.initializers.values():
            small = value.const_value
            if isinstance(small, ir.ExternalTensor) and small.nbytes <= SMALL_BYTES:
                kept = ir.Tensor(small.numpy().copy(), dtype=small.dtype, name=small.name)
                edit.store_elsewhere(value, kept)
    return copy


SMALL_BYTES = 256
"""Weights up to this size onnx-ir puts into the model's own file."""


def needs_external_data(model: ir.Model) -> bool:
    """Tell whether the weights are mapped from a data file or too large for one protobuf."""
    tensors = list(weights(model))
    return any(map(is_mapped, tensors)) or sum(t.nbytes for t in tensors) > PROTOBUF_LIMIT


def weights(model: ir.Model) -> Iterable[ir.TensorProtocol]:
    """Every initializer's tensor, inner graphs included."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value.const_value
