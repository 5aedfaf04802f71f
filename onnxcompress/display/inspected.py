"""What is in a model, as a page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import units
from .page import Tile, by_reason, fill, foremost

if TYPE_CHECKING:
    from ..details import Origin
    from ..inspection import Inspection

MOST = 24
"""Nodes in the drawing: those of most bytes or work."""


@dataclass(frozen=True)
class Bar:
    """A node with its part of the model's bytes and work, in hundredths of the whole."""

    name: str
    bytes: int
    macs: int
    share_bytes: float
    share_macs: float


def page(found: Inspection, origin: Origin) -> str:
    """Return one HTML page that needs nothing else."""
    opsets = ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in found.opsets.items())
    tiles = [
        Tile("Bytes", units.size(found.bytes), f"{found.bytes:,}"),
        Tile("Parameters", units.count(found.parameters), f"{found.parameters:,}"),
        Tile("MACs", units.count(found.macs), "of one sample, where shapes are known"),
        Tile("Opset", opsets, f"IR version {found.ir_version}"),
    ]
    return fill(
        "inspection.html.j2",
        found=found,
        nodes=foremost(found.nodes, lambda node: (node.bytes, node.macs or 0)),
        prunable=foremost(found.prunable, lambda group: group.channels * group.tensors),
        origin=origin,
        tiles=tiles,
        bars=bars(found),
        frozen=by_reason(found.frozen),
    )


def bars(found: Inspection) -> list[Bar]:
    """Return the nodes of most bytes or work, in the order of the model, and the sum of the others."""
    size, work = sum(node.bytes for node in found.nodes) or 1, sum(node.macs or 0 for node in found.nodes) or 1
    every = [
        Bar(node.name, node.bytes, node.macs or 0, 100 * node.bytes / size, 100 * (node.macs or 0) / work)
        for node in found.nodes
        if node.bytes or node.macs
    ]
    ranked = sorted(range(len(every)), key=lambda i: -max(every[i].share_bytes, every[i].share_macs))
    kept = [every[i] for i in sorted(ranked[:MOST])]
    others = [every[i] for i in ranked[MOST:]]
    if others:
        size_left, work_left = sum(bar.bytes for bar in others), sum(bar.macs for bar in others)
        name = f"{len(others)} others together"
        kept.append(Bar(name, size_left, work_left, 100 * size_left / size, 100 * work_left / work))
    return kept
