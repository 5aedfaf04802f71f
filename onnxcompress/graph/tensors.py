"""Tensors of a serialised model: where they are, and whether each holds as many values as its shape says."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

import google.protobuf.message
import onnx
import onnx_ir as ir

from ..errors import ModelError
from ..files import kind_of

MOST_AXES = 32
"""What numpy takes everywhere."""

TYPES = {kind.value for kind in ir.DataType if kind != ir.DataType.UNDEFINED}

TWO_NUMBERS = (ir.DataType.COMPLEX64, ir.DataType.COMPLEX128)
"""Types whose values take two entries of the field they are stored in."""

NUMBER = re.compile(r"[0-9]{1,19}", re.ASCII)


def tensors_in(message: google.protobuf.message.Message) -> Iterator[onnx.TensorProto]:
    """Every tensor anywhere: initializers, attributes, inner graphs, functions."""
    if isinstance(message, onnx.TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for item in value if field.is_repeated else (value,):
                yield from tensors_in(item)


def check_text(where: str, message: google.protobuf.message.Message) -> None:
    """Raise `ModelError` if any text in a model is none: protobuf hands on as bytes what cannot be decoded."""
    if isinstance(message, onnx.TensorProto):  # listing its fields would copy its values
        fields = {"name": message.name, "doc_string": message.doc_string}
        texts = [*fields.items(), *(("external_data", t) for e in message.external_data for t in (e.key, e.value))]
        inner: list[google.protobuf.message.Message] = []
    else:
        texts, inner = [], []
        for field, value in message.ListFields():
            items = value if field.is_repeated else (value,)
            if field.message_type is not None:
                inner += items
            elif field.type == field.TYPE_STRING:
                texts += [(field.name, item) for item in items]
    for name, text in texts:
        if isinstance(text, bytes):
            kind = message.DESCRIPTOR.name
            raise ModelError(f"{where}: {name} = {text[:40]!r} of a {kind} is no UTF-8 text; export it again")
    for part in inner:
        check_text(where, part)


def locations_in(proto: onnx.ModelProto) -> set[str]:
    """Return the data files that a model names, as it names them."""
    return {
        entry.value
        for tensor in tensors_in(proto)
        if tensor.data_location == onnx.TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }


def check_tensor(where: str, folder: Path, tensor: onnx.TensorProto) -> None:
    """Raise `ModelError` if a tensor's values cannot be read, before anything is allocated for them.

    Parameters
    ----------
    where : str
        What the message begins with: the model's file.
    folder : Path
        The model's, resolved. External data must lie in it; a tensor without a length gets the one it needs.
    tensor : onnx.TensorProto
    """
    where = f"{where}: tensor '{tensor.name}'"
    if tensor.data_type not in TYPES:
        raise ModelError(f"{where}: its data type, {tensor.data_type}, is none that ONNX has")
    if len(tensor.dims) > MOST_AXES or min(tensor.dims, default=0) < 0:
        raise ModelError(f"{where}: its shape has a negative size, or more than {MOST_AXES} axes")
    count = math.prod(tensor.dims)
    shape = f"{ir.DataType(tensor.data_type).name} [{', '.join(map(str, tensor.dims))}]"
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        _check_external(where, folder, tensor, shape, count)
        return
    found, needed, unit = _stored(tensor, count)
    if found != needed:
        raise ModelError(f"{where}: {shape} takes {needed} {unit}, and it holds {found}")


def _stored(tensor: onnx.TensorProto, count: int) -> tuple[int, int, str]:
    """Return how much a tensor holds and how much it needs, and what is counted."""
    kind = ir.DataType(tensor.data_type)
    if kind == ir.DataType.STRING:
        return len(tensor.string_data), count, "values"
    if tensor.HasField("raw_data"):
        return len(tensor.raw_data), _bytes(kind, count), "bytes"
    entries = len(getattr(tensor, onnx.helper.tensor_dtype_to_field(tensor.data_type)))
    if kind in TWO_NUMBERS:
        return entries, 2 * count, "entries"
    return entries, _bytes(kind, count) if kind.bitwidth < 8 else count, "entries"


def _bytes(kind: ir.DataType, count: int) -> int:
    return -(-count * kind.bitwidth // 8)


def _check_external(where: str, folder: Path, tensor: onnx.TensorProto, shape: str, count: int) -> None:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    where = f"{where}: external data {location[:200]!r}"
    if tensor.data_type == ir.DataType.STRING:
        raise ModelError(f"{where}: texts cannot be external; store them in the model")
    size = _file_size(where, folder, location)
    offset, length = entries.get("offset", "0"), entries.get("length")
    needed = _bytes(ir.DataType(tensor.data_type), count)
    if not NUMBER.fullmatch(offset.removeprefix("-")) or not NUMBER.fullmatch((length or "0").removeprefix("-")):
        raise ModelError(f"{where} has an offset or length that is no number")
    start, there = int(offset), needed if length is None else int(length)
    if min(start, there) < 0 or start + there > size:
        raise ModelError(f"{where} is too short: {start}+{there} bytes wanted, {size} there")
    if there != needed:
        raise ModelError(f"{where}: {shape} takes {needed} bytes, and its length is {there}")
    if length is None:
        tensor.external_data.add(key="length", value=str(needed))


def _file_size(where: str, folder: Path, location: str) -> int:
    """Return the size of a data file, once it is known to be one that may be read."""
    try:
        file = (folder / location).resolve()
        if not location or not file.is_relative_to(folder):
            raise ModelError(
                f"{where} leaves the model's folder; move the file beside the model and name it relatively"
            )
        kind = kind_of(file)
        if kind is not None:
            raise ModelError(f"{where} is {kind}; a file is expected")
        if not file.exists():
            raise ModelError(f"{where} is missing; copy it beside the model")
        if file.stat().st_nlink > 1:
            raise ModelError(f"{where} has other hard links, which may lead outside the folder; copy the file")
        with file.open("rb"):
            return file.stat().st_size
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"{where} cannot be read: {getattr(error, 'strerror', None) or error}") from None
