"""The copy of a quantized model that is trained: floats, rounded to the integers' grid at each step."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from onnxcompress.graph import edit
from onnxcompress.training.rules.tape import Tape

from .masters import Master

WITHIN = 0.49
"""How far beyond the last integer a float may be: it still rounds to it."""


def with_floats(model: ir.Model, masters: Mapping[str, Master], *, rounded: bool = True) -> ir.Model:
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
    """
    if not masters:
        return model
    copy = model.clone()
    tape = Tape(copy.graph, int(copy.graph.opset_imports[""]))
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
        step, (low, high) = master.spread.array(master.scale), master.bounds
        least, most = (np.asarray(step * limit, np.float32) for limit in (low - WITHIN, high + WITHIN))
        clipped = tape.op("Min", tape.op("Max", clipped, least), most)
    point = first.inputs[2] if len(first.inputs) > 2 else None
    if point is None:
        zeros = np.zeros(master.point.shape, master.integers.dtype)
        point = edit.Inserter(tape.graph).constant(f"{value.name}/zero_point", zeros)
    shared = {name: first.attributes[name].value for name in ("axis", "block_size") if name in first.attributes}
    rounded = tape.op("QuantizeLinear", clipped, scale, point, domain=first.domain, **shared)
    for node in readers:
        node.replace_input_with(0, rounded.value)


def integers_of(masters: Mapping[str, Master], weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Turn trained floats into integers, where there were such."""
    return {name: masters[name].rounded(array) if name in masters else array for name, array in weights.items()}
