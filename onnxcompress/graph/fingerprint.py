"""What tells one model from another: a digest of its graph and of every weight."""

from __future__ import annotations

import hashlib
import weakref
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from . import edit

LARGE = 1 << 20
"""Bytes from which on a checksum and a sum stand for a tensor, at a quarter of the time (nobody forges weights so that
another model's plan fits), and pages of a mapped tensor are given back once they are read."""


class Fingerprints:
    """Takes fingerprints of models that share most of their weights; each tensor is read once.

    Two models have the same when their nodes, inputs, opsets and constants are the same. Names of files, comments,
    metadata and shapes that were inferred do not count, so that it is the same wherever the weights are kept.
    """

    def __init__(self) -> None:
        self._known: weakref.WeakKeyDictionary[Any, bytes] = weakref.WeakKeyDictionary()

    def of(self, model: ir.Model) -> str:
        """Return the fingerprint of a model: 32 hexadecimal digits."""
        digest = hashlib.blake2b(digest_size=16)
        for part in self._model(model):
            digest.update(repr(part).encode())
        return digest.hexdigest()

    def _model(self, model: ir.Model) -> Iterable[Any]:
        yield sorted(model.graph.opset_imports.items())
        yield from self._graph(model.graph)
        for key in sorted(model.functions):
            function = model.functions[key]
            yield key, sorted(function.opset_imports.items()), [value.name for value in function.inputs]
            yield from self._attributes(function.attributes)
            yield from self._body(function)

    def _graph(self, graph: ir.Graph) -> Iterable[Any]:
        yield [(value.name, str(value.type), str(value.shape)) for value in graph.inputs]
        for name in sorted(graph.initializers):
            yield name, self._tensor(graph.initializers[name].const_value)
        yield from self._body(graph)

    def _body(self, graph: ir.Graph | ir.Function) -> Iterable[Any]:
        for node in graph:
            names = [None if value is None else value.name for value in node.inputs]
            yield node.op_identifier(), node.name, names, [value.name for value in node.outputs]
            yield from self._attributes(node.attributes)
        yield [value.name for value in graph.outputs]

    def _attributes(self, attributes: Any) -> Iterable[Any]:
        for name in sorted(attributes):
            attribute = attributes[name]
            yield name, attribute.type.name, attribute.ref_attr_name
            value = attribute.value
            if isinstance(value, ir.Graph):
                yield from self._graph(value)
            elif attribute.type == ir.AttributeType.GRAPHS:
                for graph in value:
                    yield from self._graph(graph)
            elif attribute.type == ir.AttributeType.TENSOR and value is not None:
                yield self._tensor(value)
            elif attribute.type == ir.AttributeType.TENSORS:
                yield [self._tensor(tensor) for tensor in value]
            else:
                yield str(value)

    def _tensor(self, tensor: ir.TensorProtocol | None) -> bytes | None:
        if tensor is None:
            return None
        found = self._known.get(tensor)
        if found is None:
            self._known[tensor] = found = _digest(tensor)
        return found


def _digest(tensor: ir.TensorProtocol) -> bytes:
    digest = hashlib.blake2b(f"{tensor.dtype.name} {tensor.shape.numpy()}".encode(), digest_size=16)
    array = tensor.numpy()
    if array.dtype == object:
        digest.update(repr(array.tolist()).encode())
    elif array.size:
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        digest.update(data.data if data.nbytes < LARGE else _sums(data))
    if tensor.nbytes >= LARGE:
        edit.release_pages(tensor)
    return digest.digest()


def _sums(data: npt.NDArray[np.uint8]) -> bytes:
    words = data[: data.nbytes // 8 * 8].view(np.uint64)
    return f"{zlib.crc32(data.data)} {int(words.sum())}".encode()
