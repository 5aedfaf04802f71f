"""Normalisations over the width, ONNX's own and onnxruntime's: what each reads and gives, and how it is labelled."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from ..graph import edit
from .engine import Axes, Engine, Sink


@dataclass(frozen=True)
class Norm:
    """What a normalisation of rows reads and gives.

    Attributes
    ----------
    centred : bool
        The mean is taken away first.
    epsilon : float
        Where the attribute is left out.
    data : tuple of int
        What is added up and normalised.
    scale : int
        The input with a factor for each channel.
    shift, bias : int, optional
        What is added to each channel behind it, and before.
    total : int, optional
        The output that holds what was normalised.
    """

    centred: bool
    epsilon: float = 1e-5
    data: tuple[int, ...] = (0,)
    scale: int = 1
    shift: int | None = None
    bias: int | None = None
    total: int | None = None

    @property
    def ports(self) -> tuple[int, ...]:
        """The inputs that make the result."""
        return tuple(port for port in (*self.data, self.scale, self.shift, self.bias) if port is not None)

    def summands(self, node: ir.Node) -> list[ir.Value]:
        """Return what is added up and normalised."""
        ports = self.data if self.bias is None else (*self.data, self.bias)
        return [v for port in ports if port < len(node.inputs) and (v := node.inputs[port]) is not None]

    def parameters(self, node: ir.Node) -> dict[int, ir.Value]:
        """Return the scale and the shift, by input."""
        ports = [port for port in (self.scale, self.shift) if port is not None and port < len(node.inputs)]
        return {port: v for port in ports if (v := node.inputs[port]) is not None}

    def sum_of(self, node: ir.Node) -> ir.Value | None:
        """Return the output that holds what was normalised, if it is there."""
        return node.outputs[self.total] if self.total is not None and self.total < len(node.outputs) else None


SKIPPING = {"epsilon": 1e-12, "data": (0, 1), "scale": 2, "total": 3}

NORMS: dict[str, Norm] = {
    "LayerNormalization": Norm(True, shift=2),
    "RMSNormalization": Norm(False),
    "SimplifiedLayerNormalization": Norm(False),
    "com.microsoft::SkipLayerNormalization": Norm(True, shift=3, bias=4, **SKIPPING),  # type: ignore[arg-type]
    "com.microsoft::SkipSimplifiedLayerNormalization": Norm(False, bias=3, **SKIPPING),  # type: ignore[arg-type]
}


def width_normalization(engine: Engine, node: ir.Node, joined: Axes) -> None:
    """Label what a normalisation gives, `joined` being the axes of all that it reads; a zero channel can go.

    For that scale and shift must be constants, which are rewritten, and what stands between (the mean) unread.
    """
    known, out = NORMS[edit.op_of(node)], node.outputs[0]
    rank = len(engine.shape(out))
    total = known.sum_of(node)
    for value in node.outputs:
        if value is out or value is total:
            engine.set(value, joined)
        else:
            engine.set(value, [None] * len(engine.shape(value)))
    data = known.summands(node)
    first = edit.int_attribute(node, "axis", -1) % max(rank, 1)
    constant = all(engine.array(v) is not None for v in known.parameters(node).values())
    rows = joined[-1] if joined and first == rank - 1 and constant else None
    unread = not any(v.uses() or v.is_graph_output() for v in node.outputs[1:] if v is not total)
    if rows is None or not unread or any((v, -1) in engine.shifted for v in data):
        for value in data:
            axes = range(first - rank, 0)
            reason = f"{edit.label(node)} mixes it with others along the axis"
            engine.freeze_axes(value, [axis for axis in axes if -axis <= len(engine.shape(value))], reason)
        return
    for value in data:
        engine.sinks.append(Sink(node, value, len(engine.shape(value)) - 1, None, 0, 0, 1, rows))
