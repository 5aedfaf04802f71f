"""Layer by layer: what a model and what was made of it take and compute."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from ..details import Layer
from ..graph import cost
from ..graph.macs import multiplies
from .origins import Placed
from .profiled import Profiled, named

FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)

SOLE = 1
"""Constants of so many elements are no weights."""

PLACES = (ir.DataType.INT64, ir.DataType.BOOL, ir.DataType.STRING)
"""Constants of these are shapes, indices and masks."""

FARTHEST = 12
"""Nodes that are looked at for what takes the place of one."""


@dataclass(frozen=True)
class Side:
    """One of the two models: its nodes by name, the tensors outside inner graphs, and what each node costs."""

    nodes: dict[str, ir.Node]
    outer: set[str]
    bytes: dict[str, int]
    macs: dict[str, int]

    @classmethod
    def of(cls, model: ir.Model, sizes: Mapping[str, tuple[int, ...]] | None) -> Side:
        """Look at a model; `sizes` are input shapes where extents are unknown."""
        copy = named(model)
        nodes = {node.name or "": node for node in copy.graph.all_nodes()}
        outer = {value.name or "" for node in copy.graph for value in node.outputs}
        return cls(nodes, outer, cost.layer_bytes(copy), cost.macs(copy, sizes))

    def layers(self) -> list[str]:
        """Return the nodes that read weights or multiply, in the order of the model."""
        heavy = (name for name, node in self.nodes.items() if self.bytes.get(name) and weights(node))
        kept = {*heavy, *(name for name, count in self.macs.items() if count)}
        return [name for name in self.nodes if name in kept]

    def work(self, name: str) -> int | None:
        """Return a node's multiply-accumulates; None where its shapes are not known."""
        node = self.nodes[name]
        return self.macs.get(name, None if multiplies(node) else 0)


class Pair:
    """Two models, and which node of one stands for which of the other: that of its name, or of its output."""

    def __init__(
        self, original: ir.Model, result: ir.Model, sizes: Mapping[str, tuple[int, ...]] | None = None
    ) -> None:
        self.before, self.after = Side.of(original, sizes), Side.of(result, sizes)
        makers = {value.name: name for name, node in self.after.nodes.items() for value in node.outputs}
        self._made = makers.keys()
        self.twins: dict[str, str] = {}
        self._ends: dict[str, str] = {}
        for name in self.before.layers():
            outputs = (makers[v.name] for v in self.before.nodes[name].outputs if v.name in makers)
            end = name if name in self.after.nodes else next(outputs, None)
            if end is not None and end not in self._ends.values():
                self._ends[name] = end
                self.twins[name] = end if end == name else self._heaviest(end)

    def _heaviest(self, end: str) -> str:
        """Return the node of the largest weight among the new ones that compute what a layer computed."""
        group, waiting = [end], [self.after.nodes[end]]
        while waiting and len(group) < FARTHEST:
            makers = (value.producer() for value in waiting.pop().inputs if value is not None)
            for maker in makers:
                name = "" if maker is None else maker.name or ""
                if maker is not None and name in self.after.nodes and name not in self.before.nodes:
                    group.append(name)
                    waiting.append(maker)
        return max(group, key=lambda name: (largest(self.after.nodes[name]), name == end))

    def tensors(self) -> dict[str, tuple[str, str]]:
        """Return layer → the float tensor of the original and that of the result which should be equal.

        What was folded into a layer is behind it in the original and no longer there in the result, so that the output
        of the last of it is what the layer computes now.
        """
        made = {value.name: value.dtype for node in self.before.nodes.values() for value in node.outputs}
        found = {}
        for name, end in self._ends.items():
            new = self.after.nodes[end].outputs[0].name or ""
            own = self._folded_into(self.before.nodes[name]).outputs[0].name or ""
            old = new if new in made and new != self.before.nodes[name].outputs[0].name else own
            if old in self.before.outer and new in self.after.outer and made.get(old) in (None, *FLOATS):
                found[name] = (old, new)
        return found

    def _folded_into(self, node: ir.Node) -> ir.Node:
        """Return the last of the nodes behind a layer that are gone in the result, or the layer itself."""
        while True:
            readers = [*node.outputs[0].uses()]
            reader = readers[0].node if len(readers) == 1 and not node.outputs[0].is_graph_output() else None
            if reader is None or reader.name in self.after.nodes or reader.outputs[0].name in self._made:
                return node
            node = reader

    def layers(self) -> list[Layer]:
        """Return all layers, those of the original first, with what is known without running anything."""
        rows = [self._layer(name, self.twins.get(name)) for name in self.before.layers()]
        known = {*self.twins.values()}
        return rows + [self._new(name) for name in self.after.layers() if name not in known]

    def _layer(self, name: str, twin: str | None) -> Layer:
        node, side = self.before.nodes[name], self.before
        row = Layer(
            name,
            node.op_type,
            bytes=side.bytes.get(name, 0),
            macs=side.work(name),
            precision=precision(node),
        )
        return row if twin is None else replace(row, **self._afterwards(twin))

    def _new(self, name: str) -> Layer:
        row = Layer(name, self.after.nodes[name].op_type)
        return replace(row, **self._afterwards(name))

    def _afterwards(self, name: str) -> dict[str, Any]:
        node, side = self.after.nodes[name], self.after
        return {
            "bytes_after": side.bytes.get(name, 0),
            "macs_after": side.work(name),
            "precision_after": precision(node),
        }


