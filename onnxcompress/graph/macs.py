"""How many multiply-accumulates a node does: one multiplication and one addition count as one.

Only sums of products count, as is usual: not what works on elements one by one, nor normalisations and pooling.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import TypeAlias

import onnx_ir as ir

from . import edit, operators
from .layer import axes_of, product_of

Shape: TypeAlias = tuple[int, ...]
Given: TypeAlias = Callable[[int], Shape]
"""Returns the shape of an input; raises `LookupError` where it is not known or there is no such input."""

Counter: TypeAlias = Callable[[ir.Node, Given, Callable[[], Shape]], int]
"""Takes the node, the shapes of its inputs and that of its first output."""


def _conv(node: ir.Node, given: Given, out: Callable[[], Shape]) -> int:
    transposed, weight = axes_of(node, 1, 2).output, given(1)
    return prod(given(0) if transposed else out()) * prod(weight[1:])  # each element of its input is spread


def _integer_conv(node: ir.Node, given: Given, out: Callable[[], Shape]) -> int:
    weight = next(data for role, data, _, _ in operators.OPERANDS[edit.op_of(node)] if role == "weight")
    return prod(out()) * prod(given(weight or 0)[1:])


def _product(a: int = 0, b: int = 1) -> Counter:
    def count(node: ir.Node, given: Given, out: Callable[[], Shape]) -> int:
        shape, summed = product_of(node, given(a), given(b))
        return prod(int(dim or 0) for dim in (*shape, summed))

    return count


def _packed(node: ir.Node, given: Given, out: Callable[[], Shape]) -> int:
    return prod(given(0)[:-1]) * edit.int_attribute(node, "K", 0) * edit.int_attribute(node, "N", 0)


def in_a_byte(node: ir.Node, dtype: ir.DataType | None) -> int:
    """Return how many weights a byte of such an operator's weights holds; 1 for types that say so themselves."""
    bits = edit.int_attribute(node, "bits", edit.int_attribute(node, "expert_weight_bits", 4))
    return 8 // bits if dtype == ir.DataType.UINT8 else 1


def _experts(*weights: int) -> Counter:
    """Return the count where each token goes through `k` of the experts, whose weights stand one behind the other."""

    def count(node: ir.Node, given: Given, out: Callable[[], Shape]) -> int:
        rows, chosen = prod(given(0)[:-1]), edit.int_attribute(node, "k", 1)
        used = [index for index in weights if index < len(node.inputs) and node.inputs[index] is not None]
        if len(used) < 2:  # into the experts, and out of them
            raise LookupError
        each = (prod(given(i)[1:]) * in_a_byte(node, edit.required(node, i).dtype) for i in used)
        return rows * chosen * sum(each)

    return count


def _recurrent(node: ir.Node, given: Given, out: Callable[[], Shape]) -> int:
    return prod(given(0)[:2]) * (prod(given(1)) + prod(given(2)))


def _given_or_none(node: ir.Node, given: Given, index: int) -> Shape | None:
    present = index < len(node.inputs) and node.inputs[index] is not None
    return given(index) if present else None


