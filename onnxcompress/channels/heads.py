"""Attention in one operator: heads, groups of heads that share keys and values, and what each head has of a query.

A hidden axis of h heads with d numbers each carries products: (head, number). Where r queries share a key, the head of
a query is itself a product of the key's head, which takes its cache along, and of the place among the r: what goes
there goes from every group.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from ..graph import edit
from .engine import Engine, Sink
from .head_labels import Heads, crossed, joined_one_after_another
from .labels import Rows


def _read(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None


def _join(engine: Engine, node: ir.Node, value: ir.Value | None, axes: dict[int, Rows]) -> None:
    """Give axes of a value these labels, and freeze the others."""
    if value is None:
        return
    rank = len(engine.shape(value))
    for axis, rows in axes.items():
        if rows.shape[1] > 1:
            engine.join(node, engine.axes(value)[axis], rows)
    others = [axis for axis in range(rank) if axis not in {a % rank for a in axes}]
    engine.freeze_axes(value, others, f"{edit.label(node)}: an axis that is no head")


def _label_operand(engine: Engine, node: ir.Node, value: ir.Value | None, heads: Heads, kind: str) -> None:
    """Label queries, keys or values: rows of (tokens, hidden), or (heads, tokens, size)."""
    if value is None:
        return
    if len(engine.shape(value)) == 4:
        outer = heads.queries() if kind == "queries" else heads.groups
        _join(engine, node, value, {1: outer, 3: heads.values if kind == "values" else heads.size})
    else:
        _join(engine, node, value, {-1: heads.hidden(kind)})


def _label_mask(engine: Engine, node: ir.Node, mask: ir.Value | None, heads: Heads) -> None:
    """A mask may have one slice for each head."""
    if mask is None:
        return
    shape, queries = engine.shape(mask), heads.queries()
    each = len(shape) > 2 and shape[-3] == queries.shape[1] > 1
    _join(engine, node, mask, {-3: queries} if each else {})


def _set_outputs(engine: Engine, node: ir.Node, heads: Heads) -> None:
    """Label the result, the keys and values that are kept, and the scores."""
    kinds = [heads.values, heads.size, heads.values]
    for place, value in enumerate(node.outputs):
        rank = len(engine.shape(value))
        if place == 0 and rank == 3:
            engine.set(value, [None, None, heads.hidden("result")])
        elif rank == 4:
            outer = heads.groups if place in (1, 2) else heads.queries()
            inner = kinds[place] if place < 3 else None
            engine.set(value, [None, outer, None, inner])
        else:
            engine.set(value, [None] * rank)


def _sum_over_size(engine: Engine, node: ir.Node, query: ir.Value, heads: Heads, before: int = 0) -> None:
    """Note that queries and keys are multiplied and summed: what is zero in the queries can go."""
    n = engine.shape(query)[-1]
    rows = np.resize(heads.size, (1, heads.queries().shape[1] * heads.size.shape[1]))
    if len(engine.shape(query)) == 4:
        rows = heads.size
    rows = np.pad(rows, ((0, 0), (before, n - before - rows.shape[1])))
    engine.sinks.append(Sink(node, query, len(engine.shape(query)) - 1, None, 0, 0, 1, rows))


def attention(engine: Engine, node: ir.Node) -> str:
    """Label ONNX's own Attention (opset 23)."""
    query, key, value = (edit.required(node, index) for index in range(3))
    flat = len(engine.shape(query)) == 3
    count = edit.int_attribute(node, "q_num_heads", 0) if flat else engine.shape(query)[1]
    kept = edit.int_attribute(node, "kv_num_heads", 0) if flat else engine.shape(key)[1]
    if not count or not kept or count % kept:
        return "its numbers of heads do not fit"
    sizes = [engine.shape(v)[-1] // (n if flat else 1) for v, n in ((query, count), (value, kept))]
    heads = Heads.fresh(engine.labels, count, kept, *sizes)
    for index, kind in ((0, "queries"), (1, "keys"), (2, "values"), (4, "keys"), (5, "values")):
        _label_operand(engine, node, _read(node, index), heads, kind)
    _label_mask(engine, node, _read(node, 3), heads)
    _finish(engine, node, heads, query)
    return ""


def multi_head_attention(engine: Engine, node: ir.Node) -> str:
    """Label onnxruntime's attention on queries, keys and values apart."""
    query, value = edit.required(node, 0), _read(node, 2)
    count = edit.int_attribute(node, "num_heads", 0)
    if value is None or len(engine.shape(query)) != 3 or not count:
        return "queries, keys and values are packed"
    width = engine.shape(value)[3] * count if len(engine.shape(value)) == 4 else engine.shape(value)[2]
    heads = Heads.fresh(engine.labels, count, count, engine.shape(query)[2] // count, width // count)
    for index, kind in ((0, "queries"), (1, "keys"), (2, "values"), (6, "keys"), (7, "values")):
        _label_operand(engine, node, _read(node, index), heads, kind)
    _join(engine, node, _read(node, 3), {0: _packed(heads)})
    _label_mask(engine, node, _read(node, 5), heads)
    _finish(engine, node, heads, query)
    return ""


def _packed(heads: Heads) -> Rows:
    return joined_one_after_another(*(heads.hidden(kind) for kind in ("queries", "keys", "values")))


def grouped_attention(engine: Engine, node: ir.Node) -> str:
    """Label onnxruntime's attention with fewer heads of keys and values; its kernels want heads of certain sizes."""
    query, key = edit.required(node, 0), _read(node, 1)
    count = edit.int_attribute(node, "num_heads", 0)
    kept = edit.int_attribute(node, "kv_num_heads", 0) or count
    if not count or count % kept:
        return "its numbers of heads do not fit"
    if any(_read(node, index) is not None for index in (12, 13)):
        return "its cache is quantized"
    size = engine.shape(query)[-1] // (count + 2 * kept if key is None else count)
    heads = Heads.fresh(engine.labels, count, kept, size, size)
    engine.labels.freeze(heads.size, f"{edit.label(node)}: the size of its heads stays")
    engine.labels.freeze(heads.values, f"{edit.label(node)}: the size of its heads stays")
    if key is None:
        _join(engine, node, query, {-1: _packed(heads)})
    else:
        for index, kind in ((0, "queries"), (1, "keys"), (2, "values")):
            _label_operand(engine, node, _read(node, index), heads, kind)
    for index, kind in ((3, "keys"), (4, "values")):
        _label_operand(engine, node, _read(node, index), heads, kind)
    _label_mask(engine, node, _read(node, 10), heads)
    sink = _read(node, 11)
    _join(engine, node, sink, {0: heads.queries()})
    _finish(engine, node, heads, None)
    return ""


def joint_attention(engine: Engine, node: ir.Node) -> str:
    """Label onnxruntime's attention whose one weight makes queries, keys and values."""
    data, weight = edit.required(node, 0), edit.required(node, 1)
    count, width = edit.int_attribute(node, "num_heads", 0), engine.shape(weight)[1]
    sizes = edit.ints_attribute(node, "qkv_hidden_sizes") or (width // 3,) * 3
    if not count or sizes[0] != sizes[1]:
        return "its hidden sizes do not fit"
    heads = Heads.fresh(engine.labels, count, count, sizes[0] // count, sizes[2] // count)
    if edit.int_attribute(node, "do_rotary", 0):
        engine.labels.freeze(heads.size, f"{edit.label(node)} turns it")
    past = _read(node, 4)
    if sizes[0] == sizes[2]:
        engine.join(node, heads.size, heads.values)  # of each something must stay
    else:
        engine.labels.freeze(heads.size, f"{edit.label(node)}: the size of its heads stays")
        engine.labels.freeze(heads.values, f"{edit.label(node)}: the size of its heads stays")
    if past is not None:
        _join(engine, node, past, {2: heads.groups, 4: heads.size})
    rows = engine.join(node, engine.axes(data)[-1], engine.axes(weight)[0])
    if rows is not None:
        engine.sinks.append(Sink(node, data, len(engine.shape(data)) - 1, weight, 0, 1, 1, rows))
    engine.freeze_axes(data, range(len(engine.shape(data)) - 1), f"{edit.label(node)}: an axis that is no head")
    for value, axis in ((weight, 1), (_read(node, 2), 0)):
        if value is not None:
            engine.join(node, engine.axes(value)[axis], _packed(heads))
            _sum_over_size(engine, node, value, heads)
    _label_mask(engine, node, _read(node, 5), heads)
    _finish(engine, node, heads, None)
    for value in node.outputs[1:]:
        rank = len(engine.shape(value))
        engine.set(value, [None, None, heads.groups, None, heads.size] if rank == 5 else [None] * rank)
    return ""


def _finish(engine: Engine, node: ir.Node, heads: Heads, query: ir.Value | None) -> None:
    if query is not None:
        _sum_over_size(engine, node, query, heads)
    _set_outputs(engine, node, heads)
    engine.heads[node] = heads


def rotary_embedding(engine: Engine, node: ir.Node) -> str:
    """Turn pairs of numbers: both of a pair go together, with their column of the cosines and sines."""
    contrib = edit.op_of(node).startswith("com.microsoft")
    data, caches = edit.required(node, 0), [edit.required(node, index) for index in ((2, 3) if contrib else (1, 2))]
    shape, half = engine.shape(data), engine.shape(caches[0])[-1]
    count = edit.int_attribute(node, "num_heads", 0)
    size = shape[3] if len(shape) == 4 else shape[-1] // count if count else 2 * half
    if 2 * half > size or shape[-1] % size:
        return "its cosines do not fit the size of a head"
    labels = engine.labels
    heads = Heads(labels.fresh(shape[-1] // size), labels.fresh(1), labels.fresh(size), labels.fresh(1))
    turned = heads.size[:, : 2 * half]
    apart = bool(edit.int_attribute(node, "interleaved", 0))
    first, second = (turned[:, ::2], turned[:, 1::2]) if apart else (turned[:, :half], turned[:, half:])
    labels.join(first, second, f"{edit.label(node)} turns them together")
    for cache in caches:
        _join(engine, node, cache, {-1: first})
    axes = list(engine.axes(data))
    rows = heads.size if len(shape) == 4 else crossed(heads.groups, heads.size)
    axes[-1] = engine.join(node, axes[-1], rows)
    engine.set(node.outputs[0], axes)
    engine.heads[node] = replace(heads, values=first)
    return ""


Label = Callable[[Engine, ir.Node], str]
"""Labels a node, or says why it cannot."""

HEADS: dict[str, Label] = {
    "Attention": attention,
    "RotaryEmbedding": rotary_embedding,
    "com.microsoft::Attention": joint_attention,
    "com.microsoft::GroupQueryAttention": grouped_attention,
    "com.microsoft::MultiHeadAttention": multi_head_attention,
    "com.microsoft::RotaryEmbedding": rotary_embedding,
}


def with_heads(heads: Heads, left: Callable[[Rows], int], node: ir.Node, packed: Sequence[int]) -> None:
    """Set what a node says of its heads, once `left` of each row of labels are left."""
    groups, inside, size, values = (left(rows) for rows in (heads.groups, heads.inside, heads.size, heads.values))
    if edit.op_of(node).endswith("RotaryEmbedding"):
        if edit.int_attribute(node, "num_heads", 0):
            edit.set_attribute(node, "num_heads", groups)
        if edit.int_attribute(node, "rotary_embedding_dim", 0):
            edit.set_attribute(node, "rotary_embedding_dim", 2 * values)
        return
    for name, count in {"num_heads": groups * inside, "q_num_heads": groups * inside, "kv_num_heads": groups}.items():
        if name in node.attributes:
            edit.set_attribute(node, name, count)
    if size < heads.size.shape[1] and not node.attributes.get_float("scale", 0.0):
        node.attributes["scale"] = ir.AttrFloat32("scale", 1 / math.sqrt(heads.size.shape[1]))
    if packed and (len(set(packed)) > 1 or "qkv_hidden_sizes" in node.attributes):
        edit.set_attribute(node, "qkv_hidden_sizes", list(packed))
