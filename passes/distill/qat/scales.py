"""Scales that are trained along with the integers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.graph import edit, operators
from onnxcompress.training.gradients import FACTOR
from onnxcompress.training.rules.quantize import RANGES, integer_type, spread_of
from onnxcompress.training.rules.tape import Tape

from .masters import DEQUANTIZE, QUANTIZE, Master

Floats = npt.NDArray[np.float32]


def with_factors(tape: Tape) -> dict[str, float]:
    """Multiply each scale of a graph by a factor, which is 1 and can be trained.

    Equal scales on both sides of what takes integers over as they are have the same one. Factors, and not scales, are
    trained since these are of any size, and one learning rate is to suit all.

    Returns
    -------
    dict of str to float
        Factor → what its gradient is multiplied with, ``1 / sqrt(n · q)`` for n numbers of up to q steps (Esser et al.,
        "Learned Step Size Quantization", arXiv:1902.08153, section 2.2).
    """
    graph = tape.graph
    shared = _shared(graph)
    factors: dict[ir.Value, ir.Value] = {}
    found: dict[str, float] = {}
    for scale, first in shared.items():
        array = edit.array(scale)
        if first not in factors:
            ones = np.ones(array.shape, np.float32)
            factors[first] = edit.Inserter(graph).constant(f"{first.name}{FACTOR}", ones)
        product = tape.of(np.asarray(array)) * tape.of(factors[first])
        for node, index in list(scale.uses()):
            if node is not product.value.producer():
                found.setdefault(str(factors[first].name), _share(node))
                node.replace_input_with(index, product.value)
    return found


def _shared(graph: ir.Graph) -> dict[ir.Value, ir.Value]:
    """Return the scales that can be trained, each with the first of those that must stay equal to it."""
    known: dict[ir.Value, ir.Value] = {}
    for node in graph:
        if edit.op_of(node) in (*DEQUANTIZE, *QUANTIZE):
            scale, tensor = edit.required(node, 1), edit.constant(node.inputs[1])
            plain = tensor is not None and tensor.dtype == ir.DataType.FLOAT and spread_of(node).block == 0
            only = all(index == 1 and edit.op_of(user) in (*DEQUANTIZE, *QUANTIZE) for user, index in scale.uses())
            if plain and only and node.inputs[0] is not None and node.inputs[0].dtype != ir.DataType.INT32:
                known.setdefault(scale, scale)
    for node in graph:
        if edit.op_of(node) in operators.on_integers("unchanged"):
            around = [scale for scale in _around(node) if scale in known]
            for scale in around[1:]:
                if np.array_equal(edit.array(scale), edit.array(around[0])):
                    old, new = known[scale], known[around[0]]
                    known = {each: new if first is old else first for each, first in known.items()}
    return known


def _around(node: ir.Node) -> list[ir.Value]:
    """Return the scales of what an operator reads and gives."""
    before = [value.producer() for value in node.inputs if value is not None]
    behind = [user for value in node.outputs for user, _ in value.uses()]
    found = [n.inputs[1] for n in before if n is not None and edit.op_of(n) in DEQUANTIZE]
    found += [n.inputs[1] for n in behind if edit.op_of(n) in QUANTIZE]
    return [value for value in found if value is not None]


def _share(node: ir.Node) -> float:
    """Return what LSQ multiplies the gradient of a scale with."""
    data = node.inputs[0] if edit.op_of(node) in QUANTIZE else node.outputs[0]
    extents = [n for n in data.shape if isinstance(n, int)] if data is not None and data.shape is not None else []
    scales = node.inputs[1].shape if node.inputs[1] is not None else None
    count = int(np.prod(extents, dtype=np.int64)) / max(int(np.prod(scales.numpy())) if scales is not None else 1, 1)
    kind = integer_type(node) if edit.op_of(node) in QUANTIZE else edit.required(node, 0).dtype
    most = RANGES[kind][1] if kind in RANGES else 1
    return float(1 / np.sqrt(max(count, 1) * most))


def trained_scales(model: ir.Model, weights: Mapping[str, npt.NDArray[Any]]) -> dict[str, Floats]:
    """Return the scales of a model with trained factors, and those of biases, which are products of others."""
    shared = _shared(model.graph)
    found = {}
    for scale, first in shared.items():
        factor = weights.get(f"{first.name}{FACTOR}")
        if factor is not None:
            found[str(scale.name)] = (edit.array(scale) * factor).astype(np.float32)
    for node in model.graph if found else ():
        found |= _bias(node, found)
    return found


def _bias(node: ir.Node, scales: Mapping[str, Floats]) -> dict[str, Floats]:
    """Return the scale of a node's integer bias where it was that of the data times that of the weight."""
    makers = [None if value is None else value.producer() for value in node.inputs[:3]]
    if len(makers) < 3 or any(maker is None or edit.op_of(maker) not in DEQUANTIZE for maker in makers):
        return {}
    names = [str(edit.required(maker, 1).name) for maker in makers if maker is not None]
    old = [edit.array(edit.required(maker, 1)) for maker in makers if maker is not None]
    if not np.allclose(old[0] * old[1], old[2], rtol=1e-4):
        return {}
    data, weight = (scales.get(name, array) for name, array in zip(names[:2], old[:2], strict=True))
    return {names[2]: np.broadcast_to(data * weight, old[2].shape).astype(np.float32)}


def scale_of(master: Master, scales: Mapping[str, Floats]) -> Floats | None:
    """Return the trained scale of a constant, if it is another than before."""
    return scales.get(str(edit.required(master.readers[0], 1).name))
