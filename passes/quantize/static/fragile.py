"""What integers would lose where every operator computes on them: masks, infinity, written-out normalisations."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from onnxcompress.graph import constants, edit

if TYPE_CHECKING:
    from onnxcompress.statistics.summaries import Range

    from ..shared.units import Unit
    from .placement import Placement

WIDEST_SOFTMAX = 255.0
"""Of a Softmax's input: one step of 8 bits would multiply a probability by more than e."""

BELOW = 8.0
"""So far below the smallest sum without a mask lies one with it: e⁻⁸ of a probability, less than a step of 1/256."""

FINITE = {"Clip", "Erf", "HardSigmoid", "HardTanh", "Sigmoid", "Softmax", "Softsign", "Tanh"}
"""They make finite numbers of infinity."""


def fragile(graph: ir.Graph) -> dict[ir.Node, str]:
    """Return the nodes of a graph that must not read or give integers, with the reason."""
    written_out = "it is part of a normalisation that is written out, whose variance 8 bits do not hold"
    found = dict.fromkeys(
        (n for node in graph if edit.op_of(node) == "Sqrt" for n in _normalisation(node)), written_out
    )
    infinite: set[ir.Value] = set()
    for node in graph:
        inputs = [value for value in node.inputs if value is not None]
        if edit.op_of(node) not in FINITE and any(v in infinite or _holds_infinity(v) for v in inputs):
            infinite.update(v for v in node.outputs if v.dtype == ir.DataType.FLOAT)
        if infinite.intersection((*inputs, *node.outputs)):
            found[node] = "a tensor of its may hold infinity, such as a mask"
    return found


def _holds_infinity(value: ir.Value) -> bool:
    array = constants.find(value)
    return array is not None and array.dtype.kind == "f" and bool(np.isinf(array).any())


def _normalisation(root: ir.Node) -> Iterator[ir.Node]:
    """Yield the nodes of ``(x - mean(x)) / sqrt(mean((x - mean(x))²) + ε) · γ + β``, from its Sqrt, if it is one."""
    add = _maker(root, "Add")
    variance = None if add is None else _maker(add, "ReduceMean")
    square = None if variance is None else _maker(variance, "Pow", "Mul")
    centred = None if square is None else _maker(square, "Sub")
    if add is None or variance is None or square is None or centred is None:
        return
    yield from (root, add, variance, square, centred)
    yield from (mean for mean in [_maker(centred, "ReduceMean")] if mean is not None)
    for divide in (use.node for use in root.outputs[0].uses()):
        yield divide
        last = divide
        for op in ("Mul", "Add"):  # γ and β
            readers = [use.node for use in last.outputs[0].uses()]
            if (
                len(readers) != 1
                or edit.op_of(readers[0]) != op
                or not any(map(constants.is_constant, readers[0].inputs))
            ):
                break
            last = readers[0]
            yield last


def _maker(node: ir.Node, *ops: str) -> ir.Node | None:
    """Return the first node among `ops` that gives an input of a node."""
    makers = (value.producer() for value in node.inputs if value is not None)
    return next((maker for maker in makers if maker is not None and edit.op_of(maker) in ops), None)


def with_masks(placement: Placement, ranges: Mapping[str, Range]) -> dict[str, Range]:
    """Give masks, and the sums with them that a Softmax reads, ranges that leave the 8 bits to what is not masked.

    A mask is added before a Softmax: 0 where a position counts, and below any sum where it does not (-1e4, or the least
    float). What it must do is to bring a sum below all others, whatever the samples happen to mask. So the mask is
    stored as no less than what that takes, and the sum as no less than `BELOW` under the least sum without it.
    """
    result = dict(ranges)
    readers: dict[ir.Value, list[Unit]] = {}
    for unit in placement.units:
        for value in unit.inputs:
            readers.setdefault(placement.sources[value], []).append(unit)
    low: dict[str, float] = {}
    for total, units in readers.items():
        maker = placement.makers.get(total)
        softmax = all(unit.node.op_type == "Softmax" for unit in units if unit.kind != "move")
        if maker is None or maker.node.op_type != "Add" or len(maker.data) != 2 or not softmax:
            continue
        names = [str(placement.sources[value].name) for value in maker.inputs]
        masks = [
            i for i, value in enumerate(maker.inputs) if _is_mask(ranges[names[i]], readers[placement.sources[value]])
        ]
        if len(masks) != 1:
            continue
        name, scores = names[masks[0]], ranges[names[1 - masks[0]]]
        least = scores.low - BELOW
        result[str(total.name)] = dataclasses.replace(ranges[str(total.name)], low=least, high=scores.high)
        low[name] = min(low.get(name, 0.0), least - scores.high)
    return result | {name: dataclasses.replace(ranges[name], low=value, high=0.0) for name, value in low.items()}


def _is_mask(seen: Range, readers: list[Unit]) -> bool:
    """Tell whether a tensor that is added before a Softmax is a mask; one that no sample has is 0 throughout."""
    beyond = seen.low == 0 or seen.low < -WIDEST_SOFTMAX
    return seen.high == 0 and beyond and all(unit.node.op_type == "Add" or unit.kind == "move" for unit in readers)


def beyond_8_bits(placement: Placement, ranges: Mapping[str, Range]) -> dict[ir.Node, str]:
    """Return each Softmax whose input spans too wide a range, and what gives that, with the reason."""
    found: dict[ir.Node, str] = {}
    for unit in placement.units:
        if unit.node.op_type != "Softmax":
            continue
        source = placement.sources[unit.inputs[0]]
        seen, maker = ranges[str(source.name)], placement.makers.get(source)
        if max(seen.high, 0.0) - min(seen.low, 0.0) > WIDEST_SOFTMAX:
            nodes = [unit.node] if maker is None or maker.kind == "compute" else [unit.node, maker.node]
            found |= dict.fromkeys(nodes, "what the Softmax reads spans too wide a range for 8 bits, such as a mask")
    return found
