"""Runs a model forward piece by piece, so that what comes later may be changed by what was seen so far."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir

from ..errors import ModelError, PassError
from ..graph import edit
from ..runtime.provider import on_cpu, running
from ..runtime.session import Array, open_session
from ..samples.chunks import Chunk
from ..samples.samples import Samples
from .spill import LIMIT_BYTES, Spill, Spilled

Kept = Any
"""An array, in memory or in a file; of a sequence, a map or an optional, what ONNX Runtime gives."""


class Code(NamedTuple):
    """How the integers of one tensor are read: ``x = scale · (q − zero_point)``.

    Attributes
    ----------
    integers : onnx_ir.Value
    scale, zero_point : numpy scalar
        Float32.
    """

    integers: ir.Value
    scale: np.float32
    zero_point: np.float32

    def decode(self, array: Array) -> Array:
        """Return numbers of integers, as DequantizeLinear does, float32."""
        found = array.astype(np.float32)
        found -= self.zero_point
        found *= self.scale
        return found


def code_of(value: ir.Value) -> Code | None:
    """Return what a DequantizeLinear with a single scale reads, if one gives the tensor."""
    node = value.producer()
    if node is None or edit.op_of(node) != "DequantizeLinear" or value.dtype not in (None, ir.DataType.FLOAT):
        return None
    scale = edit.constant(node.inputs[1])
    zero = edit.constant(node.inputs[2]) if len(node.inputs) > 2 else None
    numbers = [np.zeros(1) if t is None else t.numpy().astype(np.float32).ravel() for t in (scale, zero)]
    known = scale is not None and (zero is not None or len(node.inputs) < 3 or node.inputs[2] is None)
    integers = node.inputs[0]
    if not known or integers is None or any(len(n) != 1 for n in numbers):
        return None
    return Code(integers, np.float32(numbers[0][0]), np.float32(numbers[1][0]))


class SegmentedRun:
    """A run of a model over samples that stops where it is told.

    Where it stands, the tensors that the rest of the graph reads are kept, for each batch; nodes before are never run
    again. So going once through a model of many layers costs one pass over the samples however often it stops. Most
    of what is kept lies in files, and of a tensor that DequantizeLinear gives, the integers are kept.

    Parameters
    ----------
    model : onnx_ir.Model
        Its nodes from where the run stands on may be changed: constants, and nodes added behind them.
    samples : Samples or Chunk
    folder : Path
        An empty folder for the files.
    batch : int
        Samples at a time.
    in_memory : int
        How many bytes of tensors do not go into files.
    exact : bool
        As for `open_session`.
    """

    def __init__(
        self,
        model: ir.Model,
        samples: Samples | Chunk,
        folder: Path,
        batch: int = 32,
        in_memory: int = LIMIT_BYTES,
        *,
        exact: bool = False,
    ) -> None:
        self.model = model
        self.samples = samples.count
        self._spill = Spill(folder, in_memory)
        self._batches: list[dict[str, Kept]] = []
        self._codes: dict[str, Code] = {}
        self._position = 0
        self._exact, self._provider = exact, running()
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
        read = _read_from(self.model.graph, order, index)
        self._codes = {str(value.name): code for value in read if (code := code_of(value)) is not None}
        needed = dict.fromkeys(self._kept_as(str(value.name)) for value in read)
        known = set(self._batches[0]) if self._batches else set()
        missing = [name for name in needed if name not in known]
        if missing:
            self._run(sorted(known), missing)
        for stored in self._batches:
            for gone in stored.keys() - needed.keys():
                kept = stored.pop(gone)
                if isinstance(kept, (np.ndarray, Spilled)):
                    self._spill.drop(kept)
        self._position = index

    def has(self, name: str) -> bool:
        """Tell whether a tensor can be fetched where the run stands."""
        return bool(self._batches) and self._kept_as(name) in self._batches[0]

    def code(self, name: str) -> Code | None:
        """Return how a tensor is read of integers, if that is what is kept of it."""
        return self._codes.get(name)

    def fetch(self, name: str, *, decode: bool = True) -> Iterator[Array]:
        """Yield a tensor that the rest of the graph reads, batch by batch; without `decode`, as `code` says."""
        code, kept = self.code(name), self._kept_as(name)
        for stored in self._batches:
            if kept not in stored:
                raise PassError(f"tensor '{name}' is constant, or nothing reads it from here on")
            array = self._spill.get(stored[kept])
            yield code.decode(array) if decode and code is not None else array

    def _kept_as(self, name: str) -> str:
        code = self._codes.get(name)
        return name if code is None else str(code.integers.name)

    def _run(self, inputs: list[str], outputs: list[str]) -> None:
        piece = _extract(self.model, {name: self._batches[0][name] for name in inputs}, outputs)
        try:
            self._run_piece(piece, outputs)
        except ModelError:
            if self._provider.is_cpu:
                raise
            self._provider = on_cpu()  # which runs pieces that other providers, made for whole models, stumble over
            self._run_piece(piece, outputs)

    def _run_piece(self, piece: ir.Model, outputs: list[str]) -> None:
        session = open_session(piece, exact=self._exact, provider=self._provider)
        for stored in self._batches:
            feeds = {name: self._spill.get(stored[name]) for name in session.inputs}
            self._keep(stored, session.run(feeds, outputs))

    def _keep(self, stored: dict[str, Kept], arrays: dict[str, Any]) -> None:
        for name, array in arrays.items():
            stored[name] = self._spill.put(array) if isinstance(array, np.ndarray) else array


def _read_from(graph: ir.Graph, order: list[ir.Node], index: int) -> list[ir.Value]:
    """Return the tensors that depend on the inputs, are there before node `index` and are read from there on."""
    varying = {value for value in graph.inputs if not value.is_initializer()}
    for node in order[:index]:
        if any(value in varying for value in _reads(node)):
            varying.update(node.outputs)
    read = dict.fromkeys(value for node in order[index:] for value in _reads(node) if value in varying)
    read |= dict.fromkeys(value for value in graph.outputs if value in varying)
    return list(read)


def _reads(node: ir.Node) -> Iterator[ir.Value]:
    """Everything that a node reads, its inner graphs included."""
    yield from (value for value in node.inputs if value is not None)
    for graph in edit.inner_graphs(node):
        for inside in graph:
            yield from _reads(inside)
        yield from graph.outputs


def _extract(model: ir.Model, inputs: dict[str, Kept], outputs: list[str]) -> ir.Model:
    """Make a model of the nodes between two sets of tensors; it shares the weights."""
    graph = ir.convenience.extract(model.graph, list(inputs), outputs)
    for value in graph.inputs:
        if value.name in inputs:
            stored = inputs[value.name]
            if not isinstance(stored, (np.ndarray, Spilled)):
                continue  # its type is known, or the model could not be run
            value.type = ir.TensorType(ir.DataType.from_numpy(stored.dtype))
            value.shape = ir.Shape([None] * len(stored.shape))  # batches differ, and recorded shapes may be stale
    return ir.Model(graph, ir_version=model.ir_version, functions=list(model.functions.values()))
