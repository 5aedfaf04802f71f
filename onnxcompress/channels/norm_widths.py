"""Normalisations over the width: a zero channel can go, since what was divided by the old width can be made up for.

Where the mean is taken away first (LayerNormalization), zeros stand in for what went, before the operator, and are cut
off behind it. Where there is only a mean of squares (RMSNormalization), nothing need be padded: of n channels k stay,
and ``x / sqrt(mean_n(x²) + ε) · g`` is ``x / sqrt(mean_k(x²) + ε · n/k) · g · sqrt(n/k)``.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from ..graph import edit
from .norms import NORMS, Norm
from .removal import Kept, Removal


def rewrite_norm(removal: Removal, node: ir.Node) -> None:
    """Let a normalisation give on fewer channels what it gave on all."""
    known = NORMS[edit.op_of(node)]
    rank = len(removal.groups.engine.shape(node.outputs[0]))
    kept = removal.kept(edit.required(node, 0), rank - 1)
    if kept is None:
        return
    if known.centred:
        _pad(removal, node, known, kept)
        return
    share = len(kept) / int(kept.sum())
    epsilon = node.attributes.get_float("epsilon", known.epsilon) * share
    node.attributes["epsilon"] = ir.AttrFloat32("epsilon", epsilon)
    for port, value in known.parameters(node).items():
        array = np.compress(kept, removal.arrays[value], -1)
        factor = array.dtype.type(math.sqrt(share))
        node.replace_input_with(port, removal.insert.constant(f"{edit.output_name(node)}_{port}", array * factor))
        edit.remove_unread(value)


def _pad(removal: Removal, node: ir.Node, known: Norm, kept: Kept) -> None:
    """Pad with zeros before, cut off behind; scales, shifts and biases of what is padded are zero."""
    engine, name = removal.groups.engine, edit.output_name(node)
    gone, width = int((~kept).sum()), int(kept.sum())
    ports = [port for port, value in enumerate(node.inputs) if value is not None and port not in known.data]
    for port in ports:
        value = edit.required(node, port)
        array = removal.arrays.get(value)
        if array is not None and array.shape[-1:] == kept.shape:
            zeros = np.zeros((*array.shape[:-1], gone), array.dtype)
            array = np.concatenate([np.compress(kept, array, -1), zeros], axis=-1)
            node.replace_input_with(port, removal.insert.constant(f"{name}_{port}", array))
    old = [(port, edit.required(node, port)) for port in known.data]
    if len(old) == 1 and _padded_more(removal, old[0][1], gone):
        return
    for port, data in old:
        pads = np.zeros(2 * len(engine.shape(data)), np.int64)
        pads[-1] = gone
        more = removal.insert.constant(f"{name}_pads", pads)
        node.replace_input_with(port, removal.insert.node("Pad", [data, more], before=node, dtype=data.dtype))
    for out in (node.outputs[0], known.sum_of(node)):
        if out is not None and (out.uses() or out.is_graph_output()):
            sizes = {"start": 0, "end": width, "axis": len(engine.shape(out)) - 1}
            ends = [removal.insert.constant(f"{name}_{n}", np.array([v])) for n, v in sizes.items()]
            removal.insert.behind(out, "Slice", *ends)
            out.shape = None


def _padded_more(removal: Removal, data: ir.Value, gone: int) -> bool:
    """Let what an earlier removal padded be padded by more; False where there is nothing of that kind."""
    before = data.producer()
    pads = None if before is None or before.op_type != "Pad" else removal.parameter(before, 1)
    if before is None or pads is None or len(data.uses()) != 1:
        return False
    pads[-1] += gone
    removal.set_parameter(before, 1, pads)
    return True