def weights(node: ir.Node) -> list[ir.TensorProtocol]:
    """Return the constants of more than one element that a node computes with."""
    return [tensor for tensor in cost.constants(node) if tensor.size > SOLE and tensor.dtype not in PLACES]


def largest(node: ir.Node) -> int:
    """Return the elements of the largest of a node's weights."""
    return max((tensor.size for tensor in weights(node)), default=0)


def precision(node: ir.Node) -> str:
    """Return the type of the largest of a node's weights, in ONNX' words; empty without any."""
    return max(weights(node), key=lambda tensor: tensor.size).dtype.name.lower() if weights(node) else ""


def sparsity(node: ir.Node) -> float | None:
    """Return the share of zeros in a node's weights as they are stored; None without weights, or of packed ones."""
    zeros = size = 0
    for tensor in weights(node):
        if tensor.dtype.bitwidth >= BYTE:
            zeros += tensor.size - int(np.count_nonzero(tensor.numpy()))
            size += tensor.size
    return zeros / size if size else None


def measured(pair: Pair, profiled: Profiled, noise: Mapping[str, float | None]) -> list[Layer]:
    """Return all layers with what was measured of them, and behind them a row for each other kind of kernel.

    Parameters
    ----------
    pair : Pair
    profiled : Profiled
        Of the same two models.
    noise : mapping
        Layer → signal to noise in dB.
    """
    old, new = _by_node(profiled.before), _by_node(profiled.after)
    rows = []
    used_before: set[str] = set()
    used_after: set[str] = set()
    for row in pair.layers():
        name = row.name if row.name in pair.before.nodes else None
        twin = pair.twins.get(row.name) if name else row.name
        before, after = old.get(name or "", []), new.get(twin or "", [])
        used_before |= {name} if name else set()
        used_after |= {twin} if twin else set()
        rows.append(
            replace(
                row,
                milliseconds=_time(before),
                milliseconds_after=_time(after),
                kernel=" + ".join(dict.fromkeys(one.kernel.operator for one in after)),
                sparsity=sparsity(pair.after.nodes[twin]) if twin else None,
                sqnr=noise.get(row.name),
            )
        )
    others = (
        [one for one in profiled.before if one.node not in used_before],
        [one for one in profiled.after if one.node not in used_after],
    )
    return rows + _others(*others)


BYTE = 8
"""Bits of the narrowest type whose values each have bytes of their own."""


def _by_node(kernels: Iterable[Placed]) -> dict[str, list[Placed]]:
    found: defaultdict[str, list[Placed]] = defaultdict(list)
    for one in kernels:
        if one.node is not None:
            found[one.node].append(one)
    return found


def _time(kernels: Iterable[Placed]) -> float | None:
    times = [one.kernel.milliseconds for one in kernels]
    return sum(times) if times else None


def _others(before: Iterable[Placed], after: Iterable[Placed]) -> list[Layer]:
    """Return a row for each operator of kernels that belong to no layer, the slowest first."""
    found: defaultdict[str, tuple[list[Placed], list[Placed]]] = defaultdict(lambda: ([], []))
    for side, kernels in enumerate((before, after)):
        for one in kernels:
            found[one.kernel.operator][side].append(one)
    rows = [
        Layer(
            f"other {operator}",
            operator,
            nodes=max(len(old), len(new)),
            milliseconds=_time(old),
            milliseconds_after=_time(new),
            kernel=operator if new else "",
        )
        for operator, (old, new) in found.items()
    ]
    return sorted(rows, key=lambda row: -max(row.milliseconds or 0.0, row.milliseconds_after or 0.0))
