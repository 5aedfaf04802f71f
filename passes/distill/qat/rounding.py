"""The copy of a quantized model that is trained: floats, rounded to the integers' grid at each step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes import common

from onnxcompress.graph import edit
from onnxcompress.training.gradients import FACTOR
from onnxcompress.training.rules.tape import Tape

from .masters import Master
from .scales import scale_of, trained_scales, with_factors

Array = npt.NDArray[Any]

WITHIN = 0.49
"""How far beyond the last integer a float may be: it still rounds to it."""


def with_floats(
    model: ir.Model, masters: Mapping[str, Master], *, rounded: bool = True, scales: dict[str, float] | None = None
) -> ir.Model:
    """Copy a model, with floats in place of integers.

    Constants keep their names. One that DequantizeLinear read becomes what it stood for, which QuantizeLinear rounds to
    the same integers, so that the copy computes what the model does; of 32 bits (biases), DequantizeLinear goes.

    Parameters
    ----------
    model : onnx_ir.Model
    masters : dict of str to Master
        What `find_masters` found in it.
    rounded : bool
        False: DequantizeLinear goes everywhere, and the copy is one of floats.
    scales : dict of str to float, optional
        Filled with the factors of scales, which the copy then has; see `with_factors`.
    """
    if not masters and scales is None:
        return model
    copy = model.clone()
    tape = Tape(copy.graph, int(copy.graph.opset_imports[""]))
    if scales is not None:
        scales |= with_factors(tape)
    constants = {value.name: value for value in edit.values(copy.graph)}
    for name, master in masters.items():
        value = constants[name]
        readers = [node for node, _ in value.uses()]
        edit.set_constant(value, master.floats)
        if rounded and master.is_rounded:
            _round(tape, value, master, readers)
            continue
        for node in readers:
            edit.replace_uses(node.outputs[0], value)
            copy.graph.remove(node, safe=True)
    common.TopologicalSortPass()(copy)
    return copy


def _round(tape: Tape, value: ir.Value, master: Master, readers: list[ir.Node]) -> None:
    """Put what rounds a float in front of those that read the integers."""
    first = readers[0]
    scale, clipped = tape.of(edit.required(first, 1)), tape.of(value)
    if master.bounds is not None:
        low, high = (float(bound) for bound in master.bounds)
        if scale.value.producer() is None:
            step = master.spread.array(master.scale)
            least, most = (tape.of(np.asarray(step * limit, np.float32)) for limit in (low - WITHIN, high + WITHIN))
        else:
            least, most = (master.spread.tensor(scale) * limit for limit in (low - WITHIN, high + WITHIN))
        clipped = tape.op("Min", tape.op("Max", clipped, least), most)
    point = first.inputs[2] if len(first.inputs) > 2 else None
    if point is None:
        zeros = np.zeros(master.point.shape, master.integers.dtype)
        point = edit.Inserter(tape.graph).constant(f"{value.name}/zero_point", zeros)
    shared = {name: first.attributes[name].value for name in ("axis", "block_size") if name in first.attributes}
    rounded = tape.op("QuantizeLinear", clipped, scale, point, domain=first.domain, **shared)
    for node in readers:
        node.replace_input_with(0, rounded.value)


def integers_of(model: ir.Model, masters: Mapping[str, Master], weights: Mapping[str, Array]) -> dict[str, Array]:
    """Turn trained floats into integers, where there were such, and trained factors into scales."""
    scales = trained_scales(model, weights)
    found: dict[str, Array] = {name: array for name, array in weights.items() if not name.endswith(FACTOR)}
    for name, master in masters.items():
        if name in found or scale_of(master, scales) is not None:
            floats = found.get(name, master.floats)
            found[name] = master.rounded(floats, scale_of(master, scales))
    return found | scales
