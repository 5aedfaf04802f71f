"""What of a working copy is not written: types that were inferred, and copies of vectors that are still equal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import onnx
import onnx_ir as ir

from . import edit, shapes
from .shared_vectors import SHARED, join

INFERRED = "inferred type"
"""Where a value's `meta` says that the file it came from had no type of it."""


def infer(model: ir.Model) -> None:
    """Infer types and shapes, in place, and mark those that are not for the file: they may take more than the graph."""
    unknown = [value for value in _inner(model) if value.type is None and value.shape is None]
    shapes.infer(model)
    for value in unknown:
        value.meta[INFERRED] = True


@contextmanager
def unwritten(model: ir.Model) -> Iterator[None]:
    """Mark what gets a type meanwhile, as a pass is applied, likewise."""
    typed = {value.name for value in _inner(model) if value.type is not None or value.shape is not None}
    yield
    for value in _inner(model):
        if value.name not in typed:
            value.meta[INFERRED] = True


def written(model: ir.Model) -> ir.Model:
    """Return the model as it is written: a clone, or itself where that makes no difference."""
    shared = any(SHARED in value.meta for value in model.graph.initializers.values())
    if not shared and not any(_is_spare(value) for value in edit.values(model.graph)):
        return model
    clone = model.clone()
    clone.meta.update(model.meta)
    if shared:
        join(clone.graph)
    for value in edit.values(clone.graph):
        if _is_spare(value):
            value.type = value.shape = None
    return clone


def _is_spare(value: ir.Value) -> bool:
    """Tell whether the file need not say what type a value has: a constant says so itself."""
    if value.is_graph_input() or value.is_graph_output() or (value.type is None and value.shape is None):
        return False
    node = value.producer()
    if node is None:
        return value.is_initializer()
    return INFERRED in value.meta and onnx.defs.has(node.op_type, node.domain)


def _inner(model: ir.Model) -> list[ir.Value]:
    return [value for node in model.graph.all_nodes() for value in node.outputs]
