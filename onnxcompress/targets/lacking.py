"""Operators that an engine has not: onnxruntime's own, those of somebody's library, integer ones."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from ..graph import edit
from ..graph.contrib.schemas import MICROSOFT, SIGNATURES
from ..graph.operators import INTEGER_OPERATORS
from ..runtime.provider import running
from .finding import Effect, Finding
from .quantized import Quantized
from .storage import effect
from .target import Target

STANDARD = ("", "ai.onnx.ml", "ai.onnx.preview.training")
"""Domains of ONNX's own."""

UNFUSED = "export without onnxruntime's fusions, or take the model from before its optimiser wrote it"
DEQUANTIZED = "quantize-weights with format = 'qdq' writes a DequantizeLinear in its place"
STATIC = "quantize, which writes QuantizeLinear and DequantizeLinear, does without it"

INSTEAD = {
    "GatherBlockQuantized": DEQUANTIZED,
    "MatMulBnb4": DEQUANTIZED,
    "MatMulNBits": DEQUANTIZED,
    "QMoE": "quantize-weights on the model before it had it stores the experts as it takes them",
}
"""What to do about an operator, where that is not to undo a fusion."""


def computes(target: Target, op: str) -> bool:
    """Tell whether an engine itself computes an operator that is onnxruntime's own, or works on integers.

    Parameters
    ----------
    target : Target
    op : str
        With its domain.
    """
    if op in target.operators.rejected:
        return False
    if op in target.operators.qoperators or op.rpartition("::")[2] in target.operators.contrib:
        return True
    return target.operators.beyond == "taken" and op in SIGNATURES and SIGNATURES[op].cpu


def operators(model: Quantized, target: Target) -> Iterator[Finding]:
    """Find operators that the engine has no kernel for: one finding for each type, with how many nodes have it."""
    by_type: dict[str, list[ir.Node]] = {}
    for node in model.nodes:
        by_type.setdefault(edit.op_of(node), []).append(node)
    for op, nodes in by_type.items():
        found = _lack(op, nodes[0].domain, target)
        if found is not None:
            many = f" ({len(nodes)} nodes)" if len(nodes) > 1 else ""
            kind, before, after = found
            yield Finding("operator", kind, edit.label(nodes[0]), f"{before} {op}{many}{after}")


def _lack(op: str, domain: str, target: Target) -> tuple[Effect, str, str] | None:
    """Return what an operator that the engine does not take leads to, and what is said before and after its name."""
    if op in target.operators.rejected:
        return "rejected", "it has no", ""
    if domain in STANDARD and op not in SIGNATURES:
        integer = op in INTEGER_OPERATORS and op not in target.operators.qoperators
        return (effect(target.operators), "it takes no", "") if integer else None
    if domain.startswith(f"{MICROSOFT}."):
        return None if target.operators.beyond == "taken" else ("rejected", "it takes no", f"; {UNFUSED}")
    if domain not in (*STANDARD, MICROSOFT):
        return _foreign(target)
    if computes(target, op):
        return None
    known = SIGNATURES.get(op)
    if known is None:
        return "rejected", "no onnxruntime known here has", ": the name may be wrong, or it is of a newer one"
    remedy = f"; {_instead(op)}"
    if target.operators.beyond == "cpu" and known.cpu:
        return "float", "it takes no", f", which is left to onnxruntime's CPU kernels{remedy}"
    return "rejected", "it takes no", remedy


def _foreign(target: Target) -> tuple[Effect, str, str] | None:
    """Return what becomes of an operator of somebody's own library."""
    if target.operators.beyond == "reject":
        return "rejected", "it takes no", ", which is of a library of its own; replace it by ONNX's operators"
    if running().custom_ops:
        return None
    return "advice", "its session needs the library of", "; here it is given with --custom-ops LIBRARY"


def _instead(op: str) -> str:
    name = op.rpartition("::")[2]
    return INSTEAD.get(name, STATIC if op in INTEGER_OPERATORS else UNFUSED)
