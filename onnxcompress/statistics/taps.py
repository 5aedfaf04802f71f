"""Reduces tensors inside the graph, so that only small results leave onnxruntime."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import onnx_ir as ir

from ..errors import PassError, did_you_mean
from ..graph import edit
from ..machines.workers import Workers
from ..progress import Progress
from ..runtime.session import Array, Session, open_session
from ..samples.chunks import Chunk, chunks
from ..samples.samples import DEFAULT_BATCH, Samples

Key = TypeVar("Key", bound=Hashable)

DEFAULT_OPSET = 17
"""For models that import only other domains than ONNX's own."""


@dataclass(frozen=True)
class Tap(Generic[Key]):
    """What to compute of one tensor: `reduce` adds nodes to a graph and returns the values to fetch."""

    key: Key
    tensor: str
    reduce: Callable[[Tapper, ir.Value], list[ir.Value]]


def whole(name: str) -> Tap[str]:
    """Return what fetches a tensor as it is."""
    return Tap(name, name, _as_it_is)


def _as_it_is(_: Tapper, value: ir.Value) -> list[ir.Value]:
    return [value]


class Tapper:
    """Adds nodes at the end of a graph that is a copy."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.opset = graph.opset_imports.setdefault("", DEFAULT_OPSET)
        self._prefix = edit.Names(graph).value("tap")
        self._count = 0

    def add(self, op_type: str, *inputs: ir.Value, **attributes: int | list[int] | ir.TensorProtocol) -> ir.Value:
        """Add a node with one output and return that."""
        self._count += 1
        node = ir.node(op_type, list(inputs), attributes, name=f"{self._prefix}_node_{self._count}")
        self.graph.append(node)
        node.outputs[0].name = f"{self._prefix}_{self._count}"
        return node.outputs[0]

    def reduce_sum(self, value: ir.Value, axes: list[int]) -> ir.Value:
        """Sum over `axes`, which then are gone; over nothing if there are none."""
        if not axes:
            return value
        if self.opset < 13:
            return self.add("ReduceSum", value, axes=axes, keepdims=0)
        tensor = ir.tensor(np.array(axes, np.int64))
        return self.add("ReduceSum", value, self.add("Constant", value=tensor), keepdims=0)

    def cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """Cast unless the type is known to be that."""
        return value if value.dtype == dtype else self.add("Cast", value, to=int(dtype))


def find_values(model: ir.Model, names: Sequence[str]) -> tuple[dict[str, Array], list[str]]:
    """Split tensors into those that are constant (returned with their arrays) and those to be tapped.

    Raises
    ------
    PassError
        A tensor is not in the model, lives inside an inner graph, or is not a tensor of numbers.
    """
    outer = {value.name: value for value in _outer_values(model.graph)}
    constants: dict[str, Array] = {}
    tapped: list[str] = []
    for name in dict.fromkeys(names):
        if name not in outer:
            raise PassError(_why_missing(model, name, outer))
        value = outer[name]
        if isinstance(value.type, (ir.SequenceType, ir.OptionalType)) or value.dtype == ir.DataType.STRING:
            raise PassError(f"tensor '{name}': {value.type} has no statistics; only tensors of numbers have")
        # An initializer that is also an input is only a default, but no sample overrides it.
        tensor = value.const_value if value.is_initializer() else edit.constant(value)
        if tensor is not None:
            constants[name] = tensor.numpy()
        else:
            tapped.append(name)
    return constants, tapped


def _outer_values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs


def _why_missing(model: ir.Model, name: str, outer: dict[str | None, ir.Value]) -> str:
    for graph in model.graph.subgraphs():
        if any(value.name == name for value in _outer_values(graph)):
            where = f"lives inside the inner graph '{graph.name}' (of an If, Loop or Scan)"
            return f"tensor '{name}' {where}, where statistics cannot be taken"
    return f"the model has no tensor '{name}'{did_you_mean(name, [key for key in outer if key])}"


def measure_shapes(model: ir.Model, samples: Samples, names: list[str]) -> dict[str, tuple[int, ...]]:
    """Return the shape of each named tensor for the first batch; the graph's own shapes may be missing or stale."""
    taps = [Tap(name, name, lambda tapper, value: [tapper.add("Shape", value)]) for name in names]
    session, fetched = open_taps(model, taps)
    found = session.run(next(samples.batches()))
    return {name: tuple(int(size) for size in found[fetched[name][0]]) for name in names}


def run_taps(
    model: ir.Model,
    samples: Samples,
    taps: Sequence[Tap[Key]],
    shapes: dict[str, tuple[int, ...]],
    *,
    what: str,
    progress: Progress,
    limit_bytes: int,
    workers: Workers,
) -> Iterator[tuple[Key, list[Array]]]:
    """Yield each tap's results for each batch.

    Taps are added to the graph only as many at a time as keep the tapped tensors below `limit_bytes` (as float64, the
    widest they are cast to), because onnxruntime may hold all of them at once; each lot is one pass over the samples.
    """
    lots = _lots(taps, shapes, limit_bytes)
    total = (samples.known_count or 0) * len(lots)
    done = 0
    for lot in lots:
        for count, results in workers.map(RunsTaps, (model, lot), chunks(samples)):
            yield from results
            done += count
            progress(what, done, total)


class RunsTaps:
    """Runs taps over chunks of samples, wherever it is."""

    def __init__(self, model: ir.Model, taps: Sequence[Tap[Any]]) -> None:
        self._session, self._fetched = open_taps(model, taps)

    def __call__(self, chunk: Chunk) -> tuple[int, list[tuple[Any, list[Array]]]]:
        """Return how many samples there were, and each tap's results for each batch."""
        runs = [self._session.run(feeds) for feeds in chunk.batches(DEFAULT_BATCH)]
        results = [(key, [found[name] for name in names]) for found in runs for key, names in self._fetched.items()]
        return chunk.count, results


def _lots(taps: Sequence[Tap[Key]], shapes: dict[str, tuple[int, ...]], limit: int) -> list[list[Tap[Key]]]:
    sizes = {name: 8 * int(np.prod(shape, dtype=np.int64)) for name, shape in shapes.items()}
    return split_lots(taps, sizes, limit)


def split_lots(taps: Sequence[Tap[Key]], sizes: Mapping[str, int], limit: int) -> list[list[Tap[Key]]]:
    """Split taps into lots whose tensors take at most `limit` bytes, or that are one tap."""
    lots: list[list[Tap[Key]]] = []
    used = 0
    for tap in taps:
        size = sizes[tap.tensor]
        if not lots or used + size > limit:
            lots.append([])
            used = 0
        lots[-1].append(tap)
        used += size
    return lots


def open_taps(model: ir.Model, taps: Sequence[Tap[Key]], threads: int = 0) -> tuple[Session, dict[Key, list[str]]]:
    """Open a copy of the model whose outputs are the taps' results; a copy shares the weights."""
    copy = model.clone()
    graph = copy.graph
    by_name = {value.name: value for value in _outer_values(graph)}
    tapper = Tapper(graph)
    fetched: dict[Key, list[str]] = {}
    outputs: list[ir.Value] = []
    for tap in taps:
        values = tap.reduce(tapper, by_name[tap.tensor])
        outputs += values
        fetched[tap.key] = [value.name or "" for value in values]
    edit.set_outputs(graph, outputs)
    return open_session(copy, threads=threads), fetched
