"""Save a model so that a crash, a full disk or ctrl-C at any moment leaves what was there before."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import google.protobuf.message
import onnx
import onnx_ir as ir

from ..errors import OutputError
from ..files import check_target, staging_beside

PROTOBUF_LIMIT = 2**31 - 2**26
"""Bytes of weights above which a model cannot be one protobuf (2 GB) and gets an external data file."""

MAPPED = "onnxcompress.mapped"
"""Marks, in `meta`, a tensor that is computed from a mapped one, or took its place: written into a data file, one after
the other, such tensors take the memory of the largest; in a protobuf, of all of them, three times."""


def save(model: ir.Model, path: str | Path, *, overwrite: bool = False) -> None:
    """Write `model` to `path`: a temporary file beside it, then a rename.

    A model that came with external data, or is too large for one protobuf, is written with a data file beside it.
    The data file always gets a name that is free, and the rename of the model commits both; the data file of an
    overwritten model is removed after that.

    Parameters
    ----------
    model : onnx_ir.Model
        Stays unchanged and stays usable, even when `path` is the file it was loaded from.
    path : str or Path
        The target file.
    overwrite : bool
        Replace the target if it exists.

    Raises
    ------
    OutputError
        The target exists and `overwrite` is false, or it cannot be written.
    """
    path = Path(path)
    check_target(path, overwrite=overwrite)
    with staging_beside(path) as staging:
        try:
            _write(model, path, staging)
        except google.protobuf.message.EncodeError as error:
            raise OutputError(f"{path}: cannot be written: {error}") from None


def _write(model: ir.Model, path: Path, staging: Path) -> None:
    replaced = _data_files(path)
    data = _free_name(path) if needs_external_data(model) else None
    ir.save(without_small_files(model), staging / path.name, format="protobuf", external_data=data)
    for file in staging.iterdir():
        with file.open("rb+") as handle:
            os.fsync(handle.fileno())
    if data is not None and (staging / data).exists():
        (staging / data).replace(path.parent / data)
    try:
        (staging / path.name).replace(path)
    except OSError:
        if data is not None:
            (path.parent / data).unlink(missing_ok=True)
        raise
    for name in replaced:
        (path.parent / name).unlink(missing_ok=True)


def without_small_files(model: ir.Model) -> ir.Model:
    """Return a copy for onnx-ir to save: it closes the files of small ones, which fails while they are read."""
    copy = model.clone()
    for graph in copy.graphs():
        for value in graph.initializers.values():
            small = value.const_value
            if isinstance(small, ir.ExternalTensor) and small.nbytes <= SMALL_BYTES:
                value.const_value = ir.Tensor(small.numpy().copy(), dtype=small.dtype, name=small.name)
    return copy


SMALL_BYTES = 256
"""Weights up to this size onnx-ir puts into the model's own file."""


def needs_external_data(model: ir.Model) -> bool:
    """Tell whether the weights are mapped from a data file or too large for one protobuf."""
    tensors = list(weights(model))
    return any(map(is_mapped, tensors)) or sum(t.nbytes for t in tensors) > PROTOBUF_LIMIT


def is_mapped(tensor: ir.TensorProtocol) -> bool:
    """Tell whether a tensor's values are in a data file, or are computed from such when they are read."""
    return isinstance(tensor, ir.ExternalTensor) or bool(tensor.meta.get(MAPPED))


def weights(model: ir.Model) -> Iterable[ir.TensorProtocol]:
    """Every initializer's tensor, inner graphs included."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value.const_value


def _free_name(path: Path) -> str:
    names = (f"{path.name}.{'' if n == 0 else f'{n}.'}data" for n in range(1000))
    return next(name for name in names if not (path.parent / name).exists())


def _data_files(path: Path) -> set[str]:
    """The data files, named after `path` as this module names them, of the model that is there now."""
    if not path.exists():
        return set()
    try:
        proto = onnx.load(path, format="protobuf", load_external_data=False)
    except (OSError, google.protobuf.message.DecodeError):
        return set()
    locations = {e.value for t in proto.graph.initializer for e in t.external_data if e.key == "location"}
    return {name for name in locations if name.startswith(f"{path.name}.") and name.endswith("data")}
