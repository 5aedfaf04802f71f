"""The test data that ONNX's model zoo ships: ``test_data_set_0/input_0.pb`` and so on, an input in each file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import google.protobuf.message
import onnx

from ...errors import DataError
from ...runtime.session import Array
from ..sources import Piece, Request, Source, called

INPUT = re.compile(r"input_(\d+)\.pb")
MOST_BYTES = 1 << 31
"""What a protobuf can hold."""


def read(files: Sequence[Path], request: Request) -> Source:
    """Return the inputs in each folder as a sample; the outputs beside them are what the model is measured for anyway.

    Raises
    ------
    DataError
        There are no inputs among the files.
    """
    inputs = [file for file in files if INPUT.fullmatch(file.name)]
    if not inputs:
        raise DataError(f"{files[0].name}: expected files called input_0.pb, input_1.pb, …")
    folders: dict[Path, list[Path]] = {}
    for file in inputs:
        folders.setdefault(file.parent, []).append(file)
    names = [item.name for item in request.layout.inputs]

    def pieces() -> Iterator[Piece]:
        for folder, found in sorted(folders.items()):
            arrays = {}
            for file in found:
                number = int(file.stem.partition("_")[2])
                name, array = read_tensor(file)
                if name not in names:
                    name = names[number] if number < len(names) else f"{name or file.stem}"
                arrays[name] = array
            yield folder.name, arrays

    return Source(pieces, called(inputs, request))


def read_tensor(path: Path) -> tuple[str, Array]:
    """Read a tensor and its name.

    Raises
    ------
    DataError
        It cannot be read, is no tensor, holds fewer values than its shape promises, or points at another file.
    """
    label = f"{path.parent.name}/{path.name}"
    try:
        if path.stat().st_size > MOST_BYTES:
            raise DataError(f"{label}: is too large for a protobuf")
        tensor = onnx.TensorProto.FromString(path.read_bytes())
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise DataError(f"{label}: its values are in another file, which is not read; save them inside")
        return tensor.name, onnx.numpy_helper.to_array(tensor)
    except OSError as error:
        raise DataError(f"{label}: cannot be read: {error.strerror or error}") from None
    except google.protobuf.message.DecodeError:
        raise DataError(f"{label}: no tensor, or truncated (its protobuf cannot be decoded)") from None
    except (ValueError, TypeError, KeyError, MemoryError, OverflowError) as error:
        raise DataError(f"{label}: no tensor: {' '.join(str(error).split())[:200] or type(error).__name__}") from None
