"""Local functions, put in where they are called; they may have another opset than the model that calls them."""

from __future__ import annotations

from collections.abc import Iterable

import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from ..errors import PassError


def inline(model: ir.Model) -> list[str]:
    """Put local functions in where they are called, in place; returns their names.

    Raises
    ------
    PassError
        One cannot be inlined, or has an opset in which an operator means something else and onnx cannot convert it.
    """
    names = sorted({function.name for function in model.functions.values()})
    if not names:
        return names
    for function in model.functions.values():
        for domain, version in function.opset_imports.items():
            model.opset_imports.setdefault(domain, version)
    _align(model)
    try:
        common.InlinePass()(model)
    except (ValueError, ir.passes.PassError, ir.passes.PreconditionError) as error:
        cause = error.__cause__ or error
        raise PassError(f"a local function cannot be inlined: {cause}; inline it when exporting") from None
    return names


def _align(model: ir.Model) -> None:
    """Give the model and its functions one opset, in place.

    Most operators are the same in both opsets, so that only a number changes. What is not is converted by onnx.
    """
    target = _common(model)
    for function in model.functions.values():
        version = function.opset_imports.get("", target)
        if version == target:
            continue
        changed = _changed(function.all_nodes(), version, target)
        if changed:
            _convert(function, version, target, changed)
        function.opset_imports[""] = target
    model.opset_imports[""] = target


def _common(model: ir.Model) -> int:
    """Return the newest opset that the outer graph can have without changing what its operators mean."""
    opset = model.opset_imports.get("", 1)
    versions = [function.opset_imports.get("", opset) for function in model.functions.values()]
    newest = max(versions, default=opset)
    return newest if newest > opset and not _changed(model.graph.all_nodes(), opset, newest) else opset


def _changed(nodes: Iterable[ir.Node], one: int, other: int) -> set[str]:
    """Return the operators whose definition is not the same in two opsets."""
    ops = {node.op_type for node in nodes if node.domain in ("", "ai.onnx")}
    return {op for op in ops if _defined(op, one) != _defined(op, other)}


def _defined(op: str, opset: int) -> int:
    try:
        version: int = onnx.defs.get_schema(op, opset, "").since_version
    except onnx.defs.SchemaError:
        return 0
    return version


def _convert(function: ir.Function, version: int, target: int, changed: set[str]) -> None:
    """Let onnx convert the body of a function, as a graph of its own."""
    proto = ir.to_proto(function)
    inputs = [onnx.ValueInfoProto(name=name) for name in proto.input]
    outputs = [onnx.ValueInfoProto(name=name) for name in proto.output]
    graph = onnx.GraphProto(name="body", node=proto.node, input=inputs, output=outputs)
    imports = [onnx.OperatorSetIdProto(domain="", version=version)]
    try:
        body = onnx.version_converter.convert_version(
            onnx.ModelProto(ir_version=onnx.IR_VERSION, graph=graph, opset_import=imports), target
        )
    except (RuntimeError, ValueError, onnx.version_converter.ConvertError) as error:
        raise PassError(
            f"the local function '{function.name}' has opset {version}, the model {target}, and onnx cannot convert "
            f"{', '.join(sorted(changed))}: {' '.join(str(error).split())[:200]}; export both with one opset"
        ) from None
    made = ir.from_proto(body).graph
    for node in list(function.graph):
        function.graph.remove(node)
    names = {value.name: value for value in function.graph.inputs}
    nodes = list(made)
    for node in nodes:
        made.remove(node)
    _adopt(function, nodes, names, [str(value.name) for value in made.outputs])


def _adopt(function: ir.Function, nodes: list[ir.Node], names: dict[str | None, ir.Value], outputs: list[str]) -> None:
    for node in nodes:
        for index, value in enumerate(node.inputs):
            if value is not None and value.name in names:
                node.replace_input_with(index, names[value.name])
        function.graph.append(node)
        names |= {value.name: value for value in node.outputs}
    function.graph.outputs[:] = [names[name] for name in outputs]
