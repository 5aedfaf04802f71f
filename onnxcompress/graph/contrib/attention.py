"""Shapes of what attention gives, and of the keys and values that it keeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from ..dims import Dim, Dims, scaled, total
from .call import Call, last

Shapes: TypeAlias = "list[Dims | None]"
"""One for each output, the last ones may be left out."""


def joint(past: int) -> Callable[[Call], Shapes]:
    """Return the rule of attention whose one weight makes queries, keys and values; `past` is the input with those."""

    def rule(call: Call) -> Shapes:
        given, sizes = call.shape(0), call.node.attributes.get_ints("qkv_hidden_sizes", [])
        made = sizes[2] if sizes else scaled(call.shape(1)[1], 1, 3)
        heads = call.number("num_heads")
        before = call.shape(past)[3] if call.has(past) else 0
        shared = call.number("past_present_share_buffer")
        kept = before if shared else total(before, given[-2])
        present = (2, given[0], heads, kept, scaled(made, 1, heads))
        return [last(given, made), present]

    return rule


def packed_joint(call: Call) -> Shapes:
    """The same on rows of tokens, without what fills up sequences."""
    sizes = call.node.attributes.get_ints("qkv_hidden_sizes", [])
    return [last(call.shape(0), sizes[2] if sizes else scaled(call.shape(1)[1], 1, 3))]


def packed(call: Call) -> Shapes:
    """Queries are rows of tokens, without what fills up sequences; so is what is given."""
    query = call.shape(0)
    if call.has(2):
        return [last(query, call.shape(2)[-1])]
    return [(query[0], scaled(query[1], query[3]) if isinstance(query[3], int) else None)]  # (tokens, heads, 3, size)


def _times(a: Dim, b: Dim) -> Dim:
    return a * b if isinstance(a, int) and isinstance(b, int) else None


def multi_head(past: int, shared: bool = False) -> Callable[[Call], Shapes]:
    """Return the rule of attention on queries, keys and values; `past` is the input with keys of the past."""

    def rule(call: Call) -> Shapes:
        query, heads = call.shape(0), call.number("num_heads")
        if len(query) == 5:  # (batch, tokens, heads, 3, size): all in one
            kept = (query[0], heads, query[1], query[4])
            return [(query[0], query[1], _times(heads, query[4])), kept, kept]
        size, width, seen = scaled(query[2], 1, heads), query[2], query[1]
        if call.has(2):
            value = call.shape(2)
            seen = value[2] if len(value) == 4 else value[1]
            width = _times(heads, value[3]) if len(value) == 4 else value[2]
        elif call.has(1):
            seen = call.shape(1)[1]  # (batch, tokens, heads, 2, size)
        before: Dim = call.shape(past)[2] if call.has(past) else 0
        length = before if shared and call.number("past_present_share_buffer") else total(before, seen)
        keys, values = ((query[0], heads, length, n) for n in (size, scaled(width, 1, heads)))
        return [(query[0], query[1], width), keys, values, (query[0], heads, query[1], length)]

    return rule


def grouped(call: Call) -> Shapes:
    """Keys and values have fewer heads than queries; packed ones stand behind the queries."""
    query, heads = call.shape(0), call.number("num_heads")
    fewer = call.number("kv_num_heads", heads)
    width = query[2] if call.has(1) else scaled(query[2], heads, heads + 2 * fewer)
    past = call.shape(3) if call.has(3) else None
    size = scaled(width, 1, heads) if past is None else past[3]
    kept = (query[0], fewer, _seen(call, past, query[1]), size)
    return [(query[0], query[1], width), kept, kept]


def _seen(call: Call, past: Dims | None, tokens: Dim) -> Dim:
    """Return how many keys are kept: those of the past may stand in a tensor that has room for more."""
    before: Dim = 0 if past is None else past[2]
    if before == 0:
        return tokens
    try:
        needed = int(call.values(6).item())
    except (LookupError, ValueError):
        return total(before, tokens)
    return max(before, needed) if isinstance(before, int) else None


def sparse(call: Call) -> Shapes:
    """Blocks of the scores are left out; what is kept has the room of the past."""
    output, _, _ = grouped(call)
    return [output, call.shape(3), call.shape(4)]


def linear(call: Call) -> Shapes:
    """The state holds for each head a product of keys and values."""
    query, value, heads = call.shape(0), call.shape(2), call.number("kv_num_heads")
    sizes = scaled(query[2], 1, call.number("q_num_heads")), scaled(value[2], 1, heads)
    new = None if call.number("state_window") else (query[0], heads, *sizes)
    state = call.shape(3) if call.has(3) else new
    return [last(query, _times(max(call.number("q_num_heads"), heads), sizes[1])), state]
