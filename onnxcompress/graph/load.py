"""Load a model with mapped weights, and refuse a file that cannot be trusted or used."""

from __future__ import annotations

import logging
from pathlib import Path

import google.protobuf.message
import onnx
import onnx_ir as ir

from ..errors import ModelError
from ..files import kind_of
from .checker import check_model
from .data_file import RECORD
from .exports import how_to_export, model_file
from .tensors import check_tensor, check_text, tensors_in

# It says what it leaves out of a model by logging, which ends up among the messages of whoever uses this package.
logging.getLogger("onnx_ir").addHandler(logging.NullHandler())

PATH = "path"
"""Where a model's `meta` says which file it was loaded from."""

ATTEMPTS = 20
"""How often a model is read that another process keeps replacing."""

MOST_TEXT = 300
"""Characters of another library's message that are worth showing."""


def load(path: str | Path) -> ir.Model:
    """Load an ONNX file; external weights stay on disk, mapped, until they are read.

    Parameters
    ----------
    path : str or Path
        The ``.onnx`` file, a folder with one such file, or a URL that fsspec knows. Its external data must lie inside
        the file's folder.

    Returns
    -------
    onnx_ir.Model

    Raises
    ------
    ModelError
        The file is missing, unreadable, truncated, not ONNX, rejected by the checker, or names external data that
        is missing, too short, or outside the model's folder.
    """
    path = model_file(path)
    for attempt in range(1, ATTEMPTS + 1):
        before = _identity(path)
        try:
            model = _load(path)
        except ModelError:
            if attempt == ATTEMPTS or _identity(path) == before:
                raise
        else:
            if attempt == ATTEMPTS or _identity(path) == before:
                return model
    raise AssertionError  # the last attempt returns or raises


def _locations(proto: onnx.ModelProto) -> list[str]:
    return [entry.value for tensor in tensors_in(proto) for entry in tensor.external_data if entry.key == "location"]


def _identity(path: Path) -> tuple[int, ...] | None:
    """What changes when another writer replaces a file."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _load(path: Path) -> ir.Model:
    try:
        proto = _parse(path)
        check_text(str(path), proto)
        real = _beside_its_data(path, proto)
        folder = real.parent.resolve()
        for tensor in tensors_in(proto):
            check_tensor(str(path), folder, tensor)
        check_model(str(real))
    except UnicodeDecodeError:
        raise ModelError(f"{path}: holds names that are no UTF-8 text; export it again") from None
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        raise ModelError(f"{path}: the ONNX checker rejects it: {_one_line(error)}") from None
    except MemoryError:
        raise ModelError(f"{path}: not enough memory to read it") from None
    model = _built(str(path), proto, folder)
    model.meta[PATH] = str(path)
    return model


def _parse(path: Path) -> onnx.ModelProto:
    try:
        kind = kind_of(path)
        if kind not in (None, "a folder"):
            raise ModelError(f"{path}: is {kind}, and a model is read more than once; copy it into a file")
        proto = onnx.load(path, format="protobuf", load_external_data=False)
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    except google.protobuf.message.DecodeError:
        other = how_to_export(path) or "not an ONNX model, or truncated (its protobuf cannot be decoded)"
        raise ModelError(f"{path}: {other}") from None
    if not proto.ir_version or not proto.HasField("graph"):
        raise ModelError(f"{path}: {how_to_export(path) or 'not an ONNX model (no graph inside)'}")
    return proto


def _beside_its_data(path: Path, proto: onnx.ModelProto) -> Path:
    """Return the path beside which data files are looked for: a symbolic link's, or where they are not, its target."""
    if not path.is_symlink():
        return path
    return path if all((path.parent / location).exists() for location in _locations(proto)) else path.resolve()


def from_proto(proto: onnx.ModelProto) -> ir.Model:
    """Turn a model in memory into an `onnx_ir.Model`, or raise `ModelError`; its external data may lie anywhere."""
    check_text("model", proto)
    for tensor in tensors_in(proto):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            check_tensor("model", Path(), tensor)
    return _built("model", proto, None)


def _built(where: str, proto: onnx.ModelProto, folder: Path | None) -> ir.Model:
    sparse = [tensor.values.name for tensor in proto.graph.sparse_initializer]
    if sparse:
        raise ModelError(f"{where}: initializer '{sparse[0]}' is sparse, which cannot be read; store it densely")
    try:
        model = ir.from_proto(proto)
        model.metadata_props.pop(RECORD, None)  # says something about the file, not about the model
        for graph in (*model.graphs(), *(function.graph for function in model.functions.values())):
            if folder is not None:
                ir.external_data.set_base_dir(graph, folder)
            _map_attributes(graph)
        for function in model.functions.values():
            ir.serde.serialize_function(function)  # it can hold what the model's IR version cannot
        for node in model.graph.all_nodes():
            if node.device_configurations:
                ir.serde.serialize_node(node)  # they can lack the name of the model's
    except MemoryError:
        raise ModelError(f"{where}: not enough memory to read it") from None
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise ModelError(f"{where}: onnx-ir cannot read it: {_one_line(cause)}") from error
    for node in model.graph.all_nodes():
        for name, attribute in node.attributes.items():
            if attribute.is_ref():
                raise ModelError(f"{where}: node '{node.name}' takes '{name}' from a function, and stands in none")
    return model


def _map_attributes(graph: ir.Graph) -> None:
    """Let attributes hold what their external data say, still mapped: only initializers are saved externally."""
    for node in graph.all_nodes():
        for name, attribute in node.attributes.items():
            if attribute.type == ir.AttributeType.TENSOR and isinstance(attribute.value, ir.ExternalTensor):
                node.attributes[name] = ir.AttrTensor(name, _in_place(attribute.value))
            elif attribute.type == ir.AttributeType.TENSORS and not attribute.is_ref():
                tensors = [_in_place(t) if isinstance(t, ir.ExternalTensor) else t for t in attribute.value]
                node.attributes[name] = ir.AttrTensors(name, tensors)


def _in_place(tensor: ir.ExternalTensor) -> ir.TensorProtocol:
    return ir.Tensor(tensor.numpy(), dtype=tensor.dtype, shape=tensor.shape, name=tensor.name)


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:3])[:MOST_TEXT] or type(error).__name__
