"""Zero the least important channels of each group."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

import msgspec
import numpy as np
import onnx_ir as ir

from onnxcompress.contract import Changes, Context, Pass

from .importance import IMPORTANCE
from .masks import ChannelPlan, apply_channels, independent, lowest, refusals


@dataclasses.dataclass(frozen=True, kw_only=True)
class PruneChannels(Pass):
    """Zero the least important channels of each group; `Shrink` then removes them.

    Parameters
    ----------
    sparsity : float
        In [0, 1): the share of each group's channels to zero, rounded down; one channel always stays.
    importance : {"l1", "l2", "random"}
        What ranks the channels: the norm over all weights that make a channel or read it, or a seeded draw.
    round_to : int
        Keep a multiple of this many channels in each group: engines compute 8 or 16 at a time, and a layer of 57
        channels can be slower than one of 64.

    Notes
    -----
    Channels of one group go together: a residual stream, a depthwise convolution and what feeds it, the two sides of
    a Concat. Filter pruning by norm: Li et al., arXiv:1608.08710; by groups: Fang et al., DepGraph, arXiv:2301.12900.
    """

    sparsity: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.5
    importance: Literal["l1", "l2", "random"] = "l2"
    round_to: Annotated[int, msgspec.Meta(ge=1, le=256)] = 1

    def plan(self, model: ir.Model, context: Context) -> ChannelPlan:
        """Rank the channels of each group and choose the lowest."""
        random = np.random.default_rng(context.seed)
        chosen, refused = independent(context.groups)
        scores = {group.name: IMPORTANCE[self.importance](group, random) for group in chosen}
        channels = lowest(context.groups, scores, self.sparsity, self.round_to)
        return ChannelPlan(channels=channels, refused=(*refusals(context.groups), *refused))

    def apply(self, model: ir.Model, plan: ChannelPlan) -> Changes:
        """Zero the chosen channels."""
        return apply_channels(model, plan)
