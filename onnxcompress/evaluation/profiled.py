"""Two models profiled side by side, their kernels' times shared out of the times that were measured as a whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from ..graph import edit
from ..runtime.session import Array
from .origins import Origins, Placed, place
from .profile import profile_models


@dataclass(frozen=True)
class Profiled:
    """The kernels of the original and of the result, with the nodes that they were made of.

    Attributes
    ----------
    before, after : list of Placed
    origins : Origins
        Of the original.
    """

    before: list[Placed]
    after: list[Placed]
    origins: Origins


def profile_pair(
    original: ir.Model, result: ir.Model, feeds: Mapping[str, Array], times: tuple[float, float] | None = None
) -> Profiled:
    """Profile two models on the same feed, taking turns.

    Parameters
    ----------
    original, result : onnx_ir.Model
        Not changed.
    feeds : mapping of str to ndarray
    times : tuple of float, optional
        Milliseconds that a run of each takes. The profiler adds a little to each kernel, so that its own sums are
        larger; given these, it only says how they are divided.

    Raises
    ------
    ModelError
        A model cannot be loaded, or refuses the feed.
    """
    models = [named(original), named(result)]
    origins = [Origins(model) for model in models]
    found = [place(where, kernels) for where, kernels in zip(origins, profile_models(models, feeds), strict=True)]
    before, after = found if times is None else (share_out(*pair) for pair in zip(found, times, strict=True))
    return Profiled(before, after, origins[0])


def named(model: ir.Model) -> ir.Model:
    """Return a copy in which every node has a name of its own: onnxruntime's profile knows kernels by name alone."""
    copy = model.clone()
    seen: set[str] = set()
    for node in copy.graph.all_nodes():
        name = node.name if node.name and node.name not in seen else edit.output_name(node)
        node.name = name if name not in seen else f"{name}#{len(seen)}"
        seen.add(node.name)
    return copy


def total(kernels: Sequence[Placed]) -> float:
    """Return what kernels take together."""
    return sum(one.kernel.milliseconds for one in kernels) or 1.0


def share_out(kernels: Sequence[Placed], milliseconds: float) -> list[Placed]:
    """Return kernels that take so long together, each with its share of it."""
    factor = milliseconds / total(kernels)
    return [replace(one, kernel=replace(one.kernel, milliseconds=one.kernel.milliseconds * factor)) for one in kernels]
