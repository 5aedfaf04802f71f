"""The blocks of a model: what they are called, what means them, and what stays of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

import onnx_ir as ir

from onnxcompress.contract import MODEL, Refusal
from onnxcompress.graph import edit, shapes
from onnxcompress.graph.cost import parameters
from onnxcompress.selection import Subject

from .bypass import Bypass
from .chains import joined
from .flow import Flow
from .residual import Block, SameShape, find_residuals, kept_outputs

NONE = "it has no residual blocks: layers whose result is added to what they read, in the same shape"


@dataclass
class FoundBlocks:
    """The blocks of a model, in order.

    Attributes
    ----------
    bypasses : list of Bypass
        What can be left out.
    subjects : dict
        Block → what a selection may mean it by.
    kept : dict
        Block → outputs of the model that it computes beside its own value.
    refused : list of Refusal
        Blocks that cannot be left out.
    """

    bypasses: list[Bypass] = field(default_factory=list)
    subjects: dict[str, Subject] = field(default_factory=dict)
    kept: dict[str, list[str]] = field(default_factory=dict)
    refused: list[Refusal] = field(default_factory=list)


def find_blocks(model: ir.Model) -> FoundBlocks:
    """Find the blocks of a model without local functions."""
    flow = Flow(model.graph)
    known = find_residuals(flow, _known_alike(model))
    blocks = joined(flow, known.blocks)
    found, sizes = FoundBlocks(), parameters(model)
    for block, name in zip(blocks, _names(flow, blocks), strict=True):
        constants = _constants(flow, block)
        count = sum(sizes.get(str(value.name), 0) for value in constants)
        what = f"{len(block.nodes)} nodes with {count:,} parameters"
        found.bypasses.append(Bypass(name, str(block.before.name), str(block.after.name), what))
        found.kept[name] = kept_outputs(flow, block)
        found.subjects[name] = subject = Subject({name, *(str(value.name) for value in constants)})
        for node in block.nodes:
            subject.add_node(node)
    found.refused += [Refusal(str(block.after.name), reason) for block, reason in known.refused]
    found.refused += _inside(model)
    if not blocks and not found.refused:
        found.refused.append(Refusal(MODEL, NONE))
    return found


def _known_alike(model: ir.Model) -> SameShape:
    """Return what tells whether two values have the same shape, whatever the size of the inputs."""
    both = shapes.concrete_twice(model)

    def same_shape(one: ir.Value, other: ir.Value) -> bool:
        return _alike_in_type(one, other) and all(
            one in k.shapes and k.shapes[one] == k.shapes.get(other) for k in both
        )

    return same_shape


def _inside(model: ir.Model) -> list[Refusal]:
    """Return the nodes with blocks in inner graphs, which stay; shapes are mostly not known there."""
    refused = []
    for node in model.graph.all_nodes():
        count = sum(len(find_residuals(Flow(graph), _alike_in_type).blocks) for graph in edit.inner_graphs(node))
        if count:
            reason = f"it has {count} residual blocks inside, and only those of the main graph can go"
            refused.append(Refusal(edit.label(node), reason))
    return refused


def _alike_in_type(one: ir.Value, other: ir.Value) -> bool:
    return one.dtype == other.dtype or None in (one.dtype, other.dtype)


def _names(flow: Flow, blocks: Collection[Block]) -> list[str]:
    """Call each block by what the names of its layers begin with, or by its value where that means no block alone."""
    names = [_common([node.name or "" for node in block.nodes if flow.is_layer(node)]) for block in blocks]
    count = Counter(names)
    nested = {name for name in names for other in names if name != other and f"{other}/".startswith(f"{name}/")}
    return [
        name if name and count[name] == 1 and name not in nested else str(block.after.name)
        for name, block in zip(names, blocks, strict=True)
    ]


def _common(names: list[str]) -> str:
    """Return the folder that names of the form a/b/c share.

    >>> _common(["/m/layer.0/attention/query/MatMul", "/m/layer.0/output/MatMul"]), _common(["a", "b"])
    ('/m/layer.0', '')
    """
    parts = []
    for level in zip(*(name.split("/")[:-1] for name in names), strict=False):
        if len(set(level)) > 1:
            break
        parts.append(level[0])
    return "/".join(parts)


def _constants(flow: Flow, block: Block) -> list[ir.Value]:
    """Return the constants that only the block reads, directly or through what is computed of constants."""
    inside, found = set(block.nodes), list[ir.Value]()
    todo = [value for node in block.nodes for value in flow.reads[node] if value in flow.static]
    seen = set[ir.Value]()
    while todo:
        value = todo.pop(0)
        if value in seen or not inside.issuperset(flow.readers[value]):
            continue
        seen.add(value)
        node = value.producer()
        if node is not None and edit.constant(value) is None:
            inside.add(node)
            todo += flow.reads[node]
        elif edit.constant(value) is not None:
            found.append(value)
    return found
