"""Which layers read their activations in 16 bits, and which tensors are stored so for them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import onnx_ir as ir

from ..shared.units import Unit
from .placement import Placement


@dataclass(eq=False)
class Int16Layers:
    """What is in 16 bits among activations of 8.

    Attributes
    ----------
    units : set of Unit
        Those that compute on 16 bits; data movement is not among them.
    stored : set of onnx_ir.Value
        The sources (see `Placement.sources`) whose tensors are stored in 16 bits. Whoever else reads one of them reads
        it converted to 8 bits, but for data movement, which passes on what is stored.
    """

    units: set[Unit] = field(default_factory=set)
    stored: set[ir.Value] = field(default_factory=set)

    def reads(self, unit: Unit, source: ir.Value) -> bool:
        """Tell whether a unit reads a tensor, of that source, in 16 bits."""
        return source in self.stored if unit.kind == "move" else unit in self.units

    def sources(self, placement: Placement) -> set[ir.Value]:
        """Return the sources of all tensors that are stored or read in 16 bits."""
        return self.stored | {placement.sources[value] for unit in self.units for value in unit.inputs}


def find_int16(placement: Placement, nodes: Iterable[ir.Node]) -> Int16Layers:
    """Choose what is in 16 bits.

    Parameters
    ----------
    placement : Placement
    nodes : iterable of onnx_ir.Node
        What is to read 16 bits; data movement among them goes with the tensor that it moves.

    Notes
    -----
    A tensor that is made in 8 bits gains nothing from being read in 16. So whatever makes what such a layer reads
    writes 16 bits; that operator's own inputs stay in 8. A named node that computes in float may read what is stored as
    integers for the sake of its maker: that then has 16 bits as well.
    """
    placed, sources = {unit.node: unit for unit in placement.units}, placement.sources
    result = Int16Layers()
    for node in nodes:
        unit = placed.get(node)
        read = [sources[value] for value in node.inputs if value in sources]
        if not read or (unit is not None and unit.kind == "move"):
            continue
        result.stored.update(read)
        result.units.update([unit] if unit is not None else [])
    return result
