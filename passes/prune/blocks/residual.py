"""Finds residual blocks: what is added to a value that it is computed from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import onnx_ir as ir

from onnxcompress.graph import edit

from .flow import Flow

SameShape: TypeAlias = Callable[[ir.Value, ir.Value], bool]

SUMS = {"Add", "Sum"}
FUSED = {"com.microsoft::SkipLayerNormalization"}
ADDS = SUMS | FUSED
"""Operators whose first two inputs are added; FUSED ones normalise the sum, and never broadcast the stream."""

PASSES_ON = {"Dropout", "Identity"}
"""Operators that give what they read, where nothing is trained."""

MOST_BEHIND = 16
"""Nodes that may belong to a block behind its sum: an activation, or a normalisation that is written out."""


@dataclass(frozen=True)
class Block:
    """Nodes that change a value and can be left out.

    Attributes
    ----------
    before, after : onnx_ir.Value
        What is read instead of `after` once the block is gone, of the same shape.
    total : onnx_ir.Value
        The sum of `before` and what is computed of it; `after` is that, or its activation or normalisation.
    nodes : tuple of onnx_ir.Node
        All that lies between, in order.
    parts : tuple of onnx_ir.Value
        Sums of some of the terms alone.
    """

    before: ir.Value
    after: ir.Value
    total: ir.Value
    nodes: tuple[ir.Node, ...]
    parts: tuple[ir.Value, ...] = ()


@dataclass(frozen=True)
class Found:
    """The residual blocks of a graph that hold layers and no other such block, in order.

    Attributes
    ----------
    blocks : list of Block
        What can be left out.
    refused : list of (Block, str)
        What cannot, and why.
    """

    blocks: list[Block]
    refused: list[tuple[Block, str]]


def find_residuals(flow: Flow, same_shape: SameShape) -> Found:
    """Find them; `same_shape` tells whether one value can be read instead of another."""
    every = [block for node in flow.order if (block := _residual(flow, node, same_shape)) is not None]
    open_ = {block.after: reason for block in every if (reason := why_open(flow, block))}
    closed = _innermost(block for block in every if block.after not in open_)
    sums = {block.total.producer() for block in closed}
    refused = [(block, open_[block.after]) for block in every if block.after in open_ if sums.isdisjoint(block.nodes)]
    ends = [_with_end(flow, block, same_shape) for block in closed]
    starts = {block.before: block for block in ends}
    return Found([_up_to_next(flow, block, starts) for block in ends], refused)


def why_open(flow: Flow, block: Block) -> str:
    """Return why a block cannot be left out, since what it computes is read beside it; empty where it is not."""
    later = flow.reached(flow.readers[block.after])
    for value, reader in _side_exits(flow, block):
        if reader is not None and not later.isdisjoint(flow.reached([reader])):
            return f"'{value.name}', which it computes, is read by {edit.label(reader)} too"
    return ""


def kept_outputs(flow: Flow, block: Block) -> list[str]:
    """Name the outputs of the graph that a block computes beside its own value: caches, hidden states."""
    found = set[str]()
    for value, reader in _side_exits(flow, block):
        made = [value] if reader is None else [v for node in flow.reached([reader]) for v in node.outputs]
        found |= {str(each.name) for each in made if each in flow.outputs}
    return sorted(found)


def _side_exits(flow: Flow, block: Block) -> Iterator[tuple[ir.Value, ir.Node | None]]:
    """Yield what a block computes beside its own value, and who reads it; None where the graph gives it."""
    inside = set(block.nodes)
    for value in (value for node in block.nodes for value in node.outputs if value is not block.after):
        yield from ((value, reader) for reader in flow.readers[value] if reader not in inside)
        if value in flow.outputs:
            yield value, None


def _innermost(blocks: Iterable[Block]) -> list[Block]:
    """Return the blocks that hold no other, but for sums of some of their own terms."""
    every = list(blocks)
    parts = {(block.before, part) for block in every for part in block.parts}
    whole = [block for block in every if (block.before, block.total) not in parts]
    sums = {block.total.producer() for block in whole}
    return [block for block in whole if len(sums.intersection(block.nodes)) == 1]


def _residual(flow: Flow, node: ir.Node, same_shape: SameShape) -> Block | None:
    """Return the block whose sum a node is: one of the terms is what the others are computed from."""
    if not _adds(flow, node):
        return None
    total = node.outputs[0]
    for terms, parts in (flow.moving(node), ()), _expanded(flow, node):
        for term in terms:
            source = _source(term)
            others = [other for other in terms if other is not term]
            alike = edit.op_of(node) in FUSED or same_shape(source, total)
            if others and alike and all(flow.between(source, other) for other in others):
                nodes = flow.between(source, total)
                if any(map(flow.is_layer, nodes)):
                    return Block(source, total, total, tuple(nodes), parts)
    return None


def _adds(flow: Flow, node: ir.Node) -> bool:
    """Tell whether a node adds values that inputs of the model decide."""
    return edit.op_of(node) in ADDS and flow.static.isdisjoint(flow.reads[node][:2])


def _expanded(flow: Flow, node: ir.Node) -> tuple[list[ir.Value], tuple[ir.Value, ...]]:
    """Return all that a node adds, where it adds what nothing but it reads and is a sum itself; and those sums."""
    terms, parts = list[ir.Value](), list[ir.Value]()
    todo = flow.moving(node)
    while todo:
        value = todo.pop(0)
        inner = value.producer()
        if inner is not None and edit.op_of(inner) in SUMS and _adds(flow, inner) and flow.is_read_once(value):
            parts.append(value)
            todo += flow.moving(inner)
        else:
            terms.append(value)
    return terms, tuple(parts)


def _source(value: ir.Value) -> ir.Value:
    node = value.producer()
    while node is not None and edit.op_of(node) in PASSES_ON and node.inputs[0] is not None:
        value = node.inputs[0]
        node = value.producer()
    return value


def _with_end(flow: Flow, block: Block, same_shape: SameShape) -> Block:
    """Return a block with the activation or normalisation behind its sum, where the same stands before the block."""
    for value, nodes in reversed(list(_behind(flow, block.total))):
        if same_shape(block.before, value) and _alike(flow, value, block.before, block.total, {}):
            return dataclasses.replace(block, after=value, nodes=(*block.nodes, *nodes))
    return block


def _up_to_next(flow: Flow, block: Block, starts: dict[ir.Value, Block]) -> Block:
    """Return a block with what stands behind its sum, where that is what the next block reads, and ends in itself."""
    if block.after is not block.total:
        return block
    for value, nodes in _behind(flow, block.total):
        following = starts.get(value)
        if following is not None and _alike(flow, value, following.after, block.total, {}):
            return dataclasses.replace(block, after=value, nodes=(*block.nodes, *nodes))
    return block


def _behind(flow: Flow, start: ir.Value) -> Iterator[tuple[ir.Value, tuple[ir.Node, ...]]]:
    """Yield each value that all goes through that follows from `start`, and the nodes up to it: no layers."""
    seen, nodes = {start}, list[ir.Node]()
    while len(nodes) < MOST_BEHIND:
        following = {node for value in seen for node in flow.readers[value]}.difference(nodes)
        node = min(following, key=flow.order.__getitem__, default=None)
        if node is None or flow.is_layer(node) or edit.inner_graphs(node) or not seen.issuperset(flow.moving(node)):
            return
        nodes.append(node)
        seen.update(node.outputs)
        inside = set(nodes)
        open_ = {value for value in seen if value in flow.outputs or not inside.issuperset(flow.readers[value])}
        if open_ == {node.outputs[0]}:
            yield node.outputs[0], tuple(nodes)


def _alike(flow: Flow, one: ir.Value, other: ir.Value, start: ir.Value, met: dict[ir.Value, ir.Value]) -> bool:
    """Tell whether one value is computed from `start` by the operators that another is from something else."""
    if one is start:
        return other not in flow.static and met.setdefault(one, other) is other
    if one in flow.static or other in flow.static:
        return one in flow.static and other in flow.static
    if one in met:
        return met[one] is other
    met[one] = other
    made, like = one.producer(), other.producer()
    if made is None or like is None or edit.op_of(made) != edit.op_of(like) or len(made.inputs) != len(like.inputs):
        return False
    pairs = list(zip(made.inputs, like.inputs, strict=True))
    if any((a is None) != (b is None) for a, b in pairs):
        return False
    return all(_alike(flow, a, b, start, met) for a, b in pairs if a is not None and b is not None)
