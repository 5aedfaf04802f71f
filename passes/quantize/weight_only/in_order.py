"""Round weights one operator after the other, each for the inputs that it gets from those before it."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.contract import Refusal
from onnxcompress.errors import PassError
from onnxcompress.graph import edit, operators
from onnxcompress.graph.layer import Layer
from onnxcompress.progress import Progress, silent
from onnxcompress.samples.samples import Samples
from onnxcompress.scratch import temporary_folder
from onnxcompress.statistics.gram import grams_of
from onnxcompress.statistics.segments import SegmentedRun

from ..shared.gptq import Factor, gptq
from ..shared.rows import rows_for_rounding
from .storage import StoredWeight

Array = npt.NDArray[Any]

SAMPLES = 512
"""How many samples are looked at."""

MOST_COLUMNS = 8192
"""A Gram matrix of more columns would take more than half a gigabyte."""


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
    jobs = _jobs(copy, weights)
    samples = samples.head(SAMPLES)
    with temporary_folder() as folder:
        segmented = SegmentedRun(copy, samples, folder)
        for done, (name, node) in enumerate(jobs.items()):
            try:
                found[name] = _rounded(segmented, node, found[name])
            except PassError as error:
                refused.append(Refusal(name, f"rounded to nearest: {error}"))
            progress("gptq", done + 1, len(jobs))
    refused += [
        Refusal(value, f"rounded to nearest: {reason}")
        for value, reason in _others(model, weights).items()
        if value not in jobs
    ]
    return found, refused


def _jobs(model: ir.Model, weights: Mapping[str, StoredWeight]) -> dict[str, ir.Node]:
    """Return the first operator that reads each weight directly, in the order of the graph."""
    found: dict[str, ir.Node] = {}
    for node in model.graph:
        layer = Layer.of(node, among=operators.on_integers("layer"))
        if layer is None or layer.value.name not in weights or edit.constant(layer.value) is None:
            continue
        if not layer.is_stack:
            found.setdefault(str(layer.value.name), node)
    return found


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


def _rounded(segmented: SegmentedRun, node: ir.Node, stored: StoredWeight) -> StoredWeight:
    """Round one weight, and give the rounded one to the operator, for the inputs of those behind it."""
    layer = Layer(node)
    value, read, array = layer.value, layer.data, layer.stored
    matrices = layer.blocks(array)
    if matrices.shape[-1] > MOST_COLUMNS:
        raise PassError(f"it sums over {matrices.shape[-1]} products; a Gram matrix has {MOST_COLUMNS} columns at most")
    segmented.advance(edit.output_name(node))
    if not segmented.has(str(read.name)):
        raise PassError("what it is multiplied by is constant")
    rows = _rows(layer, segmented.fetch(str(read.name)), segmented.samples)
    parts = ((r, r[..., :0], np.zeros(r.shape[-2], bool)) for r in rows)
    grams = grams_of(parts, str(read.name))[0].own
    step, zero = (
        layer.blocks(np.broadcast_to(stored.spread(a, array.shape), array.shape))
        for a in (stored.scale, stored.zero_point)
    )
    back = layer.whole(gptq(matrices, step, stored.grid, Factor(grams), zero_point=zero))
    result = dataclasses.replace(stored, integers=np.ascontiguousarray(back, np.int16))
    edit.set_constant(value, result.decode(back).astype(array.dtype))
    return result


def _rows(layer: Layer, arrays: Iterator[Array], samples: int) -> Iterator[Array]:
    """Yield what the operator multiplies by, as (groups, rows, products)."""
    first, drawn = 0, rows_for_rounding(layer, samples)
    for array in arrays:
        yield drawn.inputs(array, first)
        first += len(array)
