"""Operators that are made of others: written as those before a model is differentiated, one entry for each.

What is trained stays what it was: an LSTM that is unrolled reads the same weights at each step.
"""

from __future__ import annotations

import onnx_ir as ir

from ...graph import edit
from ..rules.step import Step
from ..rules.tape import Tape
from . import attention, few_bits, fused, grouped, norms, picking, recurrent
from .composite import Composite

COMPOSITES: dict[str, Composite] = {
    **attention.COMPOSITES,
    **few_bits.COMPOSITES,
    **fused.COMPOSITES,
    **grouped.COMPOSITES,
    **norms.COMPOSITES,
    **picking.COMPOSITES,
    **recurrent.COMPOSITES,
}
"""Operator to how it is written."""


def write_composites(graph: ir.Graph) -> bool:
    """Write each node that is made of others as those, in place, where enough is known; tells if there was one."""
    found = [node for node in graph if _fits(node)]
    if not found:
        return False
    tape = Tape(graph, int(graph.opset_imports[""]))
    for node in found:
        tape.before = node
        made = COMPOSITES[edit.op_of(node)].write(Step(node, tape, [], ()))
        edit.take_over(node, [ir.Value() if tensor is None else tensor.value for tensor in made])
    return True


def _fits(node: ir.Node) -> bool:
    composite = COMPOSITES.get(edit.op_of(node))
    return composite is not None and not composite.refuses(node)


__all__ = ["COMPOSITES", "Composite", "write_composites"]
