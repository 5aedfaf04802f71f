"""Extents that follow from those of the inputs by arithmetic: what inference leaves open, and rules need to know."""

from __future__ import annotations

import onnx_ir as ir

from ..graph import shapes
from .gradients import why_no_gradient

COUNTS = (2, 3)
"""Numbers of samples that are tried: what follows them counts samples."""

BATCH = "batch"


def complete(model: ir.Model) -> bool:
    """Compute the extents of a model for two numbers of samples where a rule lacks one; tells whether it found any."""
    if not any(why_no_gradient(node) for node in model.graph):
        return False
    sizes = [_sizes(model.graph, count) for count in COUNTS]
    if not all(sizes):
        return False
    one, other = (shapes.concrete(model, size) for size in sizes)
    if one.depends_on_data or not one.fits:
        return False
    found = [_fill(value, dims, other.shapes.get(value)) for value, dims in one.shapes.items()]
    return any(found)


def _sizes(graph: ir.Graph, count: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the inputs for a number of samples; {} where an extent is open."""
    found = {}
    for value in graph.inputs:
        dims = [] if value.shape is None else list(value.shape)
        known = [count if axis == 0 and not isinstance(dim, int) else dim for axis, dim in enumerate(dims)]
        if value.shape is None or not all(isinstance(dim, int) for dim in known):
            return {}
        found[str(value.name)] = tuple(int(dim) for dim in known)  # type: ignore[arg-type]
    return found


def _fill(value: ir.Value, dims: tuple[int, ...], others: tuple[int, ...] | None) -> bool:
    if value.producer() is None or others is None or len(others) != len(dims):
        return False
    old = [None] * len(dims) if value.shape is None or len(value.shape) != len(dims) else list(value.shape)
    new = [_extent(*all_of) for all_of in zip(old, dims, others, strict=True)]
    if value.shape is not None and new == old:
        return False
    value.shape = ir.Shape(new)
    return True


def _extent(old: object, one: int, other: int) -> int | str | None:
    if one == other:
        return one
    return BATCH if (one, other) == COUNTS else old if isinstance(old, str) else None
