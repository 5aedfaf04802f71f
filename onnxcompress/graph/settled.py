"""Copies of a model that can be compared: nothing is drawn at random, and each branch is taken."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import onnx_ir as ir

from . import edit
from .functions import inline

DRAWN = 0.25
"""What stands for a random number."""

DEEPEST = 3
"""Levels of If within If whose branches are combined; deeper ones repeat the choices of those above."""

Branches = dict[str, bool]
"""Which branch each If takes, by its output."""


def random_nodes(model: ir.Model) -> list[ir.Node]:
    """Return the nodes that draw random numbers, those of local functions included."""
    inside = (node for function in model.functions.values() for node in function.all_nodes())
    return [node for node in itertools.chain(model.graph.all_nodes(), inside) if _draws(node)]


def _draws(node: ir.Node) -> bool:
    op = edit.op_of(node)
    return op in edit.RANDOM or (op == "Dropout" and _trains(node))


def _trains(node: ir.Node) -> bool:
    """Tell whether a Dropout may drop something."""
    mode = node.inputs[2] if len(node.inputs) > 2 else None
    if mode is None:
        return False
    tensor = edit.constant(mode)
    return tensor is None or bool(tensor.numpy().any())


def settled(model: ir.Model) -> ir.Model:
    """Return the model with fixed numbers for random ones; itself where it draws none."""
    if not random_nodes(model):
        return model
    copy = model.clone()
    inline(copy)
    for node in random_nodes(copy):
        SETTLE[node.op_type](node)
    return copy


def _fill(node: ir.Node) -> None:
    """Let a node that draws numbers of a shape fill the shape."""
    shape = edit.required_attribute(node, "shape").as_ints()
    edit.take_over(node, [_filled(_before(node, "Constant", [], value_ints=list(shape)), node, ir.DataType.FLOAT)])


def _fill_like(node: ir.Node) -> None:
    given = node.inputs[0]
    like = given.dtype if given is not None and given.dtype is not None else ir.DataType.FLOAT
    edit.take_over(node, [_filled(_before(node, "Shape", [given]), node, like)])


def _filled(shape: ir.Value, node: ir.Node, dtype: ir.DataType) -> ir.Value:
    kind = ir.DataType(edit.int_attribute(node, "dtype", dtype))
    value = ir.tensor(np.array([DRAWN], kind.numpy()), dtype=kind)
    return _before(node, "ConstantOfShape", [shape], value=value)


def _decide(node: ir.Node) -> None:
    """Let a Bernoulli give what is more likely."""
    given = node.inputs[0]
    like = given.dtype if given is not None and given.dtype is not None else ir.DataType.FLOAT
    rounded = _before(node, "Round", [given])
    edit.take_over(node, [_before(node, "Cast", [rounded], to=edit.int_attribute(node, "dtype", like))])


def _keep(node: ir.Node) -> None:
    """Let a Dropout drop nothing."""
    node.replace_input_with(2, None)


def _choose(node: ir.Node) -> None:
    """Let a Multinomial give the likeliest class, as often as it draws."""
    likeliest = _before(node, "ArgMax", [node.inputs[0]], axis=1, keepdims=1)
    count = _before(node, "Constant", [], value_ints=[1, edit.int_attribute(node, "sample_size", 1)])
    many = _before(node, "Expand", [likeliest, count])
    edit.take_over(node, [_before(node, "Cast", [many], to=edit.int_attribute(node, "dtype", ir.DataType.INT32))])


SETTLE: dict[str, Callable[[ir.Node], None]] = {
    "Bernoulli": _decide,
    "Dropout": _keep,
    "Multinomial": _choose,
    "RandomNormal": _fill,
    "RandomNormalLike": _fill_like,
    "RandomUniform": _fill,
    "RandomUniformLike": _fill_like,
}


def _before(node: ir.Node, op_type: str, inputs: list[ir.Value | None], **attributes: object) -> ir.Value:
    made = ir.node(op_type, inputs, attributes)  # type: ignore[arg-type]
    edit.graph_of(node).insert_before(node, made)
    return made.outputs[0]


def varying(model: ir.Model) -> dict[str, int]:
    """Return the Ifs that what is given decides, by their output, with how many others of them each stands in."""
    return {edit.output_name(node): level for level, node in _ifs(model)}


def branches(ifs: Mapping[str, int]) -> Iterator[Branches]:
    """Yield what each If takes, so that all together each branch of each is taken."""
    depth = min(max(ifs.values(), default=-1) + 1, DEEPEST)
    for choice in itertools.product((True, False), repeat=depth):
        yield {name: choice[level % depth] for name, level in ifs.items()}


def forced(model: ir.Model, taken: Branches) -> ir.Model:
    """Return a copy in which some Ifs take the branches that are said."""
    copy = model.clone()
    for _, node in list(_ifs(copy)):
        name = edit.output_name(node)
        if name in taken:
            value = ir.tensor(np.array(taken[name]))
            node.replace_input_with(0, _before(node, "Constant", [], value=value))
    return copy


def _varies(value: ir.Value | None) -> bool:
    """Tell whether a value is computed from something that is given: folding leaves other conditions constant."""
    waiting, seen = [value], set[ir.Value]()
    while waiting:
        value = waiting.pop()
        if value is None or value in seen or edit.constant(value) is not None:
            continue
        seen.add(value)
        node = value.producer()
        if node is None or edit.op_of(node) in edit.RANDOM:
            return True
        waiting += [*node.inputs, *(output for inner in edit.inner_graphs(node) for output in inner.outputs)]
    return False


def _ifs(model: ir.Model) -> Iterator[tuple[int, ir.Node]]:
    for graph in (model.graph, *(function.graph for function in model.functions.values())):
        yield from _ifs_in(graph, 0)


def _ifs_in(graph: ir.Graph, level: int) -> Iterator[tuple[int, ir.Node]]:
    for node in graph:
        found = edit.op_of(node) == "If" and _varies(node.inputs[0])
        if found:
            yield level, node
        for inner in edit.inner_graphs(node):
            yield from _ifs_in(inner, level + found)
