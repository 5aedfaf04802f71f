"""Runs a model forward piece by piece, so that what comes later may be changed by what was seen so far."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir

from ..errors import PassError
from ..graph import edit
from .samples import Samples
from .session import Array, open_session


class _Stored(NamedTuple):
    """A tensor that lies in a file of raw bytes (numpy's own format knows no bfloat16)."""

    path: Path
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


class Walk:
    """A run of a model over samples that stops where it is told.

    Where it stands, the tensors that the rest of the graph reads lie in files, one for each batch; nodes before are
    never run again. So going once through a model of many layers costs one pass over the samples however often it
    stops, and takes the memory of one batch.

    Parameters
    ----------
    model : onnx_ir.Model
        Its nodes from where the walk stands on may be changed: constants, and nodes added behind them.
    samples : Samples
    folder : Path
        An empty folder for the files.
    batch : int
        Samples at a time.
    """

    def __init__(self, model: ir.Model, samples: Samples, folder: Path, batch: int = 32) -> None:
        self.model = model
        self.samples = samples.count
        self._folder = folder
        self._batches: list[dict[str, _Stored]] = []
        self._position = 0
        self._written = 0
        for feeds in samples.batches(batch):
            self._batches.append({})
            self._keep(self._batches[-1], feeds)

    def advance(self, name: str, *, behind: bool = False) -> None:
        """Run up to the node whose first output is `name`, so that its inputs can be fetched.

        With `behind` it is run too, so that its output can be.

        Raises
        ------
        PassError
            The node is not in the outer graph, or has been passed already.
        """
        order = list(self.model.graph)
        index = next((i for i, node in enumerate(order) if edit.output_name(node) == name), -1)
        if index + behind < self._position or index < 0:
            raise PassError(f"node '{name}': it is not among the nodes that are still to run")
        index += behind
        if index == self._position:
            return
        needed = _needed(self.model.graph, order, index)
        known = set(self._batches[0]) if self._batches else set()
        missing = [name for name in needed if name not in known]
        if missing:
            self._run(sorted(known), missing)
        for stored in self._batches:
            for gone in set(stored) - set(needed):
                stored.pop(gone).path.unlink()
        self._position = index

    def has(self, name: str) -> bool:
        """Tell whether a tensor can be fetched where the walk stands."""
        return bool(self._batches) and name in self._batches[0]

    def fetch(self, name: str) -> Iterator[Array]:
        """Yield a tensor that the rest of the graph reads, batch by batch."""
        for stored in self._batches:
            if name not in stored:
                raise PassError(f"tensor '{name}' is constant, or nothing reads it from here on")
            yield _load(stored[name])

    def _run(self, inputs: list[str], outputs: list[str]) -> None:
        piece = _extract(self.model, {name: self._batches[0][name] for name in inputs}, outputs)
        session = open_session(piece)
        for stored in self._batches:
            feeds = {name: _load(stored[name]) for name in session.inputs}
            self._keep(stored, session.run(feeds, outputs))

    def _keep(self, stored: dict[str, _Stored], arrays: dict[str, Any]) -> None:
        for name, array in arrays.items():
            if not isinstance(array, np.ndarray):
                raise PassError(f"tensor '{name}' is a sequence or optional, which cannot be stopped at")
            path = self._folder / str(self._written)
            self._written += 1
            path.write_bytes(np.ascontiguousarray(array).tobytes())
            stored[name] = _Stored(path, array.dtype, array.shape)


def _load(stored: _Stored) -> Array:
    return np.frombuffer(stored.path.read_bytes(), stored.dtype).reshape(stored.shape)


def _needed(graph: ir.Graph, order: list[ir.Node], index: int) -> list[str]:
    """Return the tensors that depend on the inputs, are there before node `index` and are read from there on."""
    varying = {value for value in graph.inputs if edit.constant(value) is None}
    for node in order[:index]:
        if any(value in varying for value in _reads(node)):
            varying.update(node.outputs)
    read = dict.fromkeys(value for node in order[index:] for value in _reads(node) if value in varying)
    read |= dict.fromkeys(value for value in graph.outputs if value in varying)
    return [str(value.name) for value in read]


def _reads(node: ir.Node) -> Iterator[ir.Value]:
    """Everything that a node reads, its inner graphs included."""
    yield from (value for value in node.inputs if value is not None)
    for graph in edit.inner_graphs(node):
        for inside in graph:
            yield from _reads(inside)
        yield from graph.outputs


def _extract(model: ir.Model, inputs: dict[str, _Stored], outputs: list[str]) -> ir.Model:
    """Make a model of the nodes between two sets of tensors; it shares the weights."""
    graph = ir.convenience.extract(model.graph, list(inputs), outputs)
    for value in graph.inputs:
        if value.name in inputs:
            stored = inputs[value.name]
            value.type = ir.TensorType(ir.DataType.from_numpy(stored.dtype))
            value.shape = ir.Shape([None] * len(stored.shape))  # batches differ, and recorded shapes may be stale
    return ir.Model(graph, ir_version=model.ir_version, functions=list(model.functions.values()))
