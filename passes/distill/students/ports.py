"""Gives one model the inputs and outputs of another: by name, or by type and shape where only one can be meant."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxcompress.errors import ModelError
from onnxcompress.graph import edit, shapes
from onnxcompress.samples.inputs import find_layout, model_inputs
from onnxcompress.training.batch import free_batch


def open_batch(model: ir.Model, like: ir.Model, called: str) -> None:
    """Let a model that was exported for some number of samples take any number, in place, where another does.

    Raises
    ------
    ModelError
        That cannot be.
    """
    any_number, fixed = (find_layout(model_inputs(each)).fixed_batch for each in (like, model))
    if any_number is not None or fixed is None:
        return
    if free_batch(model) is not None:
        reason = f"it takes {fixed} samples at a time, and the model any number"
        raise ModelError(f"{called}: {reason}; export it with a batch of any size")
    shapes.infer(model)


def take_inputs(model: ir.Model, like: ir.Model, called: str) -> list[str]:
    """Let a model take the inputs of another, in their order; returns what is worth telling.

    What it lacks becomes an input that nothing reads; inputs of its own that need not be given become constants.

    Parameters
    ----------
    model : onnx_ir.Model
        Changed in place.
    like : onnx_ir.Model
    called : str
        Begins messages: what the model is, and its file.

    Raises
    ------
    ModelError
        An input has no counterpart, or another type or shape; both are named.
    """
    graph, wanted = model.graph, list(like.graph.inputs)
    required = [value for value in graph.inputs if not value.is_initializer()]
    pairs = _paired(wanted, required, f"{called}: input")
    free = [value for value in required if value not in pairs.values()]
    if free:
        left = [value for value in wanted if value not in pairs and not value.is_initializer()] or wanted
        raise ModelError(f"{called}: input {described(free[0])} fits no input of the model: {_listed(left)}")
    for value in edit.defaults(graph):
        edit.make_constant(value)
    edit.rename(graph, {value: str(other.name) for other, value in pairs.items()})
    lacking = [value for value in wanted if value not in pairs]
    for other in lacking:
        pairs[other] = _unread(graph, other)
    edit.set_inputs(graph, [pairs[value] for value in wanted])
    return [f"{called} does not read {_listed(lacking)}"] if lacking else []


def take_outputs(model: ir.Model, like: ir.Model, called: str) -> list[str]:
    """Let a model give the outputs of another, in their order; returns what is worth telling.

    Raises
    ------
    ModelError
        An output has no counterpart, or another type or shape; both are named.
    """
    graph, wanted = model.graph, list(like.graph.outputs)
    pairs = _paired(wanted, list(graph.outputs), f"{called}: output")
    lacking = [value for value in wanted if value not in pairs]
    if lacking:
        left = [value for value in graph.outputs if value not in pairs.values()] or list(graph.outputs)
        raise ModelError(
            f"{called}: none of its outputs fits the model's output {described(lacking[0])}; there are {_listed(left)}"
        )
    extra = [value for value in graph.outputs if value not in pairs.values()]
    edit.set_outputs(graph, [_apart(graph, pairs[value]) for value in wanted])
    edit.rename(graph, {mine: str(other.name) for other, mine in zip(wanted, graph.outputs, strict=True)})
    edit.remove_dead(model)
    return [f"{called}: left out what the model does not give: {_listed(extra)}"] if extra else []


def described(value: ir.Value) -> str:
    """Return what messages call an input or output: its name, type and shape."""
    dtype = "of no tensor" if value.dtype is None else value.dtype.name.lower()
    if value.shape is None:
        return f"'{value.name}' {dtype} of any shape"
    dims = (dim if isinstance(dim, int) else dim.value or "?" for dim in value.shape)
    return f"'{value.name}' {dtype}[{', '.join(map(str, dims))}]"


def fit(one: ir.Value, other: ir.Value) -> bool:
    """Tell whether two values have one type, and shapes that can be the same."""
    if one.type is not None and other.type is not None and str(one.type) != str(other.type):
        return False
    if one.shape is None or other.shape is None:
        return True
    dims = zip(one.shape, other.shape, strict=False)
    known = [(a, b) for a, b in dims if isinstance(a, int) and isinstance(b, int)]
    return len(one.shape) == len(other.shape) and all(a == b for a, b in known)


def _paired(wanted: Sequence[ir.Value], found: Sequence[ir.Value], called: str) -> dict[ir.Value, ir.Value]:
    """Return what is wanted → what is found of the same name, and where only one can be meant, of its shape."""
    by_name = {value.name: value for value in found}
    pairs = {value: by_name[value.name] for value in wanted if value.name in by_name}
    for one, other in pairs.items():
        if not fit(one, other):
            raise ModelError(f"{called} {described(other)} does not fit the model's {described(one)}")
    open_ = [value for value in wanted if value not in pairs and not value.is_initializer()]
    free = [value for value in found if value not in pairs.values()]
    for value in open_:
        fitting = [other for other in free if fit(value, other)]
        rivals = [each for each in open_ if fitting and fit(each, fitting[0])]
        if len(fitting) == len(rivals) == 1:
            pairs[value] = fitting[0]
    return pairs


def _unread(graph: ir.Graph, other: ir.Value) -> ir.Value:
    """Add an input that nothing reads, with the default of another."""
    assert other.dtype is not None  # samples are there for tensors alone
    value = edit.add_input(graph, str(other.name), other.dtype, other.shape)
    if other.const_value is not None:
        edit.make_constant(value, other.const_value, optional=True)
    return value


def _apart(graph: ir.Graph, value: ir.Value) -> ir.Value:
    """Return an output that can be named by itself: behind what is an input or a constant, too, stands an Identity."""
    if value.producer() is not None:
        return value
    return edit.Inserter(graph).node("Identity", [value], dtype=value.dtype, shape=value.shape)


def _listed(values: Sequence[ir.Value]) -> str:
    return ", ".join(map(described, values)) or "none"
