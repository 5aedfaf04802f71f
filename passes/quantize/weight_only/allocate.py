"""Choose in how many bits, and in what blocks, each weight is stored, under one budget for all of them."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.contract import Context
from onnxcompress.graph import edit
from onnxcompress.graph.layer import Layer

from ..shared.gptq import Factor, gptq
from . import formats
from .errors import output_error
from .grams import layer_grams, readers
from .least_loss import least_loss
from .output_losses import output_losses
from .storage import StoredWeight

Array = npt.NDArray[Any]


class Setting(NamedTuple):
    """One way to store a weight."""

    dtype: str
    block_size: int


SETTINGS = tuple(
    Setting(f"{sign}{bits}", block)
    for bits, blocks in ((2, (16, 32, 64, 128)), (3, (16, 32, 64, 128)), (4, (16, 32, 64, 128, 256)), (8, (32, 128)))
    for block in blocks
    for sign in ("int", "uint")
)
"""What may be chosen."""

PROBE = Setting("uint4", 32)
"""How a weight is stored when what its error does to the outputs is measured."""

LOOKED_AT = 1 << 15
"""Weights of a matrix that tell what error a setting makes: of the others, whole rows are left out."""

LEAST_ROWS = 16

UNSEEN = 0.05
"""How much the rows of a table that no sample looks up count, of the mean of all."""

ATTEMPTS = 12
"""How often the choice is made anew when the file turns out larger than was foreseen."""

Store = Callable[[Setting | None, Array], StoredWeight]
"""Stores an array with the settings of one weight, or as its own options say (None)."""


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A weight that settings are chosen for.

    Attributes
    ----------
    value : onnx_ir.Value
    output : int, optional
        An axis along which no scale is shared: that of output channels, or of a table's rows.
    settings : sequence of Setting or None
        What may be chosen; ``[None]``: its own options say.
    store : callable
    gptq : bool
        It will be rounded so.
    """

    value: ir.Value
    output: int | None
    settings: Sequence[Setting | None]
    store: Store
    gptq: bool

    @property
    def name(self) -> str:
        """The constant's."""
        return str(self.value.name)

    @property
    def array(self) -> Array:
        """The weight."""
        return edit.array(self.value)


@dataclasses.dataclass(frozen=True)
class Choices:
    """What each setting of a weight takes in the file, and what error it makes.

    Attributes
    ----------
    sizes : tuple of float
        Bytes.
    errors : tuple of float
        At the output of the layer.
    probed : float
        The error of `PROBE`.
    """

    sizes: tuple[float, ...]
    errors: tuple[float, ...]
    probed: float


class TooSmallError(Exception):
    """The budget is below what the cheapest settings take.

    Attributes
    ----------
    least : int
        The bytes that they take.
    """

    def __init__(self, least: int) -> None:
        super().__init__(least)
        self.least = least


@dataclasses.dataclass(frozen=True)
class Allocation:
    """How each weight is stored, and what that is expected to do.

    Attributes
    ----------
    weights : dict of str to StoredWeight
    losses : dict of str to float
        Weight → what the outputs lose by it, as far as the errors tell.
    """

    weights: dict[str, StoredWeight]
    losses: dict[str, float]

    def sentence(self, candidates: Sequence[Candidate]) -> str:
        """Say how many weights have how many bits."""
        counts: Counter[int] = Counter()
        for each in candidates:
            counts[int(self.weights[each.name].dtype[-1])] += each.array.size
        total = sum(counts.values())
        shares = ", ".join(f"{100 * counts[bits] / total:.0f} % in {bits}" for bits in sorted(counts))
        mean = 8 * weights_bytes(candidates, self.weights) / total
        return f"bits chosen by layer: {shares}; {mean:.2f} bits a weight, scales included"


def weights_bytes(candidates: Sequence[Candidate], weights: Mapping[str, StoredWeight]) -> int:
    """Return the bytes of stored weights."""
    return sum(formats.stored_bytes(each.array.shape, weights[each.name], each.array.itemsize) for each in candidates)


def allocate(
    model: ir.Model,
    candidates: Sequence[Candidate],
    context: Context,
    size_of: Callable[[dict[str, StoredWeight]], int],
    budget: int,
) -> Allocation:
    """Choose a setting for each weight so that the model's outputs lose least.

    What a setting costs the outputs is the error that it makes at the output of its layer, by the Gram matrix of what
    that reads, times how much an error there matters to the outputs, which is measured: each weight alone is replaced
    by a coarser one. Without samples it is the weight's own relative error.

    Parameters
    ----------
    model : onnx_ir.Model
        Not changed.
    candidates : sequence of Candidate
    context : Context
    size_of : callable
        Returns the bytes that count if weights are stored so.
    budget : int
        The most bytes.

    Raises
    ------
    TooSmallError
    """
    tables = _all_choices(model, candidates, context)
    matters = _importance(model, candidates, tables, context)
    sizes = [tables[each.name].sizes for each in candidates]
    losses = [[matters[each.name] * error for error in tables[each.name].errors] for each in candidates]

    def stored(numbers: Sequence[int]) -> dict[str, StoredWeight]:
        pairs = zip(candidates, numbers, strict=True)
        return {each.name: each.store(each.settings[number], each.array) for each, number in pairs}

    cheapest = [int(np.argmin(each)) for each in sizes]
    least = size_of(stored(cheapest))
    if least > budget:
        raise TooSmallError(least)
    # What is no weight's own takes the same whatever is chosen, to a few bytes.
    room = budget - least + sum(map(min, sizes))
    numbers, weights = cheapest, stored(cheapest)
    for _ in range(ATTEMPTS):
        found = least_loss(sizes, losses, room)
        if found is None:
            break
        tried = stored(found)
        excess = size_of(tried) - budget
        if excess <= 0:
            numbers, weights = found, tried
            break
        room -= excess
    named = {
        each.name: losses[place][number] for place, (each, number) in enumerate(zip(candidates, numbers, strict=True))
    }
    return Allocation(weights, named)


