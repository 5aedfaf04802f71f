"""Leave out residual blocks: a network of less depth."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

import numpy.typing as npt
import onnx_ir as ir
from msgspec import Meta

from onnxcompress.contract import MODEL, Changes, Context, Needs, Plan, Refusal
from onnxcompress.errors import PassError
from onnxcompress.graph.functions import flatten
from onnxcompress.selection import SelectivePass

from .blocks.bypass import Bypass, leave_out
from .blocks.choose import evenly_spread, least_change
from .blocks.found import FoundBlocks, find_blocks
from .compensate.refit import refit
from .masks.masks import write_fitted


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlocksPlan(Plan):
    """The blocks that are left out, in order, and what makes up for them, as in `ChannelPlan`."""

    blocks: tuple[Bypass, ...] = ()
    weights: dict[str, npt.NDArray[Any]] = dataclasses.field(default_factory=dict)
    biases: dict[str, npt.NDArray[Any]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DropBlocks(SelectivePass):
    """Leave out residual blocks, so that what is behind them reads what they read.

    A block is what is added to the value that it is computed from, with the activation or normalisation behind the sum
    where one stands before the block, too. Blocks that follow each other and repeat as a whole, as attention and the
    layers behind it do, count as one. `distill` behind this pass gives a student of less depth its accuracy back.

    Parameters
    ----------
    share : float
        How many of the model's blocks go, rounded down.
    choose : {"least-change", "alternate"}
        least-change: one after the other, each time the block without which the model's outputs change least, on up to
        64 samples; alternate: evenly spread, of one half every second one, as DistilBERT was made.
    compensate : bool
        Fit the weights of all layers behind to what they gave with the blocks, in closed form, on up to 512 samples;
        those that add to the stream bring what is missing in it.

    Notes
    -----
    Sanh et al., DistilBERT, arXiv:1910.01108. ShortGPT (Men et al., arXiv:2403.03853) ranks blocks by how far each
    turns what it reads, in one go; measured on the outputs and one after the other, more is kept. What a block computes
    beside its own value and the model returns, such as a cache, stays with what it needs.
    """

    share: Annotated[float, Meta(gt=0, le=1)] = 0.5
    choose: Literal["least-change", "alternate"] = "least-change"
    compensate: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        # Only one of the ways looks at samples, so this instance's need hides the class's.
        object.__setattr__(self, "needs", Needs(samples=self.compensate or self.choose == "least-change"))

    def plan(self, model: ir.Model, context: Context) -> BlocksPlan:
        """Find the blocks and choose among them."""
        flat = model.clone()
        try:
            flatten(flat)
            found = find_blocks(flat)
        except PassError as error:
            found = FoundBlocks(refused=[Refusal(MODEL, str(error))])
        selected = self.select(model, found.subjects)
        refused = [
            *found.refused,
            *(Refusal(name, reason) for name, reason in selected.why_not.items()),
            *selected.idle,
        ]
        may_go = [bypass for bypass in found.bypasses if bypass.block not in selected.why_not]
        wanted = int(self.share * len(found.bypasses))
        if found.bypasses and not wanted:
            refused.append(Refusal(MODEL, f"share = {self.share:g} of {len(found.bypasses)} blocks is none"))
        elif len(may_go) < wanted:
            refused.append(Refusal(MODEL, f"{wanted} blocks should go, and {len(may_go)} may"))
        chosen, notes = self._chosen(flat, found, may_go, min(wanted, len(may_go)), context)
        for block, name in ((bypass.block, name) for bypass in chosen for name in found.kept[bypass.block]):
            refused.append(Refusal(name, f"it is an output of the model, so that what it needs of {block} stays"))
        plan = BlocksPlan(blocks=tuple(chosen), refused=tuple(refused), notes=notes)
        return self._fitted(flat, plan, context) if self.compensate and chosen else plan

    def _fitted(self, model: ir.Model, plan: BlocksPlan, context: Context) -> BlocksPlan:
        shorter = model.clone()
        leave_out(shorter, plan.blocks)
        found, layers = refit(model, shorter, context.samples, progress=context.progress)
        return dataclasses.replace(
            plan,
            weights=found.weights,
            biases=found.biases,
            refused=(*plan.refused, *found.refused),
            notes=(*plan.notes, f"{len(found.weights)} of {layers} layers behind them were fitted"),
        )

    def _chosen(
        self, model: ir.Model, found: FoundBlocks, may_go: list[Bypass], gone: int, context: Context
    ) -> tuple[list[Bypass], tuple[str, ...]]:
        if not gone:
            return [], ()
        if self.choose == "alternate":
            chosen, how_far = evenly_spread(len(may_go), gone), ""
        else:
            apart = {name for names in found.kept.values() for name in names}
            chosen, change = least_change(model, may_go, gone, context.samples, apart=apart, progress=context.progress)
            how_far = f"; the outputs then differ by {100 * change:.3g} % of their squares"
        blocks = [may_go[place] for place in chosen]
        names = ", ".join(bypass.block for bypass in blocks)
        return blocks, (f"{gone} of {len(found.bypasses)} residual blocks were left out: {names}{how_far}",)

    def apply(self, model: ir.Model, plan: BlocksPlan) -> Changes:
        """Leave them out."""
        if plan.blocks:
            flatten(model)
        done, refused = leave_out(model, plan.blocks)
        fitted = write_fitted(model, plan.weights, plan.biases, "the blocks") if done else []
        return Changes((*done, *fitted), (*plan.refused, *refused), plan.notes if done else ())
