"""Constants that an exporter stored once for several layers by accident: apart while a model is worked on.

One initializer of ones may be the scale of every normalisation, one of zeros the bias of every layer. That ties no
layers together: each reader gets a copy, and copies that are still equal at the end are stored once again. What a model
shares on purpose stays shared: matrices, such as an embedding and the weight before the logits.
"""

from __future__ import annotations

from math import prod

import numpy as np
import onnx_ir as ir

from . import edit
from .constants import constant

SHARED = "shared vector"
"""Where a value's `meta` says from which constant it was copied."""

GLANCE = 256
"""Elements by which most tensors show that they are not one number repeated."""


def separate(graph: ir.Graph) -> None:
    """Give each reader of a vector, or of one number repeated, a copy of its own, in place; copies share memory."""
    insert: edit.Inserter | None = None
    held = [*graph.initializers.values(), *(node.outputs[0] for node in graph if node.op_type == "Constant")]
    for value in held:
        tensor, uses = constant(value), list(value.uses())
        if tensor is None or len(uses) < 2 or not _is_separable(graph, value, tensor):
            continue
        insert = insert or edit.Inserter(graph)
        value.meta[SHARED] = value.name
        for node, index in uses[1:]:
            own = insert.tensor(str(value.name), _alias(tensor))
            own.meta[SHARED] = value.name
            node.replace_input_with(index, own)


def _is_separable(graph: ir.Graph, value: ir.Value, tensor: ir.TensorProtocol) -> bool:
    inside = all(node.graph is graph for node, _ in value.uses())  # what an inner graph reads is frozen anyway
    if not inside or value.is_graph_input() or value.is_graph_output() or not tensor.dtype.is_floating_point():
        return False
    shape = tensor.shape.numpy()
    return prod(shape) > 1 and (prod(shape) == max(shape) or _is_uniform(tensor))


def _is_uniform(tensor: ir.TensorProtocol) -> bool:
    array = tensor.numpy().reshape(-1)
    return bool((array[:GLANCE] == array[0]).all() and (array == array[0]).all())


def _alias(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """Return the same numbers, to be called otherwise."""
    return ir.LazyTensor(lambda: tensor, dtype=tensor.dtype, shape=ir.Shape(tensor.shape.numpy()))


def joined(model: ir.Model) -> ir.Model:
    """Return the model with copies that are still equal stored once; a clone where there are any, else itself."""
    if not any(SHARED in value.meta for value in model.graph.initializers.values()):
        return model
    clone = model.clone()
    clone.meta.update(model.meta)
    join(clone.graph)
    return clone


def join(graph: ir.Graph) -> None:
    """Store copies that are still equal once, under the name that they had, in place."""
    kept: dict[object, list[ir.Value]] = {}
    for value in [value for value in edit.values(graph) if SHARED in value.meta]:
        others = kept.setdefault(value.meta[SHARED], [])
        same = next((other for other in others if _equal(constant(other), constant(value))), None)
        if same is None or value.is_graph_input() or value.is_graph_output():
            others.append(value)
        else:
            edit.replace_uses(value, same)
            edit.remove_unread(value)


def _equal(one: ir.TensorProtocol | None, other: ir.TensorProtocol | None) -> bool:
    if one is None or other is None or one.dtype != other.dtype or one.shape != other.shape:
        return False
    return np.array_equal(one.numpy(), other.numpy(), equal_nan=False)