def _projecting(past: int) -> Counter:
    """Return the count for attention that makes queries, keys and values itself."""

    def count(node: ir.Node, given: Given, out: Callable[[], Shape]) -> int:
        batch, tokens, width = given(0)
        sizes = node.attributes.get("qkv_hidden_sizes")
        query, _, value = [given(1)[1] // 3] * 3 if sizes is None else sizes.as_ints()
        before = _given_or_none(node, given, past)
        seen = tokens + (before[3] if before else 0)
        return batch * tokens * (width * given(1)[1] + seen * (query + value))

    return count


def _attention(past: int) -> Counter:
    """Return the count for attention on queries, keys and values, with or without what came before."""

    def count(node: ir.Node, given: Given, out: Callable[[], Shape]) -> int:
        query, key, value = (_given_or_none(node, given, index) for index in range(3))
        assert query is not None
        before = _given_or_none(node, given, past)
        if len(query) == 4:  # (batch, heads, tokens, size)
            assert key is not None
            assert value is not None
            batch, heads, tokens, size = query
            return batch * heads * tokens * (key[2] + (before[2] if before else 0)) * (size + value[3])
        if len(query) == 5:  # (batch, tokens, heads, 3, size): all in one
            batch, tokens, heads, _, size = query
            return batch * heads * tokens * tokens * 2 * size
        heads = edit.int_attribute(node, "num_heads", 0) or edit.int_attribute(node, "q_num_heads", 0)
        fewer = edit.int_attribute(node, "kv_num_heads", 0) or heads
        batch, tokens, width = query
        if key is None or value is None:
            size = width // (heads + 2 * fewer) if key is None else width // heads
            seen, other = tokens if key is None else key[1], size
        else:
            size, seen = width // heads, key[2] if len(key) == 4 else key[1]
            other = value[3] if len(value) == 4 else value[2] // fewer
        return batch * heads * tokens * (seen + (before[2] if before else 0)) * (size + other)

    return count


def _einsum(node: ir.Node, given: Given, out: Callable[[], Shape]) -> int:
    """Count two operands after the other, as onnxruntime does; what only one of them has is summed before."""
    text = "".join(node.attributes["equation"].as_string().split())
    read, _, kept = text.partition("->")
    terms: list[set[str]] = []
    sizes: dict[str, int] = {}
    for index, term in enumerate(read.split(",")):
        shape = given(index)
        dots = len(shape) - len(term.replace("...", ""))
        labels = [*term] if "..." not in term else _expanded(term, dots)
        for label, size in zip(labels, shape, strict=True):
            sizes[label] = max(size, sizes.get(label, 1))
        terms.append(set(labels))
    every = [*read.replace(".", "").replace(",", "")]
    last = {*kept.replace(".", "")} if "->" in text else {label for label in every if every.count(label) == 1}
    last |= {label for label in sizes if len(label) > 1}
    count, done = 0, terms[0]
    for index, other in enumerate(terms[1:], 1):
        later = last.union(*terms[index + 1 :])
        both = (done & (other | later)) | (other & (done | later))
        count += prod(sizes[label] for label in both)
        done = both & later
    return count


def _expanded(term: str, dots: int) -> list[str]:
    """Return the labels of a term, with those of the axes that the dots stand for counted from the last."""
    before, after = term.split("...")
    return [*before, *(f"...{dots - index}" for index in range(dots)), *after]


FAMILIES: dict[operators.Family, Counter] = {"convolution": _conv, "product": _product(), "recurrent": _recurrent}

COUNTERS: dict[str, Counter] = {
    **{op: FAMILIES[family] for op in operators.LAYERS if (family := operators.facts(op).family) in FAMILIES},
    "Attention": _attention(4),
    "ConvInteger": _integer_conv,
    "Einsum": _einsum,
    "MatMulInteger": _product(),
    "QLinearConv": _integer_conv,
    "QLinearMatMul": _product(0, 3),
    "com.microsoft::Attention": _projecting(4),
    "com.microsoft::DynamicQuantizeLSTM": _recurrent,
    "com.microsoft::DynamicQuantizeMatMul": _product(),
    "com.microsoft::GroupQueryAttention": _attention(3),
    "com.microsoft::MatMulBnb4": _packed,
    "com.microsoft::MatMulIntegerToFloat": _product(),
    "com.microsoft::MatMulNBits": _packed,
    "com.microsoft::MoE": _experts(2, 4, 6),
    "com.microsoft::MultiHeadAttention": _attention(6),
    "com.microsoft::NhwcFusedConv": _conv,
    "com.microsoft::QAttention": _projecting(8),
    "com.microsoft::QGemm": _product(0, 3),
    "com.microsoft::QMoE": _experts(*operators.PACKED["com.microsoft::QMoE"][0]),
    "com.microsoft::QLinearConv": _integer_conv,
}

NOT_COUNTED = {
    "DeformConv",
    "com.microsoft::LinearAttention",
    "com.microsoft::PackedAttention",
    "com.microsoft::PackedMultiHeadAttention",
    "com.microsoft::QOrderedMatMul",
    "com.microsoft::SparseAttention",
}
"""They multiply, and nothing here knows how often."""

KNOWN_DOMAINS = {"", "ai.onnx", "ai.onnx.ml", "com.microsoft"}
"""What an operator of another domain does, nobody knows."""


def multiplies(node: ir.Node) -> bool:
    """Tell whether a node sums products, or may do so."""
    op = edit.op_of(node)
    return op in COUNTERS or op in NOT_COUNTED or node.domain not in KNOWN_DOMAINS


def count(node: ir.Node, shape_of: Callable[[ir.Value], Shape | None]) -> int | None:
    """Return how many multiply-accumulates a node does; None where that is not known, 0 where it does none.

    Parameters
    ----------
    node : onnx_ir.Node
    shape_of : callable
        Returns the shape of a tensor; None where it is not known.
    """
    counter = COUNTERS.get(edit.op_of(node))
    if counter is None:
        return None if multiplies(node) else 0

    def known(value: ir.Value | None) -> Shape:
        shape = None if value is None else shape_of(value)
        if shape is None or any(size < 0 for size in shape):
            raise LookupError
        return shape

    try:
        return counter(node, lambda index: known(node.inputs[index]), lambda: known(node.outputs[0]))
    except (LookupError, ValueError):
        return None
