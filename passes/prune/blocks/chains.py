"""Takes residual blocks together that repeat together: attention and what follows it are one layer of a transformer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from onnxcompress.graph import constants

from .flow import Flow
from .residual import Block

Kind = tuple[tuple[str, tuple[int, ...]], ...]
"""What tells one kind of block from another: the operators of its layers, with the shapes of their weights."""


def joined(flow: Flow, blocks: Sequence[Block]) -> list[Block]:
    """Return blocks in order, those as one that follow each other and repeat as a whole."""
    chains = [[(block, _kind(flow, block)) for block in chain] for chain in _chains(blocks)]
    alike = Counter(tuple(kind for _, kind in chain) for chain in chains)
    found = []
    for chain in chains:
        kinds = tuple(kind for _, kind in chain)
        period = _period(kinds)
        if period == len(kinds) and alike[kinds] == 1:
            period = 1
        parts = [block for block, _ in chain]
        found += [_one(parts[start : start + period]) for start in range(0, len(parts), period)]
    return sorted(found, key=lambda block: flow.place(block.after))


def _chains(blocks: Sequence[Block]) -> list[list[Block]]:
    """Return the blocks in chains, in which each reads what the one before it gives."""
    starts = {block.before: block for block in blocks}
    ends = {block.after for block in blocks}
    chains = []
    for block in blocks:
        if block.before not in ends:
            chain = [block]
            while (following := starts.get(chain[-1].after)) is not None:
                chain.append(following)
            chains.append(chain)
    return chains


def _period(kinds: Sequence[Kind]) -> int:
    """Return after how many a sequence repeats: its length, where it does not.

    >>> _period("ababab"), _period("aaa"), _period("abc")
    (2, 1, 3)
    """
    lengths = (length for length in range(1, len(kinds) + 1) if len(kinds) % length == 0)
    return next(n for n in lengths if all(kind == kinds[place % n] for place, kind in enumerate(kinds)))


def _kind(flow: Flow, block: Block) -> Kind:
    found = []
    for node in block.nodes:
        if flow.is_layer(node):
            weights = [constants.root(value, dequantized=True) for value in node.inputs]
            shapes = [tuple(w.shape.numpy()) for w in weights if w is not None and w.shape is not None]
            found.append((node.op_type, max(shapes, key=len, default=())))
    return tuple(sorted(found))


def _one(parts: Sequence[Block]) -> Block:
    nodes = tuple(dict.fromkeys(node for part in parts for node in part.nodes))
    return Block(parts[0].before, parts[-1].after, parts[-1].total, nodes)
