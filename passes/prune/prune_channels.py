"""Zero the least important channels of each group."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

import msgspec
import onnx_ir as ir

from onnxcompress.channels.groups import Groups
from onnxcompress.contract import Changes, Context, Needs, Pass, Refusal

from .budget import Budget, Meter, reach
from .compensate import compensate
from .importance import IMPORTANCE, score_groups
from .masks import ChannelPlan, apply_channels, independent, refusals
from .ranking import Ranker, Ranking
from .reconstruction import reconstruction_scores
from .select import group_names, matching, read_override


@dataclasses.dataclass(frozen=True, kw_only=True)
class PruneChannels(Pass):
    """Zero the least important channels of each group; `Shrink` then removes them.

    Parameters
    ----------
    sparsity : float
        In [0, 1): the share of each group's channels to zero, rounded down; one channel always stays. With another
        `ranking` the share of all channels that compete, with another `budget` the share of that budget.
    importance : str
        What ranks the channels. By weights: l1 and l2 (norms over all weights that make a channel or read it), lamp
        (l2 against what is left), fpgm (distance to the other filters), bn_scale (|scale| of BatchNormalization). By
        samples: activation (mean |a|), apoz (share of zeros after the activation function), wanda (|W| times the norm
        of what it multiplies), reconstruction (the error left after the best fit to the channels that stay). random: a
        seeded draw.
    round_to : int
        Keep a multiple of this many channels in each group: engines compute 8 or 16 at a time, and a layer of 57
        channels can be slower than one of 64.
    reduction : str
        How the scores of a group's weights or activations become one: mean, max or sum.
    ranking : str
        Which channels compete: local (those of one group), global (of all groups), isomorphic (of groups of the same
        kind, such as all inner layers of residual blocks).
    budget : str
        What `sparsity` is a share of: channels, parameters, macs, or bytes of the weights. For the last three the
        smallest share of channels is found that takes so much away.
    exclude : tuple of str
        Groups to leave alone, by patterns (``stem*``) on their names or their weights' names.
    overrides : tuple of str
        ``PATTERN=SPARSITY``: groups with a share of channels of their own; the last that matches counts.
    keep_at_least : int
        Of each group at least so many channels stay.
    compensate : bool
        Fit the weights that read the channels to those that stay, in closed form, on up to 512 samples without
        labels; see docs/recovery.md. FoldConstants and FoldBatchNorm before it let it reach more.

    Notes
    -----
    Channels of one group go together: a residual stream, a depthwise convolution and what feeds it, the two sides of
    a Concat. By groups: Fang et al., DepGraph, arXiv:2301.12900; isomorphic ranking: arXiv:2407.04616. l1: Li et al.,
    arXiv:1608.08710; bn_scale: Liu et al., arXiv:1708.06519; lamp: Lee et al., arXiv:2010.07611; fpgm: He et al.,
    arXiv:1811.00250; activation: Molchanov et al., arXiv:1611.06440; apoz: Hu et al., arXiv:1607.03250; wanda: Sun et
    al., arXiv:2306.11695; taylor: Molchanov et al., arXiv:1611.06440; fisher: Theis et al., arXiv:1801.05787.
    """

    sparsity: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.5
    importance: Literal[
        "l1",
        "l2",
        "random",
        "bn_scale",
        "lamp",
        "fpgm",
        "activation",
        "apoz",
        "wanda",
        "reconstruction",
        "taylor",
        "fisher",
    ] = "l2"
    round_to: Annotated[int, msgspec.Meta(ge=1, le=256)] = 1
    reduction: Literal["mean", "max", "sum"] = "mean"
    ranking: Ranking = "local"
    budget: Budget = "channels"
    exclude: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    keep_at_least: Annotated[int, msgspec.Meta(ge=1)] = 1
    compensate: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for text in self.overrides:
            read_override(self.name, text)
        # Only some criteria look at samples, so this instance's need hides the class's.
        object.__setattr__(self, "needs", self._needs())

    def plan(self, model: ir.Model, context: Context) -> ChannelPlan:
        """Rank the channels and choose the lowest."""
        groups = context.groups
        excluded, fixed = self._selected(groups)
        chosen, refused = independent(groups, skip=excluded)
        refused += [Refusal(name, f"excluded by '{pattern}'") for name, pattern in excluded.items()]
        if self.importance == "reconstruction":
            scores, lacking = reconstruction_scores(groups, chosen, context.samples, progress=context.progress)
        else:
            scores, lacking = score_groups(self.importance, self.reduction, chosen, context)
        ranker = Ranker(groups, scores, self.ranking, self.round_to, self.keep_at_least, fixed)
        refused += lacking
        if self.budget == "channels":
            channels = ranker.choose(self.sparsity)
        else:
            channels, short = reach(ranker, Meter(groups, self.budget), self.budget, self.sparsity)
            refused += short
        refused = [*refusals(groups), *refused]
        if not (self.compensate and channels):
            return ChannelPlan(channels=channels, refused=tuple(refused))
        fitted = compensate(model, groups, channels, context.samples, progress=context.progress)
        refused += fitted.refused
        return ChannelPlan(channels=channels, weights=fitted.weights, biases=fitted.biases, refused=tuple(refused))

    def apply(self, model: ir.Model, plan: ChannelPlan) -> Changes:
        """Zero the chosen channels."""
        return apply_channels(model, plan)

    def _needs(self) -> Needs:
        criterion = IMPORTANCE.get(self.importance)
        return Needs(
            samples=self.compensate or criterion is None or criterion.measure is not None,
            training=criterion is not None and criterion.training,
        )

    def _selected(self, groups: Groups) -> tuple[dict[str, str], dict[str, float]]:
        """Return the excluded groups with the pattern that did it, and the shares of those that have their own."""
        names, prunable = group_names(groups), {group.name for group in groups.prunable}
        out = matching(f"{self.name}: exclude", self.exclude, names)
        shares = dict(read_override(self.name, text) for text in self.overrides)
        own = matching(f"{self.name}: overrides", shares, names)
        excluded = {name: pattern for pattern, found in out.items() for name in found if name in prunable}
        return excluded, {name: shares[pattern] for pattern, found in own.items() for name in found}
