"""Caches of decoders: inputs that hold what earlier tokens left behind, and the outputs in which they come back longer.

Nothing in an ONNX file says that an input is a cache. It is known by its name, as exporters give it, or because an
attention operator takes it for one; the output that belongs to it is what the operator gives, or has the same name
but for the words that tell past from present.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import onnx_ir as ir

from .nodes import op_of

PAST = r"(past|pkv|cache|mems)(_.*|\..*|\d.*)?|.*(past_(key|value|kv)|(key|value|k|v)_cache).*"
"""Names of inputs that are caches."""

MASK = r"(.*[_.])?(attention_)?mask(_.*)?"
"""Names of inputs that say which tokens count."""

IDS = r"(.*[_.])?(input_|decoder_input_|token_)?(ids|tokens)(_.*)?|token_ids"
"""Names of inputs that are tokens."""

TELLING = r"past_key_values|present_key_values|past_kv|past|present|pkv|new|updated|input|output|in|out|values|cache"
"""Words that tell a cache that is given from one that comes back; not key and value, which tell two caches apart."""

PORTS = {
    "Attention": ((4, 1), (5, 2)),
    "com.microsoft::Attention": ((4, 1),),
    "com.microsoft::DecoderMaskedMultiHeadAttention": ((5, 1), (6, 2)),
    "com.microsoft::GroupQueryAttention": ((3, 1), (4, 2)),
    "com.microsoft::MultiHeadAttention": ((6, 1), (7, 2)),
}
"""Operator → which of its inputs are caches, each with the output in which it comes back."""

LEAST_RANK = 3
"""Caches have axes for the samples, the tokens, and what is kept of each token."""


@dataclass(frozen=True)
class Cache:
    """An input that is a cache.

    Attributes
    ----------
    past : onnx_ir.Value
    present : onnx_ir.Value or None
        The graph's output in which it comes back; None where there is none.
    grows : int or None
        The axis that counts tokens; None where its size is fixed, as that of what an encoder has said once.
    """

    past: ir.Value
    present: ir.Value | None
    grows: int | None

    @property
    def steady(self) -> bool:
        """Whether it comes back as long as it was, or not at all: what an encoder has said."""
        if self.present is None:
            return re.search("encoder|cross", self.past.name or "") is not None
        if self.present.shape is None or self.past.shape is None or self.grows is None:
            return False
        if len(self.present.shape) <= self.grows:
            return False
        before, after = self.past.shape[self.grows], self.present.shape[self.grows]
        return not isinstance(before, int) and before.value is not None and before == after


def find_caches(graph: ir.Graph) -> list[Cache]:
    """Return the caches among a graph's inputs, in their order."""
    read = dict(_read_by_attention(graph))
    named = {_bare(value.name): value for value in graph.outputs}
    found = []
    for value in graph.inputs:
        name = value.name or ""
        known = value in read or re.fullmatch(PAST, name.lower()) is not None
        if not known or value.shape is None or len(value.shape) < LEAST_RANK:
            continue
        present = read.get(value)
        present = named.get(_bare(name)) if present is None or not present.is_graph_output() else present
        found.append(Cache(value, present, _growing(value.shape)))
    return found


def _read_by_attention(graph: ir.Graph) -> Iterator[tuple[ir.Value, ir.Value | None]]:
    for node in graph:
        for taken, given in PORTS.get(op_of(node), ()):
            value = node.inputs[taken] if taken < len(node.inputs) else None
            if value is not None and value.is_graph_input():
                yield value, node.outputs[given] if given < len(node.outputs) else None


def _bare(name: str | None) -> tuple[str, ...]:
    """Return the words of a name that tell caches apart.

    >>> _bare("past_key_values.0.key") == _bare("present.0.key") == ("0", "key")
    True
    """
    name = re.sub(r"(past|present)_key_values?", "past", (name or "").lower())
    words = re.findall(r"[a-z]+|\d+", name)
    return tuple(word for word in words if not re.fullmatch(TELLING, word))


def _growing(shape: ir.Shape) -> int | None:
    """Return the axis that counts tokens: the open one, or of several the one called so, or the last but one."""
    open_axes = [axis for axis, dim in enumerate(shape) if axis and not isinstance(dim, int)]
    if len(open_axes) > 1:
        called = [axis for axis in open_axes if re.search(r"past|seq|len", str(shape[axis]))]
        usual = [axis for axis in open_axes if axis == len(shape) - 2]
        open_axes = called or usual or open_axes
    return open_axes[0] if open_axes else None


Derived: TypeAlias = "str | tuple[str, ...]"
"""What an extent follows from: an expression of names as exporters write it, or names to be added."""


def derived_sizes(graph: ir.Graph) -> dict[str, Derived]:
    """Return extents that follow from others, by their names.

    What exporters write out (``past_sequence_length + sequence_length``) says itself what it is. Where a cache comes
    back longer, its length is that of the past and of the tokens; a mask over both has their length too. An extent
    without a name is called after its input and axis.
    """
    found: dict[str, Derived] = {str(d): str(d) for v in graph.inputs for d in v.shape or () if _is_expression(d)}
    tokens = next((v for v in graph.inputs if re.fullmatch(IDS, (v.name or "").lower()) and v.shape), None)
    longer = [c for c in find_caches(graph) if c.grows is not None and not c.steady]
    if tokens is None or tokens.shape is None or not longer:
        return found
    first = longer[0]
    now, past = _named(tokens, len(tokens.shape) - 1), _named(first.past, first.grows or 0)
    if now is None or past is None:
        return found
    taken = {name for value in graph.inputs if not _is_mask(value) for name in names_of(value)}
    for value in graph.inputs:
        if _is_mask(value) and value.shape is not None and len(value.shape) > 1:
            total = _named(value, len(value.shape) - 1)
            if total is not None and total not in taken and total not in found:
                found[total] = (past, now)
    return found


def _is_expression(dim: int | ir.SymbolicDim) -> bool:
    if isinstance(dim, int) or dim.value is None:
        return False
    try:
        return dim.free_symbols() != {dim.value}
    except ValueError:  # a name with spaces in it
        return False


def _is_mask(value: ir.Value) -> bool:
    return re.fullmatch(MASK, (value.name or "").lower()) is not None


def names_of(value: ir.Value) -> list[str]:
    """Return what the extents of an input are called that are not fixed."""
    found = (_named(value, axis) for axis in range(len(value.shape or ())))
    return [name for name in found if name is not None]


def _named(value: ir.Value, axis: int) -> str | None:
    dim = value.shape[axis] if value.shape is not None else None
    return None if isinstance(dim, int) and dim >= 0 else extent_name(value.name, axis, dim)


def extent_name(name: str | None, axis: int, dim: int | str | ir.SymbolicDim | None) -> str:
    """Return what an open extent is called: its own name, or one after its input and axis."""
    said = dim.value if isinstance(dim, ir.SymbolicDim) else dim
    return said if isinstance(said, str) and said else f"{name}.{axis}"


def evaluate(derived: Derived, sizes: dict[str, int], default: int) -> int:
    """Return what an extent follows from others; names that have no size get the default, and keep it.

    >>> evaluate("past + seq", {"past": 3}, 4)
    7
    """
    if isinstance(derived, tuple):
        return sum(sizes.setdefault(name, default) for name in derived)
    dim = ir.SymbolicDim(derived)
    for name in sorted(dim.free_symbols()):
        sizes.setdefault(name, default)
    found = dim.evaluate({name: sizes[name] for name in dim.free_symbols()})
    return max(int(found), 0) if isinstance(found, int) else default
