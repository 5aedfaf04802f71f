"""Local functions, put in where they are called; they may have another opset than the model that calls them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from ..errors import PassError
from . import edit

ORIGIN = "onnxcompress.origin"
"""Where `ir.Node.meta` of what was inlined holds the names and the operators that it went by before, as keys."""

TAG = f"{ORIGIN}:"


def flatten(model: ir.Model) -> list[str]:
    """Inline local functions and give each tensor a name of its own, in place; returns the functions' names.

    The same model always gives the same result, so that names in a plan mean the same when it is applied.

    Raises
    ------
    PassError
        A local function cannot be inlined.
    """
    names = inline(model)
    separate_names(model.graph)
    return names


def separate_names(graph: ir.Graph) -> None:
    """Rename tensors of inner graphs that are called like another: branches may share names, plans may not.

    Nobody outside knows these names. Nodes are called by their first output in plans, so that theirs may stay.
    """
    inside = [value for inner in graph.subgraphs() for value in _made(inner)]
    if not inside:
        return
    names, seen = edit.Names(graph), {value.name for value in _made(graph)}
    for value in inside:
        if value.name in seen:
            node, old = value.producer(), str(value.name)
            value.name = names.value(old)
            if node is not None:
                node.meta.setdefault(ORIGIN, set()).add(old)
        seen.add(value.name)


def _made(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from (value for value in graph.initializers.values() if not value.is_graph_input())
    for node in graph:
        yield from (value for value in node.outputs if value.name)


def inline(model: ir.Model) -> list[str]:
    """Put local functions in where they are called, in place; returns their names.

    What is put in remembers what it was called, and what the calls of it were: see `ORIGIN`.

    Raises
    ------
    PassError
        One cannot be inlined, or has an opset in which an operator means something else.
    """
    names = sorted({function.name for function in model.functions.values()})
    if not names:
        return names
    for function in model.functions.values():
        for domain, version in function.opset_imports.items():
            model.opset_imports.setdefault(domain, version)
    _align(model)
    _tag(model)
    try:
        common.InlinePass()(model)
    except (ValueError, ir.passes.PassError, ir.passes.PreconditionError) as error:
        cause = error.__cause__ or error
        raise PassError(f"a local function cannot be inlined: {cause}; inline it when exporting") from None
    for node in model.graph.all_nodes():
        tags = [key for key in node.metadata_props if key.startswith(TAG)]
        if tags:
            node.meta[ORIGIN] = {key.removeprefix(TAG) for key in tags}
            for key in tags:
                del node.metadata_props[key]
    return names


def _tag(model: ir.Model) -> None:
    """Write names into the metadata of calls and of what functions hold: what is inlined gets that of its call, too."""
    inside = {node for function in model.functions.values() for node in function.all_nodes()}
    for node in (*model.graph.all_nodes(), *inside):
        if node in inside or node.op_identifier() in model.functions:
            names = (node.name, *(value.name for value in node.outputs), f"type:{node.op_type}")
            node.metadata_props.update({f"{TAG}{name}": "" for name in names if name})


def _align(model: ir.Model) -> None:
    """Give the model and its functions one opset, in place; most operators are the same in both."""
    target = _common(model)
    for function in model.functions.values():
        version = function.opset_imports.get("", target)
        if version == target:
            continue
        changed = _changed(function.all_nodes(), version, target)
        if changed:
            raise PassError(
                f"the local function '{function.name}' has opset {version}, the model {target}, and "
                f"{', '.join(sorted(changed))} is not the same in both; export both with one opset"
            )
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


def _defined(op: str, opset: int) -> object:
    """Return what an operator takes and gives in an opset, types aside: most of its versions only add some."""
    try:
        schema = onnx.defs.get_schema(op, opset, "")
    except onnx.defs.SchemaError:
        return None
    attributes = {name: (a.required, str(a.default_value)) for name, a in schema.attributes.items()}
    ports = [[(port.name, str(port.option)) for port in ports] for ports in (schema.inputs, schema.outputs)]
    return attributes, ports
