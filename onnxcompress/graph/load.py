"""Load a model with mapped weights, and refuse a file that cannot be trusted or used."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import google.protobuf.message
import onnx
import onnx_ir as ir

from ..errors import ModelError


def load(path: str | Path) -> ir.Model:
    """Load an ONNX file; external weights stay on disk, mapped, until they are read.

    Parameters
    ----------
    path : str or Path
        The ``.onnx`` file. Its external data must lie inside the file's folder.

    Returns
    -------
    onnx_ir.Model

    Raises
    ------
    ModelError
        The file is missing, unreadable, truncated, not ONNX, rejected by the checker, or names external data that
        is missing, too short, or outside the model's folder.
    """
    path = Path(path)
    proto = _parse(path)
    folder = path.parent.resolve()
    for tensor in _tensors(proto):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            _check_external(path, folder, tensor)
    try:
        onnx.checker.check_model(str(path))
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        raise ModelError(f"{path}: the ONNX checker rejects it: {_one_line(error)}") from None
    model = ir.from_proto(proto)
    for graph in (*model.graphs(), *(function.graph for function in model.functions.values())):
        ir.external_data.set_base_dir(graph, folder)
    return model


def _parse(path: Path) -> onnx.ModelProto:
    try:
        proto = onnx.load(path, format="protobuf", load_external_data=False)
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file") from None
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from None
    except google.protobuf.message.DecodeError:
        raise ModelError(f"{path}: not an ONNX model, or truncated (its protobuf cannot be decoded)") from None
    if not proto.ir_version or not proto.HasField("graph"):
        raise ModelError(f"{path}: not an ONNX model (no graph inside)")
    return proto


def _tensors(message: google.protobuf.message.Message) -> Iterator[onnx.TensorProto]:
    """Every tensor anywhere: initializers, attributes, inner graphs, functions."""
    if isinstance(message, onnx.TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for item in value if field.is_repeated else (value,):
                yield from _tensors(item)


def _check_external(path: Path, folder: Path, tensor: onnx.TensorProto) -> None:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    where = f"{path}: tensor '{tensor.name}': external data '{entries.get('location', '')}'"
    file = folder / entries.get("location", "")
    resolved = file.resolve()
    if not entries.get("location") or not resolved.is_relative_to(folder):
        raise ModelError(f"{where} leaves the model's folder; move the file beside the model and name it relatively")
    if not resolved.is_file():
        raise ModelError(f"{where} is missing; copy it beside the model")
    if resolved.stat().st_nlink > 1:
        raise ModelError(f"{where} has other hard links, which may lead outside the folder; copy the file")
    try:
        offset, length = int(entries.get("offset", "0")), int(entries.get("length", "0"))
    except ValueError:
        raise ModelError(f"{where} has an offset or length that is no number") from None
    if min(offset, length) < 0 or offset + length > resolved.stat().st_size:
        raise ModelError(f"{where} is too short: {offset}+{length} bytes wanted, {resolved.stat().st_size} there")


def _one_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:3])