def _all_choices(model: ir.Model, candidates: Sequence[Candidate], context: Context) -> dict[str, Choices]:
    """Return what each setting of each weight comes to; one Gram matrix is in memory at a time."""
    by_name, found = {each.name: each for each in candidates}, {}
    if context.has_samples:
        nodes = readers(model, by_name)
        for name, gram in layer_grams(model, list(by_name), context):
            found[name] = _choices(by_name[name], _Seen.by_samples(by_name[name], nodes[name], gram))
    for done, (name, each) in enumerate(by_name.items()):
        if name not in found:
            found[name] = _choices(each, _Seen.alone(each))
        context.progress("bits", done + 1, len(by_name))
    return found


@dataclasses.dataclass(frozen=True)
class _Seen:
    """Some rows of a weight, and the Gram matrix of what they are multiplied by.

    Attributes
    ----------
    array : ndarray
        In the weight's own layout, with fewer output channels.
    times : float
        How many times as large the whole weight is.
    rows : callable
        An array of that shape as `output_error` takes it.
    gram : ndarray
    """

    array: Array
    times: float
    rows: Callable[[Array], Array]
    gram: Array

    @classmethod
    def alone(cls, candidate: Candidate) -> _Seen:
        """Nothing is known of what a weight is multiplied by: each of its values counts the same."""
        array, times = _some(candidate.array, candidate.output)
        return cls(array, times, lambda a: a.reshape(-1, 1), np.ones(array.size))

    @classmethod
    def by_samples(cls, candidate: Candidate, node: ir.Node, gram: Array) -> _Seen:
        whole = candidate.array
        if gram.ndim == 1:  # a table, of which some rows are looked up more often
            array, times = _some(whole, 0)
            counts, _ = _some(gram, 0, len(array))
            return cls(array, times, lambda a: a, counts + UNSEEN * max(float(gram.mean()), 1e-9))
        layer = Layer(node)
        if layer.is_convolution:
            return cls(whole, 1.0, layer.blocks, gram)
        array, times = _some(whole, layer.axes.output)
        return cls(array, times, lambda a: np.moveaxis(a, layer.axes.output, 0)[None], gram)


def _some(array: Array, axis: int | None, most: int | None = None) -> tuple[Array, float]:
    """Return an array with some of the indices of an axis, spread over all, and what part they are."""
    if axis is None:
        return array, 1.0
    count = array.shape[axis]
    each = max(array.size // count, 1)
    kept = min(count, most if most is not None else max(LOOKED_AT // each, LEAST_ROWS))
    at = np.linspace(0, count, kept, endpoint=False).astype(np.int64)
    return np.take(array, at, axis), count / kept


def _choices(candidate: Candidate, seen: _Seen) -> Choices:
    """Round what is seen of a weight with each setting."""
    probe = candidate.store(PROBE, seen.array)
    probed = _error(probe, seen, None)
    fitted = 1.0
    if candidate.gptq and seen.gram.ndim == 3 and probed > 0:
        fitted = _error(probe, seen, Factor(seen.gram)) / probed
    stored = [candidate.store(setting, seen.array) for setting in candidate.settings]
    sizes = tuple(seen.times * formats.stored_bytes(seen.array.shape, each, seen.array.itemsize) for each in stored)
    return Choices(sizes, tuple(seen.times * fitted * _error(each, seen, None) for each in stored), seen.times * probed)


def _error(stored: StoredWeight, seen: _Seen, factor: Factor | None) -> float:
    """Return the error at the output of the layer, rounded to nearest or with a factor so that errors make up."""
    if factor is None:
        integers = stored.encode(seen.array)
        return output_error(seen.rows(seen.array), seen.rows(stored.decode(integers.astype(np.int64))), seen.gram)
    shape = seen.array.shape
    step, zero = (seen.rows(np.broadcast_to(stored.spread(a, shape), shape)) for a in (stored.scale, stored.zero_point))
    weight = seen.rows(seen.array)
    rounded = gptq(weight, step, stored.grid, factor, zero_point=zero)
    return output_error(weight, step * (rounded - zero), seen.gram)


def _importance(
    model: ir.Model, candidates: Sequence[Candidate], tables: Mapping[str, Choices], context: Context
) -> dict[str, float]:
    """Return by what the error of each layer is multiplied to be what the outputs lose."""

    def coarser(each: Candidate) -> Array:
        stored = each.store(PROBE, each.array)
        return np.asarray(stored.decode(stored.encode(each.array).astype(np.int64)))

    losses: dict[str, float] = {}
    if context.has_samples:
        probes = {each.name: partial(coarser, each) for each in candidates if each.settings != [None]}
        losses = output_losses(model, probes, context.samples, progress=context.progress)
    usual = float(np.mean(list(losses.values()))) if losses else 0.0
    found = {}
    for each in candidates:
        probed = tables[each.name].probed
        if probed <= 0:
            found[each.name] = 0.0
        elif losses:
            found[each.name] = max(losses.get(each.name, usual), 1e-4 * usual) / probed
        else:
            found[each.name] = 1.0 / max(float(np.square(each.array.astype(np.float64)).sum()), 1e-300)
    return found
