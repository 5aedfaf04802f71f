"""Why a model is slower than the original, or not faster: kernel by kernel, what the time goes to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain

import onnx_ir as ir

from ..details import Kind, LayerTime, NotFaster, OperatorTime
from ..graph import edit
from ..graph.operators import INTEGER_OPERATORS
from ..targets.quantized import DEQUANTIZE, QUANTIZE
from .origins import CONTROL, Origins, Placed
from .profiled import Profiled, total
from .timing import Timing

LISTED = 10
"""Layers that are listed, those that cost the most first."""


def is_quantized(model: ir.Model) -> bool:
    """Tell whether a model holds operators that read or write quantized integers, at any depth."""
    wanted = {*QUANTIZE, *DEQUANTIZE, *INTEGER_OPERATORS}
    nodes = chain(model.graph.all_nodes(), *(function.all_nodes() for function in model.functions.values()))
    return any(edit.op_of(node) in wanted for node in nodes)


def is_slow(timing: Timing, *, quantized: bool) -> bool:
    """Tell whether a model is slower than the first beyond doubt, or was quantized and is not faster beyond doubt."""
    return timing.speed.state != "faster" if quantized else timing.speed.state == "slower"


def explain(profiled: Profiled) -> NotFaster:
    """List what makes the second of two models slow."""
    before, after = profiled.before, profiled.after
    kinds: defaultdict[Kind, float] = defaultdict(float)
    for one in after:
        kinds[one.kind] += one.kernel.milliseconds / total(after)
    return NotFaster(
        total(before),
        total(after),
        dict(sorted(kinds.items(), key=lambda item: -item[1])),
        operator_times(before, after),
        layer_times(before, after, profiled.origins)[:LISTED],
    )


def operator_times(before: Sequence[Placed], after: Sequence[Placed]) -> list[OperatorTime]:
    """Add up kernels by operator and kind, the slowest of the result first."""
    times: defaultdict[tuple[str, Kind], tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
    for side, kernels in enumerate((before, after)):
        for one in kernels:
            times[one.kernel.operator, one.kind][side].append(one.kernel.milliseconds)
    found = [OperatorTime(*key, len(old), len(new), sum(old), sum(new)) for key, (old, new) in times.items()]
    return sorted(found, key=lambda item: (-item.after, -item.before))


def layer_times(before: Sequence[Placed], after: Sequence[Placed], origins: Origins) -> list[LayerTime]:
    """List the kernels of the result, those that take most time beyond what they took in the original first.

    Parameters
    ----------
    before, after : sequence of Placed
        Kernels of the original and of the result.
    origins : Origins
        Of the original.
    """
    was: defaultdict[str | None, Earlier] = defaultdict(Earlier)
    for one in before:
        was[one.node].add(one)
    around, whole_before, whole_after = Neighbours(after), total(before), total(after)
    found = []
    for one in after:
        kernel = one.kernel
        twin = _twin(one, origins)
        old = was[twin] if twin is not None and twin in was else None
        spent = None if old is None else old.milliseconds
        found.append(
            LayerTime(
                one.node or kernel.name,
                kernel.name,
                kernel.operator,
                one.kind,
                spent,
                kernel.milliseconds,
                None if spent is None else spent / whole_before,
                kernel.milliseconds / whole_after,
                reason(one, around, old, known=twin is not None),
            )
        )
    return sorted(found, key=lambda item: (-(item.after - (item.before or 0.0)), -item.after))


def _twin(one: Placed, origins: Origins) -> str | None:
    """Return the node of the original that a kernel of the result stands for: that of its name, or of its output."""
    if one.node is None or one.kind in ("conversion", "layout"):
        return None
    return one.node if one.node in origins.nodes else origins.node_of(one.kernel)


class Neighbours:
    """Which kernels write what a kernel reads, and read what it writes; and whether any of them knows integers."""

    def __init__(self, kernels: Sequence[Placed]) -> None:
        self.integers = any(one.kind in ("integer", "conversion") for one in kernels)
        self._makers = {tensor: one for one in kernels for tensor in one.kernel.outputs}
        self._readers: defaultdict[str, list[Placed]] = defaultdict(list)
        for one in kernels:
            for tensor in one.kernel.inputs:
                self._readers[tensor].append(one)

    def before(self, one: Placed) -> list[Placed]:
        """Return what writes the inputs."""
        return [self._makers[tensor] for tensor in one.kernel.inputs if tensor in self._makers]

    def after(self, one: Placed) -> list[Placed]:
        """Return what reads the outputs."""
        return [reader for tensor in one.kernel.outputs for reader in self._readers[tensor]]


@dataclass
class Earlier:
    """What the original has for a node: the time and operators of its kernels, and whether in blocks of channels."""

    milliseconds: float = 0.0
    operators: list[str] = field(default_factory=list)
    blocked: bool = False

    def add(self, one: Placed) -> None:
        """Take in a kernel."""
        self.milliseconds += one.kernel.milliseconds
        self.operators += [] if one.kernel.operator in self.operators else [one.kernel.operator]
        self.blocked = self.blocked or in_blocks(one.kernel.name)


def in_blocks(kernel: str) -> bool:
    """Tell by a kernel's name whether it works on blocks of channels (onnxruntime's NCHWc), its fastest layout."""
    return kernel.endswith("_nchwc")


def reason(one: Placed, around: Neighbours, old: Earlier | None, *, known: bool) -> str:
    """Say why a kernel takes time.

    Parameters
    ----------
    old : Earlier or None
        What the original has for the same node.
    known : bool
        The original has that node.
    """
    gone = "; in the original it is part of another kernel" if known and old is None else ""
    if one.kind == "conversion":
        return _conversion(one, around)
    if one.kind == "layout":
        return f"changes the layout of {one.kernel.inputs[0] if one.kernel.inputs else 'a constant'}"
    if one.kind == "other":
        control = one.kernel.operator in CONTROL
        return "runs inner graphs; what runs inside is not counted" if control else f"works on shapes or indices{gone}"
    if one.kind == "integer":
        if old is None or not old.milliseconds:
            return f"computes on integers{gone}"
        return f"{one.kernel.milliseconds / old.milliseconds:.1f} × the time of {' and '.join(old.operators)} in float"
    return _float(one, around, old) + gone


def _float(one: Placed, around: Neighbours, old: Earlier | None) -> str:
    """Say what became of an operator in float: the layout that it lost, or how much longer it takes."""
    times = f"{one.kernel.milliseconds / old.milliseconds:.1f} × its time" if old and old.milliseconds else ""
    if old is not None and old.blocked and not in_blocks(one.kernel.name):
        return f"no longer in blocks of channels (NCHWc), which other numbers of channels allow; {times}"
    if around.integers:
        ends = (end for end in (*around.before(one), *around.after(one)) if end.kernel.inputs)
        return f"left in float{' between integer operators' if any(end.kind == 'conversion' for end in ends) else ''}"
    return times or "in float"


def _conversion(one: Placed, around: Neighbours) -> str:
    """Say which tensor is converted, and for or behind whom."""
    kernel = one.kernel
    if not kernel.inputs and kernel.outputs:
        return f"converts the constant behind {kernel.outputs[0]} anew in every run"
    tensor = kernel.inputs[0] if kernel.inputs else "a tensor of an inner graph"
    if kernel.operator == "DequantizeLinear":
        readers = _operators(around.after(one))
        return f"converts {tensor} to float{f' for {readers}' if readers else ''}"
    makers = _operators(around.before(one))
    behind = f", which {makers} wrote in float" if makers else ""
    if kernel.operator == "DynamicQuantizeLinear":
        return f"finds the range of {tensor} in every run and converts it to integers{behind}"
    return f"converts {tensor} to integers{behind}"


def _operators(found: Iterable[Placed]) -> str:
    return " and ".join(dict.fromkeys(one.kernel.operator for one in found if one.kind != "conversion"))
