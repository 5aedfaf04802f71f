"""Models that were exported for a certain number of samples, and take any number afterwards where that can be."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ..errors import ModelError
from ..graph import edit, shapes
from ..runtime.provider import on_cpu
from ..runtime.session import open_session
from ..samples.inputs import Layout, model_layout, random_feeds
from ..samples.random_values import plausible

CLOSE = 1e-3
"""How far, of the largest value, outputs may differ: sums over other numbers of samples are not rounded alike."""


def free_batch(model: ir.Model) -> int | None:
    """Let a model take any number of samples, in place; returns how many it takes where that cannot be.

    A Reshape that wrote the number down gets another target. Then the model is tried with twice as many samples: what
    fails then, or gives a sample another answer, keeps the number it was exported for.
    """
    layout = model_layout(model)
    if layout.fixed_batch is not None:
        freed = model.clone()
        _free(freed.graph, layout)
        if not _agree(model, freed, layout, layout.fixed_batch):
            return layout.fixed_batch
    _free(model.graph, layout)
    return None


def _agree(model: ir.Model, freed: ir.Model, layout: Layout, size: int) -> bool:
    session, batches = (
        open_session(model, provider=on_cpu()),
        [plausible(layout, random_feeds(layout, size, seed), seed) for seed in (0, 1)],
    )
    try:
        expected = [session.run(feeds) for feeds in batches]
    except ModelError:
        return True  # random values do not suit it, so that nothing is known
    joined = {
        item.name: batches[0][item.name]
        if item.batch_axis is None
        else np.concatenate([feeds[item.name] for feeds in batches], axis=item.batch_axis)
        for item in layout.inputs
    }
    shapes.forget(freed)
    try:
        found = open_session(freed, provider=on_cpu()).run(joined)
    except ModelError:
        return False
    return all(_is_close(array, np.concatenate([one[name] for one in expected])) for name, array in found.items())


def _is_close(array: npt.NDArray[Any], expected: npt.NDArray[Any]) -> bool:
    largest = float(np.abs(expected).max(initial=0))
    return array.shape == expected.shape and np.allclose(array, expected, rtol=CLOSE, atol=CLOSE * largest)


def _free(graph: ir.Graph, layout: Layout) -> None:
    """Make the axis that counts samples symbolic, and that of each Reshape that wrote the old number down."""
    insert = edit.Inserter(graph)
    for node in list(graph):
        target = edit.constant(node.inputs[1]) if node.op_type == "Reshape" and layout.fixed_batch else None
        if target is not None and not node.attributes.get_int("allowzero"):
            free = _batch_free(target.numpy(), int(layout.fixed_batch or 0), node.outputs[0].shape)
            if free is not None:
                shape = f"{node.outputs[0].name}/batch_free_shape"
                node.replace_input_with(1, insert.constant(shape, free))
    counted = {item.name for item in layout.inputs if item.batch_axis == 0}
    for value in graph.inputs:
        if value.shape and value.name in counted:
            value.shape = ir.Shape(["batch", *value.shape[1:]])
    for node in graph:
        for output in node.outputs:
            read = output.is_graph_output() and output.shape
            output.shape = ir.Shape(["batch", *output.shape[1:]]) if read and output.shape else None


def _batch_free(target: npt.NDArray[Any], fixed: int, shape: ir.Shape | None) -> npt.NDArray[Any] | None:
    """Return a Reshape's target for a batch of any size; None where it says nothing of the batch."""
    if target.size == 0 or int(target[0]) != fixed:
        return None
    rest = [n for n in shape[1:] if isinstance(n, int)] if shape is not None else []
    rest = rest if len(rest) == len(target) - 1 else target[1:].tolist()
    # -1 also serves a Reshape that takes the batch out of another dimension; 0 is the next best.
    return np.array([0 if -1 in rest else -1, *rest], np.int64)
