"""Which nodes, weights or groups of a model an option speaks of."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from .errors import PassError, did_you_mean

if TYPE_CHECKING:
    import onnx_ir as ir


def matching(field: str, patterns: Iterable[str], names: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    """Return, for each pattern, the subjects that it matches by one of their names.

    Parameters
    ----------
    field : str
        The pass and the option that the patterns come from, for the message.
    patterns : iterable of str
        Names, with ``*``, ``?`` and ``[...]`` as in file names.
    names : mapping
        Subject → its names.

    Raises
    ------
    PassError
        A pattern matches nothing.
    """
    found = {}
    for pattern in patterns:
        found[pattern] = [s for s, known in names.items() if any(fnmatch.fnmatchcase(n, pattern) for n in known)]
        if not found[pattern]:
            every = sorted({name for known in names.values() for name in known})
            hint = did_you_mean(pattern, every) or (f"; there are {', '.join(every[:8])}" if every else "")
            raise PassError(f"{field}: '{pattern}' matches nothing in the model{hint}")
    return found


def matching_nodes(field: str, patterns: Iterable[str], graph: ir.Graph) -> dict[ir.Node, str]:
    """Return the nodes that patterns mean, by their name or that of an output, each with the last pattern that does.

    Parameters
    ----------
    field, patterns
        As for `matching`.
    graph : onnx_ir.Graph
        Nodes of its inner graphs count too.

    Raises
    ------
    PassError
        A pattern matches nothing.
    """
    patterns = list(patterns)
    if not patterns:
        return {}
    nodes: dict[str, list[ir.Node]] = {}
    for node in graph.all_nodes():
        for name in {node.name, *(value.name for value in node.outputs)} - {None, ""}:
            nodes.setdefault(str(name), []).append(node)
    found = matching(field, patterns, {name: [name] for name in nodes})
    return {node: pattern for pattern, names in found.items() for name in names for node in nodes[name]}
