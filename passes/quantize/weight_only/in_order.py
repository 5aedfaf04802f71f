"""Round weights one operator after the other, each for the inputs that it gets from those before it."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from threadpoolctl import threadpool_limits

from onnxcompress.contract import Refusal
from onnxcompress.errors import PassError
from onnxcompress.graph import edit
from onnxcompress.graph.layer import Layer
from onnxcompress.progress import Progress, silent
from onnxcompress.samples.samples import Samples
from onnxcompress.scratch import temporary_folder
from onnxcompress.statistics.segments import SegmentedRun

from ..shared.gptq import Factor, gptq
from ..shared.quantease import Rounded, quantease
from .grams import SAMPLES, Grams, is_experts, readers
from .storage import StoredWeight

Array = npt.NDArray[Any]


def compensate(
    model: ir.Model,
    weights: Mapping[str, StoredWeight],
    wanted: Collection[str],
    samples: Samples,
    *,
    refined: Collection[str] = (),
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
    refined : collection of str
        Those of them whose integers and scales are bettered then (`quantease`).
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
        in_order = _InOrder(Grams(SegmentedRun(copy, samples.head(SAMPLES), folder)))
        for done, (name, node) in enumerate(jobs.items()):
            try:
                found[name] = in_order.round(node, found[name], refine=name in refined)
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
    runs = {node: top for top in model.graph for graph in edit.inner_graphs(top) for node in graph.all_nodes()}
    for value in edit.values(model.graph):
        readers = sorted({node.op_type for node, _ in value.uses() if edit.op_of(node) != "Gather"})
        if value.name in weights and readers:
            inside = next((node for node, _ in value.uses() if node in runs), None)
            if inside is not None:
                found[str(value.name)] = f"{edit.label(inside)} reads it inside {edit.label(runs[inside])}; " + (
                    "what is computed there is not seen, so that errors cannot be made up for"
                )
                continue
            found[str(value.name)] = f"it is an operand of {', '.join(readers)}; " + (
                "errors are made up for in the second operand, a matrix or a stack of them, of Conv, Gemm and MatMul"
            )
    return found


class _InOrder:
    """Rounds one weight after the other, and gives the rounded one to its operator, for what those behind it read."""

    def __init__(self, grams: Grams) -> None:
        self._grams = grams
        self._factor: tuple[Array, Factor] | None = None
        self._given: tuple[ir.Value, ir.TensorProtocol] | None = None

    def round(self, node: ir.Node, stored: StoredWeight, *, refine: bool) -> StoredWeight:
        """Return a weight with its integers, and scales that go with them."""
        gram = self._grams.of(node)
        self._restore()
        layer = Layer(node)
        value, array = layer.value, layer.stored
        with threadpool_limits(
            1, "blas"
        ):  # on two cores, threads of LAPACK wait for each other as long as they compute
            if self._factor is None or self._factor[0] is not gram:
                self._factor = None  # the memory, before the next one is made
                self._factor = gram, Factor(gram)
            cut = _Cut(layer, len(gram))
            steps = _steps(cut, stored, array.shape)
            back = gptq(cut.blocks(array), factor=self._factor[1], grid=stored.grid, **steps)
            if refine:
                back, stored = _refined(cut, stored, back, gram)
        integers = np.ascontiguousarray(cut.whole(back), stored.held)
        tensor = edit.constant(value)
        self._given = (value, tensor) if tensor is not None and value.is_initializer() else None
        edit.set_constant(value, stored.decode(integers).astype(array.dtype))
        return dataclasses.replace(stored, integers=integers)

    def _restore(self) -> None:
        """Forget the rounded weight before, once nothing reads it any more."""
        if self._given is not None and len(self._given[0].uses()) == 1:
            edit.store_elsewhere(*self._given)
            edit.release_pages(self._given[1])
        self._given = None


class _Cut:
    """Cuts a weight as `Layer` does, but into one matrix where all read the same."""

    def __init__(self, layer: Layer, groups: int) -> None:
        self.layer, self._groups = layer, groups

    def blocks(self, array: Array) -> Array:
        """Return (groups, rows, columns)."""
        found = self.layer.blocks(array)
        return found if len(found) == self._groups else found.reshape(1, -1, found.shape[-1])

    def whole(self, blocks: Array) -> Array:
        """Undo `blocks`."""
        stack = self.layer.shape[0] if is_experts(self.layer) else len(blocks)
        return self.layer.whole(blocks.reshape(stack, -1, blocks.shape[-1]))


def _steps(cut: _Cut, stored: StoredWeight, shape: tuple[int, ...]) -> dict[str, Any]:
    """Return scales and zero points for `gptq`; those of blocks of a matrix as they are."""
    pair: dict[str, Array] = {"scale": stored.scale, "zero_point": stored.zero_point}
    if stored.block_size and not cut.layer.is_convolution:
        return {name: cut.blocks(values) for name, values in pair.items()} | {"width": stored.block_size}
    return {name: cut.blocks(np.broadcast_to(stored.spread(v, shape), shape)) for name, v in pair.items()}


def _refined(cut: _Cut, stored: StoredWeight, integers: Array, gram: Array) -> tuple[Array, StoredWeight]:
    """Return better integers, as they were cut, and the scales that go with them."""
    array = cut.layer.stored
    places, part = _places(cut, stored, array.shape)
    scale, zero_point = stored.scale.ravel()[places], stored.zero_point.ravel()[places]
    one = stored.scale.size == 1 < places.shape[1]  # of all rows, so that none has a best one of its own
    found = quantease(
        cut.blocks(array), Rounded(integers, scale), stored.grid, gram, zero_point=zero_point, part=part,
        fit=None if one else lambda scale, before, at: stored.storable(scale, before, array.dtype, places[at]),
    )  # fmt: skip
    scales = stored.scale.copy()
    scales.ravel()[places] = found.scale
    return found.integers, dataclasses.replace(stored, scale=scales)


def _places(cut: _Cut, stored: StoredWeight, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Return the numbers of the scales of each row (groups, rows, parts), and the part of each column."""
    numbers = np.arange(stored.scale.size, dtype=np.int32).reshape(stored.scale.shape)
    if stored.block_size and not cut.layer.is_convolution:
        return cut.blocks(numbers), np.arange(shape[cut.layer.axes.summed]) // stored.block_size
    spread = cut.blocks(np.broadcast_to(stored.spread(numbers, shape), shape))
    _, first, part = np.unique(spread[0, 0], return_index=True, return_inverse=True)
    return spread[..., first], part
