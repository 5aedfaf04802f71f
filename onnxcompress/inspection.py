"""What is in a model: bytes, parameters, work per node, which channels can go and which cannot, and why."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import onnx_ir as ir

from .channels.groups import Group, find_groups
from .details import GroupInfo
from .graph import cost, edit
from .graph.exports import model_file
from .graph.macs import multiplies
from .graph.save import weights
from .kinds import to_ir, working_copy

if TYPE_CHECKING:
    from .kinds import AnyModel


@dataclass(frozen=True)
class PortInfo:
    """An input or output; an extent without a fixed size has its name, or None."""

    name: str
    dtype: str
    shape: list[int | str | None] | None


@dataclass(frozen=True)
class NodeInfo:
    """A node: bytes of the constants it reads, and multiply-accumulates (None where its shapes are not known)."""

    name: str
    op: str
    bytes: int
    macs: int | None


@dataclass(frozen=True)
class Inspection:
    """What `inspect` found.

    Attributes
    ----------
    bytes, parameters, macs : int
        Of the saved model, external data included; multiply-accumulates of one sample, where shapes are known.
    ir_version : int
    opsets : dict of str to int
        Domain → version; ONNX's own domain is "".
    inputs, outputs : list of PortInfo
    nodes : list of NodeInfo
        The main graph's, in its order.
    prunable, frozen : list of GroupInfo
    inner_graphs : list of str
        Nodes that hold graphs of their own (If, Loop, Scan).
    functions : list of str
        Local functions, as ``domain::name``.
    """

    bytes: int
    parameters: int
    macs: int
    ir_version: int
    opsets: dict[str, int]
    inputs: list[PortInfo]
    outputs: list[PortInfo]
    nodes: list[NodeInfo]
    prunable: list[GroupInfo] = field(default_factory=list)
    frozen: list[GroupInfo] = field(default_factory=list)
    inner_graphs: list[str] = field(default_factory=list)
    functions: list[str] = field(default_factory=list)

    def to_json(self) -> str:
        """Return one JSON document."""
        return msgspec.json.format(msgspec.json.encode(asdict(self)), indent=2).decode()


def inspect(model: AnyModel) -> Inspection:
    """Look into a model.

    Parameters
    ----------
    model : str, Path, onnx.ModelProto, onnx_ir.Model or gs.Graph
        Never changed.

    Returns
    -------
    Inspection

    Raises
    ------
    ModelError
        The file cannot be used.
    """
    original, _ = to_ir(model)
    known = working_copy(original)
    macs, sizes = cost.macs(known), cost.layer_bytes(known)
    groups = find_groups(known)
    return Inspection(
        bytes=saved_bytes(model, original),
        parameters=sum(cost.parameters(original).values()),
        macs=sum(macs.values()),
        ir_version=original.ir_version or 0,
        opsets=dict(original.graph.opset_imports),
        inputs=[_port(value) for value in original.graph.inputs],
        outputs=[_port(value) for value in original.graph.outputs],
        nodes=[_node(node, sizes, macs) for node in known.graph],
        prunable=[group_info(group) for group in groups.prunable],
        frozen=[group_info(group) for group in groups.frozen],
        inner_graphs=[edit.label(node) for node in known.graph.all_nodes() if edit.inner_graphs(node)],
        functions=[f"{domain}::{name}" for domain, name, _ in original.functions],
    )


def saved_bytes(model: AnyModel, loaded: ir.Model) -> int:
    """Return the bytes of a model as the user gave it: of its files, or those it would take when saved."""
    if not isinstance(model, (str, Path)):
        return cost.model_bytes(loaded)
    external = sum(tensor.nbytes for tensor in weights(loaded) if isinstance(tensor, ir.ExternalTensor))
    return model_file(model).stat().st_size + external


def _port(value: ir.Value) -> PortInfo:
    shape = None if value.shape is None else [d if isinstance(d, int) else d.value for d in value.shape]
    dtype = value.dtype.name.lower() if value.dtype is not None else "unknown"
    if value.type is not None and not isinstance(value.type, ir.TensorType):
        dtype = str(value.type)
    return PortInfo(value.name or "", dtype, shape)


def _node(node: ir.Node, sizes: dict[str, int], macs: dict[str, int]) -> NodeInfo:
    name = node.name or edit.output_name(node)
    op = edit.op_of(node)
    return NodeInfo(name, op, sizes.get(name, 0), macs.get(name, None if multiplies(node) else 0))


def group_info(group: Group) -> GroupInfo:
    """Return a group as plain data."""
    tensors = {member.value for member in group.constants()}
    return GroupInfo(group.name, group.size, len(tensors), group.frozen)
