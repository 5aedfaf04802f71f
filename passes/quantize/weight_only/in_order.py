"""Round weights one operator after the other, each for the inputs that it gets from those before it."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping

import numpy as np
import onnx_ir as ir

from onnxcompress.contract import Refusal
from onnxcompress.errors import PassError
from onnxcompress.graph import edit
from onnxcompress.graph.layer import Layer
from onnxcompress.progress import Progress, silent
from onnxcompress.samples.samples import Samples
from onnxcompress.scratch import temporary_folder
from onnxcompress.statistics.segments import SegmentedRun

from ..shared.gptq import Factor, gptq
from .grams import SAMPLES, Grams, readers
from .storage import StoredWeight


def compensate(
    model: ir.Model,
    weights: Mapping[str, StoredWeight],
    wanted: Collection[str],
    samples: Samples,
    *,
    progress: Progress = silent,
) -> tuple[dict[str, StoredWeight], list[Refusal]]:
    """Round the weights of Conv, Gemm and MatMul so that each error is made up for (`rounding.gptq`).

    Parameters
    ----------
    model : onnx_ir.Model
        Not changed.
    weights : mapping
        Constant's name → how it is stored, rounded to nearest.
    wanted : collection of str
        Those of them to round anew.
    samples : Samples
        The first 512 are used.
    progress : callable

    Returns
    -------
    dict
        The same names, with integers for those that were rounded anew.
    list of Refusal
        Weights of operators that stay rounded to nearest, and why. A table that rows are looked up from is none: for
        it, nearest is best.

    Raises
    ------
    DataError
        A tensor holds NaN or infinity.
    """
    copy, found = model.clone(), dict(weights)
    weights = {name: stored for name, stored in weights.items() if name in wanted}
    refused = []
    jobs = readers(copy, weights, tables=False)
    with temporary_folder() as folder:
        grams = Grams(SegmentedRun(copy, samples.head(SAMPLES), folder))
        for done, (name, node) in enumerate(jobs.items()):
            try:
                found[name] = _rounded(grams, node, found[name])
            except PassError as error:
                refused.append(Refusal(name, f"rounded to nearest: {error}"))
            progress("gptq", done + 1, len(jobs))
    refused += [
        Refusal(value, f"rounded to nearest: {reason}")
        for value, reason in _others(model, weights).items()
        if value not in jobs
    ]
    return found, refused


def _others(model: ir.Model, weights: Mapping[str, StoredWeight]) -> dict[str, str]:
    """Return the weights that operators other than Gather read, and why they cannot be compensated."""
    found = {}
    for value in edit.values(model.graph):
        readers = sorted({node.op_type for node, _ in value.uses() if edit.op_of(node) != "Gather"})
        if value.name in weights and readers:
            inner = any(node.graph is not model.graph for node, _ in value.uses())
            where = " in an inner graph" if inner else ""
            found[str(value.name)] = f"it is an operand of {', '.join(readers)}{where}; " + (
                "errors are made up for in the second operand, a matrix, of Conv, Gemm and MatMul of the outer graph"
            )
    return found


def _rounded(grams: Grams, node: ir.Node, stored: StoredWeight) -> StoredWeight:
    """Round one weight, and give the rounded one to the operator, for the inputs of those behind it."""
    factor = Factor(grams.of(node))
    layer = Layer(node)
    value, array = layer.value, layer.stored
    step, zero = (
        layer.blocks(np.broadcast_to(stored.spread(a, array.shape), array.shape))
        for a in (stored.scale, stored.zero_point)
    )
    back = layer.whole(gptq(layer.blocks(array), step, stored.grid, factor, zero_point=zero))
    result = dataclasses.replace(stored, integers=np.ascontiguousarray(back, np.int16))
    edit.set_constant(value, result.decode(back).astype(array.dtype))
    return result
