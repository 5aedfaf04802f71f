"""Write weights as products of two thinner ones."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import onnx_ir as ir
from msgspec import Meta

from onnxcompress.contract import MODEL, Change, Changes, Context, Needs, Plan, Refusal
from onnxcompress.errors import OptionError, PassError
from onnxcompress.graph import edit
from onnxcompress.graph.layer import Layer
from onnxcompress.selection import OverridablePass, node_subjects

from .low_rank.spectrum import Spectrum, spectra
from .low_rank.write import Factors, factorised

STEPS = 40
"""Halvings of the error that is searched for."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FactorsPlan(Plan):
    """Name of a weight → its two factors."""

    factors: dict[str, Factors] = dataclasses.field(default_factory=dict)

    def parts(self) -> dict[str, FactorsPlan]:
        """Return each weight alone."""
        return {name: FactorsPlan(factors={name: one}) for name, one in self.factors.items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Factorise(OverridablePass):
    """Write weights of MatMul, Gemm and Conv as products of two thinner ones, where that saves weights and MACs.

    The rank is the least at which the layer's output is off by `max_error`; of all products of that rank, the one whose
    output is nearest on the samples is taken, or whose weights are, without any. A convolution becomes one with fewer
    output channels and a 1x1 convolution behind it. A weight that would need too high a rank stays, and is named.

    Parameters
    ----------
    max_error : float
        How much of the square of a layer's output may be lost.
    share : float
        In place of `max_error`: the share of the layers' weights that stays; the error at which so many do is sought,
        the same for all.
    round_to : int
        Ranks are multiples of this, rounded up.

    Notes
    -----
    The best product of rank r for given inputs x is ``U Uᵀ W``, with the first r principal axes U of ``W x``: Yuan et
    al., ASVD, arXiv:2312.05821, and Wang et al., SVD-LLM, arXiv:2403.07378, reach the same by whitening x.
    """

    overridable = ("max_error",)
    needs = Needs(welcome=True)

    max_error: Annotated[float, Meta(gt=0, lt=1)] | None = None
    share: Annotated[float, Meta(gt=0, lt=1)] | None = None
    round_to: Annotated[int, Meta(ge=1, le=256)] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_error is not None and self.share is not None:
            raise OptionError(f"{self.name}: max_error and share say the same thing twice; give one of them")

    def replaced(self, options: dict[str, Any]) -> Factorise:
        """Return the pass with options of `overrides`; an error there is not sought."""
        return super().replaced({**options, "share": None})

    def plan(self, model: ir.Model, context: Context) -> FactorsPlan:
        """Find each weight's spectrum, and choose the ranks."""
        layers, refused = _layers(model)
        subjects = node_subjects(model.graph)
        selected = self.select(model, {node: subjects[node] for node in layers})
        refused += [Refusal(edit.label(node), why) for node, why in selected.why_not.items()]
        chosen = {node: layer for node, layer in layers.items() if node not in selected.why_not}
        found = spectra(model, list(chosen.values()), context)
        own = {str(chosen[n].value.name): selected.options(n)["max_error"] for n in selected.by if n in chosen}
        error, unmet = self._error(found, own)
        factors = {}
        for spectrum in found:
            name = str(spectrum.layer.value.name)
            rank = spectrum.rank(own.get(name, error), self.round_to)
            if rank >= spectrum.breaks_even:
                reason = f"it needs rank {rank}, and from {spectrum.breaks_even} on two factors are larger than it is"
                refused.append(Refusal(edit.label(spectrum.layer.node), reason))
            else:
                factors[name] = spectrum.factors(rank)
        notes = () if context.has_samples or not found else ("no samples were given, so the weights alone decided",)
        return FactorsPlan(
            factors=factors, refused=(*refused, *selected.idle), notes=notes, unmet=unmet, chosen={"max_error": error}
        )

    def _error(self, found: list[Spectrum], own: dict[str, float]) -> tuple[float, tuple[str, ...]]:
        """Return the error of all layers: what was asked for, or that at which the share of the weights stays."""
        if self.share is None:
            return 0.05 if self.max_error is None else self.max_error, ()

        def stays(error: float) -> float:
            sizes = [one.size_at(one.rank(own.get(str(one.layer.value.name), error), self.round_to)) for one in found]
            return sum(sizes) / max(sum(one.size for one in found), 1)

        low, high = 0.0, 1.0
        for _ in range(STEPS):
            middle = (low + high) / 2
            low, high = (low, middle) if stays(middle) <= self.share else (middle, high)
        least = stays(high)
        unmet = () if least <= self.share or not found else (f"share = {self.share:g}: {least:.3f} is the least",)
        return high, unmet

    def apply(self, model: ir.Model, plan: FactorsPlan) -> Changes:
        """Put two operators in the place of one."""
        nodes = {str(layer.value.name): node for node, layer in _layers(model)[0].items()}
        insert, done = edit.Inserter(model.graph), []
        for name, factors in plan.factors.items():
            if name not in nodes:
                raise PassError(f"weight '{name}': no layer of the model can be factorised; was the plan made for it?")
            before, after = factorised(insert, Layer(nodes[name]), factors)
            what = f"rank {len(factors.first)}: {before:,} weights became {after:,}"
            done.append(Change(name, f"{what}, {100 * factors.error:.2g} % of its output's square lost"))
        return Changes(tuple(done), plan.refused, plan.notes)


def _layers(model: ir.Model) -> tuple[dict[ir.Node, Layer], list[Refusal]]:
    """Return what can be factorised, and why others cannot."""
    found, refused = {}, []
    for node in model.graph:
        layer = Layer.of(node)
        if layer is None:
            continue
        reason = layer.why_not()
        if not reason and layer.is_convolution and edit.op_of(node) != "Conv":
            reason = "it is no plain convolution"
        if not reason and (layer.groups != 1 or layer.transposes_input):
            reason = "it is cut into groups" if layer.groups != 1 else "it transposes what it reads"
        if not reason:
            found[node] = layer
        elif edit.constant(layer.value) is not None:
            refused.append(Refusal(edit.label(node), reason))
    if not found and not refused:
        refused.append(Refusal(MODEL, "it has no MatMul, Gemm or Conv with a constant weight"))
    return found, refused
