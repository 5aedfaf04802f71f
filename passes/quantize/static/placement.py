"""Which nodes compute on integers, and on which tensors QuantizeLinear and DequantizeLinear stand for that."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from onnxcompress.contract import Refusal
from onnxcompress.errors import PassError
from onnxcompress.graph import edit
from onnxcompress.graph.operators import INTEGER_OPERATORS

from ..shared.units import COMPUTE, OPEN, UNSUPPORTED, Unit, find_unit
from .scheme import Coverage

INTEGER = {op.rpartition("::")[2] for op in INTEGER_OPERATORS}
BEGINNINGS = ("DequantizeLinear", "DynamicQuantize", "GatherBlockQuantized", "QLinear", "QOrdered", "QuantizeLinear")
"""Any operator that begins so means that somebody quantized the model before."""


@dataclass(eq=False)
class Placement:
    """What is quantized.

    Attributes
    ----------
    units : list of Unit
        Those that compute on integers, in the order of the graph.
    tensors : dict of onnx_ir.Value to bool
        Each activation that is quantized; True where everything reads the result (its unit gives integers), False
        where only the units do (a float node or the caller gives it).
    sources : dict of onnx_ir.Value to onnx_ir.Value
        Each of `tensors` → the tensor that data movement brought it from, whose scale it shares.
    makers : dict of onnx_ir.Value to Unit
        The unit that gives a tensor.
    captured : dict of (onnx_ir.Graph, onnx_ir.Value) to None
        Tensors that units of an inner graph read from outside: quantized once more where they are read, because
        engines fuse within a graph. Not in `tensors` on that account.
    refused : list of Refusal
    """

    units: list[Unit] = field(default_factory=list)
    tensors: dict[ir.Value, bool] = field(default_factory=dict)
    sources: dict[ir.Value, ir.Value] = field(default_factory=dict)
    makers: dict[ir.Value, Unit] = field(default_factory=dict)
    captured: dict[tuple[ir.Graph, ir.Value], None] = field(default_factory=dict)
    refused: list[Refusal] = field(default_factory=list)

    def touched(self, model: ir.Model) -> Iterator[ir.Node]:
        """Yield what computes on integers, what is part of it, what reads integers, and what was refused."""
        placed = {node for unit in self.units for node in (unit.node, *unit.fused)}
        refused = {refusal.subject for refusal in self.refused}
        for node in model.graph.all_nodes():
            if node in placed or edit.label(node) in refused or self.sources.keys() & set(node.inputs):
                yield node


def check_not_quantized(model: ir.Model) -> None:
    """Raise `PassError` when the model holds quantized operators already."""
    inside = (node for function in model.functions.values() for node in function.all_nodes())
    for node in (*model.graph.all_nodes(), *inside):
        if node.op_type in INTEGER or node.op_type.startswith(BEGINNINGS):
            raise PassError(
                f"the model is already quantized: {edit.label(node)}; give the float model that it was made from"
            )


def place(
    model: ir.Model,
    left_alone: Mapping[ir.Node, str],
    blocked: Mapping[ir.Node, str],
    operators: Collection[str],
    coverage: Coverage = "layers",
) -> Placement:
    """Choose the nodes that compute on integers.

    Parameters
    ----------
    model : onnx_ir.Model
        Opset 13 or later, types inferred. Not changed.
    left_alone : mapping of onnx_ir.Node to str
        Nodes that are not selected, with the reason. What is fused into the node before it goes with that.
    blocked : mapping of onnx_ir.Node to str
        More nodes to leave alone, whatever was asked for.
    operators : collection of str
        What the target computes on integers or passes on.
    coverage : {"layers", "all"}
        Which nodes that compute on values take part.

    Notes
    -----
    With "layers", a node that computes on values takes part when it lies between two layers: reached from a Conv
    through others of its kind and data movement, and reaching another layer. Anywhere else integers would be converted
    just for it.
    With "all", each of them takes part, and data movement between any two.
    """
    result = Placement()
    rules = _Rules(left_alone={**left_alone, **blocked}, operators=operators, coverage=coverage)
    _place_in(model.graph, rules, result)
    hidden = _hidden(model.graph)
    for graph in model.graph.subgraphs():
        if graph in hidden:
            reason = f"it is inside an inner graph of {hidden[graph]}, where no range can be measured"
            layers = (node for node in graph if edit.op_of(node) in COMPUTE | UNSUPPORTED.keys())
            result.refused += [Refusal(edit.label(node), reason) for node in layers]
        else:
            _place_in(graph, rules, result)
    _find_sources(result)
    return result


def _hidden(graph: ir.Graph) -> dict[ir.Graph, str]:
    """Return the inner graphs that are no branch or body of an If, Loop or Scan, with the node that runs them."""
    found: dict[ir.Graph, str] = {}
    for node in graph.all_nodes():
        around = found.get(node.graph) if isinstance(node.graph, ir.Graph) else None
        if around is not None or edit.op_of(node) not in ("If", "Loop", "Scan"):
            found |= dict.fromkeys(edit.inner_graphs(node), around or edit.label(node))
    return found


@dataclass(frozen=True)
class _Rules:
    """What `place` is told."""

    left_alone: dict[ir.Node, str]
    operators: Collection[str]
    coverage: Coverage


def _place_in(graph: ir.Graph, rules: _Rules, result: Placement) -> None:
    """Add the units of one graph to the placement: what lies between two of them lies in their graph."""
    left_alone = rules.left_alone
    all_operators = rules.coverage == "all"
    found: list[Unit] = []
    fused: set[ir.Node] = set()
    for node in graph:
        unit = find_unit(node, rules.operators if all_operators else ())
        if all_operators and node in fused:
            continue
        if isinstance(unit, str):
            result.refused.append(Refusal(edit.label(node), left_alone.get(node, unit)))
        elif node in left_alone and unit is not None:
            if node not in fused:
                result.refused.append(Refusal(edit.label(node), left_alone[node]))
        elif unit is not None and node.op_type in rules.operators:
            found.append(unit)
            fused |= unit.fused
        elif unit is not None and unit.kind == "compute":
            result.refused.append(Refusal(edit.label(node), f"the target does not compute {node.op_type} on integers"))
    units = _connected(found, all_operators)
    result.units += units
    _find_tensors(graph, units, result)


def _connected(units: list[Unit], all_operators: bool) -> list[Unit]:
    """Keep the compute units, those on values too if they take part everywhere, and what lies between two of them."""
    seeds = {unit for unit in units if unit.kind == "compute" or (all_operators and unit.kind == "values")}
    after: set[ir.Value] = set()
    reached: set[Unit] = set()
    for unit in units:
        if unit in seeds or after.intersection(unit.inputs):
            reached.add(unit)
            if all_operators or unit.node.op_type not in OPEN:
                after.update(unit.outputs)
    before: set[ir.Value] = set()
    wanted: set[Unit] = set()
    for unit in reversed(units):
        if unit in seeds or (unit in reached and before.intersection(unit.outputs)):
            wanted.add(unit)
            before.update(unit.inputs)
    return [unit for unit in units if unit in wanted]


def _find_tensors(graph: ir.Graph, units: list[Unit], result: Placement) -> None:
    """Find the tensors to quantize: what units read, and what they give."""
    read = {value for unit in units for value in unit.inputs}
    for unit in units:
        for value in unit.inputs:
            if value.graph is graph:
                result.tensors.setdefault(value, False)
            else:
                result.captured[graph, value] = None
        for value in unit.outputs:
            if unit.node.op_type not in OPEN or value in read:
                result.tensors[value] = True
                result.makers[value] = unit


def _find_sources(result: Placement) -> None:
    for value in (*result.tensors, *(value for _, value in result.captured)):
        source = value
        while (maker := result.makers.get(source)) is not None and maker.kind == "move":
            source = maker.inputs[0]
        result.sources[value] = source
