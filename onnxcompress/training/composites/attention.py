"""Attention: ONNX's own and onnxruntime's two, as products and a Softmax.

A. Vaswani et al., "Attention Is All You Need", arXiv:1706.03762.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from ..rules.step import Step
from ..rules.tape import Tensor
from .composite import Composite, Results, extents, given, reads_more

HIDDEN = -1e30
"""What is added where a query may not look: small enough that exp makes it zero, and no infinity."""


def attend(step: Step, query: Tensor, key: Tensor, value: Tensor, biases: list[Tensor], *, scale: float) -> Tensor:
    """Attend with operands [batch, heads, positions, size]."""
    tape = step.tape
    scores = tape.op("MatMul", query * scale, key.transpose(0, 1, 3, 2))
    for bias in biases:
        scores = scores + bias
    return tape.op("MatMul", tape.op("Softmax", scores, axis=-1), value)


def apart(tensor: Tensor, heads: int) -> Tensor:
    """Return heads [batch, heads, positions, size] of what holds them side by side."""
    return tensor.reshape([0, 0, heads, -1]).transpose(0, 2, 1, 3)


def together(tensor: Tensor) -> Tensor:
    """Put heads side by side."""
    return tensor.transpose(0, 2, 1, 3).reshape([0, 0, -1])


def _causal(query: Tensor, key: Tensor, past: Tensor | None = None) -> Tensor:
    """Hide what comes later; `past` is how many keys come before the first query."""
    tape = query.tape
    numbers = []
    for tensor in (query, key):
        length = tape.op("Squeeze", tape.op("Shape", tensor, start=2, end=3))
        zero, one = (tape.of(np.array(n, np.int64)) for n in (0, 1))
        numbers.append(tape.op("Range", zero, length, one))
    asks = numbers[0] if past is None else numbers[0] + past
    later = asks.unsqueeze(1) < numbers[1].unsqueeze(0)
    return later.number() * HIDDEN


def _padding(step: Step, mask: Tensor, rank: int) -> Tensor:
    """Hide what a mask of integers has a zero for."""
    hidden = (1.0 - mask.number()) * step.number("mask_filter_value", -10000.0)
    return hidden.unsqueeze(1, 2) if rank == 2 else hidden.unsqueeze(1)


def scale_of(step: Step, size: int) -> float:
    """Return what scores are multiplied by."""
    return step.number("scale", 0.0) or 1 / math.sqrt(size)


def _joint(step: Step) -> Results:
    """Write com.microsoft's Attention, whose one weight makes queries, keys and values."""
    heads, width = step.integer("num_heads", 1), int((step.dims(step.input(1)) or ())[1])  # type: ignore[arg-type]
    sizes = list(step.node.attributes.get_ints("qkv_hidden_sizes", [width // 3] * 3))
    made = step.tape.op("MatMul", step.x, step.input(1))
    made = made + step.input(2) if step.has(2) else made
    parts = step.tape.ops("Split", made, step.tape.ints(*sizes), axis=-1, outputs=3)
    query, key, value = (apart(part, heads) for part in parts)
    biases = [_padding(step, step.input(3), step.rank(3))] if step.has(3) else []
    biases += [step.input(5)] if step.has(5) else []
    biases += [_causal(query, key)] if step.integer("unidirectional", 0) else []
    return [together(attend(step, query, key, value, biases, scale=scale_of(step, sizes[0] // heads)))]


def _unfit_joint(node: ir.Node) -> str:
    if given(node, 4, 6) or reads_more(node, 1):
        return "with keys and values of the past"
    if node.attributes.get_int("do_rotary", 0):
        return "with rotary embeddings in it"
    if not extents(node.inputs[1]) or None in extents(node.inputs[1]):
        return "where the shape of its weight is not known"
    return _unfit_mask(node, 3)


def _unfit_mask(node: ir.Node, index: int) -> str:
    if not given(node, index):
        return ""
    return "" if len(extents(node.inputs[index])) in (2, 3) else "with a mask that says lengths"


def _multi_head(step: Step) -> Results:
    """Write com.microsoft's MultiHeadAttention, which gets queries, keys and values."""
    heads, width = step.integer("num_heads", 1), int((step.dims(step.x) or ())[2])  # type: ignore[arg-type]
    operands = [step.input(index) for index in range(3)]
    if step.has(3):
        last = step.dims(operands[2]) or ()
        sizes = [width, width, int(last[2]) if len(last) == 3 else width]  # type: ignore[arg-type]
        parts = step.tape.ops("Split", step.input(3), step.tape.ints(*sizes), axis=0, outputs=3)
        operands = [
            a if step.rank(i) > 3 else a + part for i, (a, part) in enumerate(zip(operands, parts, strict=True))
        ]
    query, key, value = (a if step.rank(i) > 3 else apart(a, heads) for i, a in enumerate(operands))
    biases = [_padding(step, step.input(4), step.rank(4))] if step.has(4) else []
    biases += [step.input(5)] if step.has(5) else []
    biases += [_causal(query, key)] if step.integer("unidirectional", 0) else []
    return [together(attend(step, query, key, value, biases, scale=scale_of(step, width // heads))), key, value]


def _unfit_multi_head(node: ir.Node) -> str:
    if given(node, 6, 7, 8, 9) or reads_more(node, 3):
        return "with keys and values of the past"
    query = extents(node.inputs[0])
    ranks = [len(extents(node.inputs[i])) if given(node, i) else 0 for i in (1, 2)]
    if len(query) != 3 or query[2] is None or not all(rank in (3, 4) for rank in ranks):
        return "where queries, keys and values are packed, or their shapes are not known"
    last = extents(node.inputs[2])
    if given(node, 3) and len(last) == 3 and last[2] is None:
        return "where the size of its values is not known"
    return _unfit_mask(node, 4)


def _own(step: Step) -> Results:
    """Write ONNX's own Attention."""
    operands = [step.input(index) for index in range(3)]
    flat = step.rank() == 3
    heads = [_heads(step.node, index) for index in range(3)]
    if flat:
        operands = [apart(a, count) for a, count in zip(operands, heads, strict=True)]
    query, *kept = operands
    past = step.tape.of(np.array(0, np.int64))
    if step.has(4):
        past = step.tape.op("Squeeze", step.tape.op("Shape", step.input(4), start=2, end=3))
        kept = [step.tape.op("Concat", step.input(4 + i), tensor, axis=2) for i, tensor in enumerate(kept)]
    key, value = kept
    group = heads[0] // heads[1]
    if group > 1:
        key, value = (repeated(a, group, heads[0]) for a in (key, value))
    last = int((step.dims(step.x) or ())[-1])  # type: ignore[arg-type]
    scale = scale_of(step, last // heads[0] if flat else last)
    biases = [_mask(step)] if step.has(3) else []
    biases += [_causal(query, key, past)] if step.integer("is_causal", 0) else []
    made = attend(step, query, key, value, biases, scale=scale)
    return [together(made) if flat else made, *(step.tape.op("Identity", tensor) for tensor in kept)]


def _mask(step: Step) -> Tensor:
    mask, value = step.input(3), step.node.inputs[3]
    boolean = value is not None and value.dtype == ir.DataType.BOOL
    return (1.0 - mask.number()) * HIDDEN if boolean else mask


def repeated(tensor: Tensor, group: int, heads: int) -> Tensor:
    """Let each head of keys or values serve a group of heads that ask."""
    tape = tensor.tape
    wide = tape.op("Expand", tensor.unsqueeze(2), tape.ints(1, 1, group, 1, 1))
    first, rest = tape.op("Shape", tensor, start=0, end=1), tape.op("Shape", tensor, start=2)
    return wide.reshape(tape.op("Concat", first, tape.ints(heads), rest, axis=0))


def _heads(node: ir.Node, index: int) -> int:
    shape = extents(node.inputs[index])
    name = "kv_num_heads" if index else "q_num_heads"
    return int(shape[1] or 0) if len(shape) == 4 else node.attributes.get_int(name, 0)


def _unfit_own(node: ir.Node) -> str:
    if given(node, 6) or given(node, 4) != given(node, 5) or reads_more(node, 3):
        return "with a length of the keys of its own, or where its scores are read"
    if node.attributes.get_float("softcap", 0.0):
        return "with softcap"
    if any(node.attributes.get_int(name, -1) >= 0 for name in ("left_window_size", "right_window_size")):
        return "with a window"
    shapes = [extents(value) for value in node.inputs[:3]]
    if not shapes[0] or shapes[0][-1] is None or not all(shapes) or not all(_heads(node, i) for i in range(3)):
        return "where shapes of queries, keys and values are not known"
    return (
        ""
        if node.inputs[3:4] in ([], (), (None,)) or extents(node.inputs[3])
        else "where the rank of its mask is not known"
    )


COMPOSITES: dict[str, Composite] = {
    "Attention": Composite(_own, _unfit_own),
    "com.microsoft::Attention": Composite(_joint, _unfit_joint),
    "com.microsoft::MultiHeadAttention": Composite(_multi_head, _unfit_multi_head),
}
