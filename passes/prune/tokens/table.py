"""Where a model looks up its tokens, and where it scores them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import onnx_ir as ir

from onnxcompress.errors import PassError
from onnxcompress.graph import edit
from onnxcompress.graph.layer import Layer
from onnxcompress.graph.tables import KEEPS, find_table

BETWEEN = {"Add", "Cast", "Clip", "Div", "Identity", "Mul", "Tanh"}
"""What may stand between the scores and an output: it treats each by itself."""


@dataclass
class Vocabulary:
    """What has a place for each token.

    Attributes
    ----------
    inputs : list of onnx_ir.Value
        Inputs of the model that hold tokens.
    lookups : list of onnx_ir.Node
        The Gathers that look them up in the table.
    constants : dict
        The table, weights and biases of the scores → the axis that counts the tokens.
    scores : list of onnx_ir.Value
        Outputs of the model with a score for each token.
    between : list of onnx_ir.Value
        Tensors that count tokens along their last axis.
    """

    size: int
    inputs: list[ir.Value] = field(default_factory=list)
    lookups: list[ir.Node] = field(default_factory=list)
    constants: dict[ir.Value, int] = field(default_factory=dict)
    scores: list[ir.Value] = field(default_factory=list)
    between: list[ir.Value] = field(default_factory=list)


def find_vocabulary(model: ir.Model) -> Vocabulary:
    """Find the table with most rows that an input picks from, and what scores as many tokens.

    Raises
    ------
    PassError
        There is none, or something else reads the table.
    """
    picked = {value: table for value in model.graph.inputs if (table := find_table(value)) is not None}
    if not picked:
        raise PassError("no input of the model picks rows of a constant table: it has no vocabulary")
    largest = max(picked.values(), key=lambda table: table.rows)
    value = next((v for v in edit.values(model.graph) if v.name == largest.name and edit.constant(v) is not None), None)
    tensor = edit.constant(value)
    if value is None or tensor is None or not tensor.dtype.is_floating_point() or len(tensor.shape) != 2:
        raise PassError(f"the table '{largest.name}' is no matrix of floats; prune the vocabulary before quantizing")
    found = Vocabulary(largest.rows, [v for v, table in picked.items() if table.name == largest.name])
    found.constants[value] = 0
    found.lookups = [node for node, port in value.uses() if edit.op_of(node) == "Gather" and port == 0]
    if any(edit.int_attribute(node, "axis", 0) for node in found.lookups) or not found.lookups:
        raise PassError(f"the table '{largest.name}' is looked up by columns")
    for output in model.graph.outputs:
        _trace(found, output, value)
    strangers = [node for node in _readers(value) if node not in found.lookups and not _scores(found, node)]
    if strangers:
        raise PassError(f"{edit.label(strangers[0])} reads the table '{largest.name}', too, and has no rule here")
    return found


def _readers(value: ir.Value) -> Iterator[ir.Node]:
    """Yield what reads a constant, behind what moves it."""
    for node, _ in value.uses():
        if edit.op_of(node) in ("Transpose", "Identity", *KEEPS) and edit.constant(value) is not None:
            yield from (reader for reader, _ in node.outputs[0].uses())
        else:
            yield node


def _scores(found: Vocabulary, node: ir.Node) -> bool:
    return node.outputs[0] in found.between


def _trace(found: Vocabulary, output: ir.Value, table: ir.Value) -> None:
    """Note an output that scores tokens, with all that stands between it and its layer."""
    between, constants, value = list[ir.Value](), dict[ir.Value, int](), output
    while (node := value.producer()) is not None:
        between.append(value)
        layer = Layer.of(node)
        if layer is not None:
            if not _is_head(found, layer, table, constants):
                return
            found.scores.append(output)
            found.between += between
            found.constants |= constants
            return
        if edit.op_of(node) not in BETWEEN:
            return
        moving = [v for v in node.inputs if v is not None and edit.constant(v) is None]
        for other in (v for v in node.inputs if v is not None and edit.constant(v) is not None):
            _count(found, constants, other)
        if len(moving) != 1:
            return
        value = moving[0]


def _is_head(found: Vocabulary, layer: Layer, table: ir.Value, constants: dict[ir.Value, int]) -> bool:
    weight, made = layer.value, layer.value.producer()
    tied = made is not None and edit.op_of(made) in ("Transpose", "Identity") and made.inputs[0] is table
    if not tied and (edit.constant(weight) is None or layer.is_stack or layer.outputs != found.size):
        return False
    if weight is not table and not tied:
        constants[weight] = layer.axes.output % 2
    if layer.bias_value is not None:
        _count(found, constants, layer.bias_value)
    return True


def _count(found: Vocabulary, constants: dict[ir.Value, int], value: ir.Value) -> None:
    tensor = edit.constant(value)
    if tensor is not None and len(tensor.shape) and tensor.shape.numpy()[-1] == found.size:
        constants[value] = len(tensor.shape) - 1
