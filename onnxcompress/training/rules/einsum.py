"""Einsum: each gradient is an Einsum of the result's gradient with the other operands."""

from __future__ import annotations

import onnx_ir as ir

from .step import Gradients, Rule, Step
from .tape import Tensor


def _einsum(step: Step) -> Gradients:
    terms, result = _terms(step.node)
    return {index: _operand(step, terms, result, index) for index in range(len(terms)) if step.wants(index)}


def _operand(step: Step, terms: list[str], result: str, index: int) -> Tensor:
    """Sum what remains over what the operand lacks, and repeat it over what only the operand has."""
    others = [term for number, term in enumerate(terms) if number != index]
    known = set(result).union(*others)
    made = "".join(letter for letter in terms[index] if letter in known)
    operands = [step.g, *(step.input(number) for number in range(len(terms)) if number != index)]
    gradient = step.tape.op("Einsum", *operands, equation=f"{','.join([result, *others])}->{made}")
    if made == terms[index]:
        return gradient
    lacking = [axis for axis, letter in enumerate(terms[index]) if letter not in known]
    return gradient.unsqueeze(*lacking).expand_like(step.input(index))


def _terms(node: ir.Node) -> tuple[list[str], str]:
    """Return the letters of each operand and those of the result, which may be left to be found out."""
    equation = node.attributes.get_string("equation", "").replace(" ", "")
    left, arrow, result = equation.partition("->")
    if not arrow:
        result = "".join(sorted(letter for letter in set(left) - {","} if left.count(letter) == 1))
    return left.split(","), result


def _unfit(node: ir.Node) -> str:
    terms, result = _terms(node)
    if any("." in term for term in (*terms, result)):
        return "with '...' in its equation"
    if any(len(set(term)) < len(term) for term in terms):
        return "with a letter twice in one term of its equation"
    return "where extents of its operands are not known or are 1 for one of them" if _broadcasts(node, terms) else ""


def _broadcasts(node: ir.Node, terms: list[str]) -> bool:
    """Tell whether a letter stands for 1 in one operand and for more in another."""
    extents: dict[str, set[object]] = {}
    for value, term in zip(node.inputs, terms, strict=False):
        if value is None or value.shape is None or len(value.shape) != len(term):
            return True
        for letter, extent in zip(term, value.shape, strict=True):
            extents.setdefault(letter, set()).add(extent)
    return any(1 in found and len(found) > 1 for found in extents.values())


RULES: dict[str, Rule] = {"Einsum": Rule(_einsum, refuses=_unfit)}
