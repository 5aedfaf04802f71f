"""Gram matrices of what weights are multiplied by, one after the other in the order of the graph."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.contract import Context
from onnxcompress.errors import DataError, PassError
from onnxcompress.graph import edit, operators
from onnxcompress.graph.layer import Layer
from onnxcompress.scratch import temporary_folder
from onnxcompress.statistics.gram import BLOCK_ROWS
from onnxcompress.statistics.segments import SegmentedRun

from ..shared.rows import rows_for_rounding
from .formats import reads_rows

Array = npt.NDArray[Any]

SAMPLES = 512
"""How many samples are looked at."""

MOST_COLUMNS = 8192
"""A Gram matrix of more columns would take more than a quarter of a gigabyte."""


def layer_grams(model: ir.Model, names: Collection[str], context: Context) -> Iterator[tuple[str, Array]]:
    """Yield the Gram matrix ``Σ x xᵀ`` of what each weight is multiplied by, float32.

    One is in memory at a time, beside what the next layers read; weights that read the same tensor share it.

    Parameters
    ----------
    model : onnx_ir.Model
        Not changed.
    names : collection of str
        Constants' names.
    context : Context
        Its first 512 samples are used.

    Yields
    ------
    name : str
        In the order of the graph; only of what Conv, Gemm and MatMul of the outer graph multiply something by that
        varies and has 8,192 columns at most, and of tables.
    gram : ndarray of float32
        (groups, columns, columns), for the weight as `Layer.blocks` cuts it, or one for all groups if they read the
        same; of a table that Gather looks up (rows,):
        how often each row was, which is the diagonal for the table's transpose.

    Raises
    ------
    DataError
        A tensor holds NaN or infinity.
    """
    jobs = readers(model, names)
    samples = context.samples.head(SAMPLES)
    with temporary_folder() as folder:
        grams = Grams(SegmentedRun(model, samples, folder))
        for done, (name, node) in enumerate(jobs.items()):
            found = None
            with suppress(PassError):
                found = grams.counts(node) if reads_rows(node, 0) else grams.of(node)
            if found is not None:
                yield name, found
            context.progress("grams", done + 1, len(jobs))


def readers(model: ir.Model, names: Collection[str], *, tables: bool = True) -> dict[str, ir.Node]:
    """Return the first operator of the outer graph that reads each weight directly, in the order of the graph."""
    found: dict[str, ir.Node] = {}
    for node in model.graph:
        layer = Layer.of(node, among=operators.on_integers("layer"))
        read = node.inputs[0] if tables and reads_rows(node, 0) else None if layer is None else layer.value
        if read is None or read.name not in names or edit.constant(read) is None:
            continue
        if layer is None or not layer.is_stack or is_experts(layer):
            found.setdefault(str(read.name), node)
    return found


def is_experts(layer: Layer) -> bool:
    """Tell whether a weight is a stack of matrices, which each multiply rows of their own or all the same."""
    return len(layer.shape) == 3 and layer.index == 1 and not layer.is_convolution


class Grams:
    """Takes the Gram matrix of what a layer reads, where a run over samples stands; the last one is kept."""

    def __init__(self, segmented: SegmentedRun) -> None:
        self._segmented = segmented
        self._last: tuple[str, Array] | None = None

    def of(self, node: ir.Node) -> Array:
        """Run up to an operator with a weight and return the Gram matrix of what it reads.

        Raises
        ------
        PassError
            It has too many columns, or what it reads is constant.
        DataError
            What it reads holds NaN or infinity.
        """
        layer, run = Layer(node), self._segmented
        columns = layer.shape[1] if is_experts(layer) else layer.columns
        if columns > MOST_COLUMNS:
            raise PassError(f"it sums over {columns} products; a Gram matrix has {MOST_COLUMNS} columns at most")
        if is_experts(layer) and layer.shape[0] * columns**2 > MOST_COLUMNS**2:
            raise PassError(f"its {layer.shape[0]} matrices of {columns} rows need Gram matrices of too many gigabytes")
        name = str(layer.data.name)
        run.advance(edit.output_name(node))
        if not run.has(name):
            raise PassError("what it is multiplied by is constant")
        if layer.is_convolution or self._last is None or self._last[0] != name:
            self._last = None  # the memory, before the next one is made
            self._last = name, _sum(_rows(layer, run.fetch(name), run.samples), name)
        return self._last[1]

    def counts(self, node: ir.Node) -> Array:
        """Run up to a Gather and return how often it looks each row up."""
        table, indices = edit.required(node, 0), str(edit.required(node, 1).name)
        self._segmented.advance(edit.output_name(node))
        if not self._segmented.has(indices):
            raise PassError("what is looked up is constant")
        count = edit.array(table).shape[0]
        found = np.zeros(count, np.float32)
        for array in self._segmented.fetch(indices):
            found += np.bincount(array.ravel().astype(np.int64) % count, minlength=count)
        return found


def _rows(layer: Layer, arrays: Iterator[Array], samples: int) -> Iterator[Array]:
    """Yield what the operator multiplies by, as (groups, rows, products)."""
    if is_experts(layer):
        for array in arrays:  # (…, experts or 1, rows, columns)
            stack = array if array.ndim > 2 else array[None]
            yield np.moveaxis(stack, -3, 0).reshape(stack.shape[-3], -1, stack.shape[-1])
        return
    first, drawn = 0, rows_for_rounding(layer, samples)
    for array in arrays:
        yield drawn.inputs(array, first)
        first += len(array)


def _sum(parts: Iterable[Array], name: str) -> Array:
    """Add up ``xᵀ x`` of (groups, rows, columns), so many rows at a time whatever the batches are."""
    found: Array | None = None
    with np.errstate(invalid="ignore", over="ignore"):
        for block in _blocks(parts):
            rows = block.astype(np.float32, copy=False)
            product = rows.swapaxes(1, 2) @ rows
            found = product if found is None else np.add(found, product, out=found)
    if found is None or not np.isfinite(found).all():
        raise DataError(f"tensor '{name}' holds NaN or infinity for some sample")
    return found


def _blocks(parts: Iterable[Array]) -> Iterator[Array]:
    waiting: list[Array] = []
    count = 0
    for part in parts:
        waiting.append(part)
        count += part.shape[1]
        while count >= BLOCK_ROWS:
            rows = np.concatenate(waiting, 1) if len(waiting) > 1 else waiting[0]
            yield rows[:, :BLOCK_ROWS]
            waiting, count = [rows[:, BLOCK_ROWS:]], count - BLOCK_ROWS
    if count:
        yield np.concatenate(waiting, 1) if len(waiting) > 1 else waiting[0]
