"""Weights that several models have in common, stored once: the format lets them read one data file."""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx

from ..graph.data_file import RECORD
from ..graph.save import SMALL_BYTES
from ..graph.tensors import locations_in

SHARED = "weights.onnx.data"
"""The data file that all models of a folder read."""

ALIGNMENT = 4096
"""Where weights may begin, so that they can be mapped."""


def share(paths: Sequence[Path]) -> int:
    """Let models in one folder read their weights from one data file, if they have some in common.

    Parameters
    ----------
    paths : sequence of Path
        Models that were just written, each with data files of its own at most. They are changed.

    Returns
    -------
    int
        How many bytes that saved.
    """
    if len({path.parent for path in paths}) != 1 or len(paths) == 1:
        return 0
    seen: dict[str, int] = {}
    for path in paths:
        for digest, size in {(_key(data), len(data)) for _, data in _weights(path)}:
            seen[digest] = seen[digest] + size if digest in seen else 0
    saved = sum(seen.values())
    if saved:
        _write(paths, paths[0].parent / SHARED)
    return saved


def _write(paths: Sequence[Path], target: Path) -> None:
    places: dict[str, int] = {}
    with target.open("xb") as file:
        for path in paths:
            proto = onnx.load(path, format="protobuf", load_external_data=False)
            own = locations_in(proto)
            for tensor, data in _weights(path, proto):
                key = _key(data)
                if key not in places:
                    file.write(bytes(-file.tell() % ALIGNMENT))
                    places[key] = file.tell()
                    file.write(data)
                _refer(tensor, places[key], len(data))
            kept = [entry for entry in proto.metadata_props if entry.key != RECORD]
            del proto.metadata_props[:]
            proto.metadata_props.extend(kept)
            path.write_bytes(proto.SerializeToString())
            for name in own - locations_in(proto):
                (path.parent / name).unlink()
        file.flush()
        os.fsync(file.fileno())


def _weights(path: Path, proto: onnx.ModelProto | None = None) -> Iterator[tuple[onnx.TensorProto, bytes | memoryview]]:
    """Yield the initializers that are worth a place in a data file, each with its bytes."""
    proto = proto or onnx.load(path, format="protobuf", load_external_data=False)
    for tensor in proto.graph.initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            if len(tensor.raw_data) > SMALL_BYTES:
                yield tensor, tensor.raw_data
            continue
        said = {entry.key: entry.value for entry in tensor.external_data}
        start, size = int(said.get("offset", 0)), int(said["length"])
        with (path.parent / said["location"]).open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        view = memoryview(mapped)
        yield tensor, view[start : start + size]


def _key(data: bytes | memoryview) -> str:
    return f"{len(data)} {hashlib.sha256(data).hexdigest()}"


def _refer(tensor: onnx.TensorProto, offset: int, length: int) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in {"location": SHARED, "offset": offset, "length": length}.items():
        tensor.external_data.add(key=key, value=str(value))
