"""Zero the least important channels of each group."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import onnx_ir as ir

from onnxcompress.contract import Changes, Context, Needs, Refusal
from onnxcompress.errors import OptionError
from onnxcompress.evaluation.sensitivity import SHARES, Judge, measure
from onnxcompress.graph.interface import Interface
from onnxcompress.samples.noise import noise_samples
from onnxcompress.samples.samples import Samples
from onnxcompress.selection import OverridablePass

from .compensate.least_squares import compensate
from .compensate.principal import Rotations, principal_axes
from .importance.criteria import criterion_of, score_groups
from .importance.reconstruction import reconstruction_scores
from .masks.groups import choose_groups
from .masks.masks import ChannelPlan, apply_channels
from .masks.turning import turn
from .sparsity.allocate import allocate, cheapest_first
from .sparsity.amount import Sparsity
from .sparsity.budget import Budget, Meter, reach
from .sparsity.by_cost import Chosen, choose_by_cost, said_of_widths, with_good_widths
from .sparsity.latency import Clock
from .sparsity.lowest import Limits
from .sparsity.ranking import Ranker, Ranking

NOISE = 256
"""Samples that are made up where none are given."""

MADE_UP = "no samples were given, so weights were fitted to noise; a hundred real ones keep far more"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PruneChannels(OverridablePass):
    """Zero the least important channels of each group; `Shrink` then removes them.

    Parameters
    ----------
    sparsity : float, int or "auto"
        The share of each group's channels to zero, rounded down, or, as a whole number, how many of them; one channel
        always stays. With another `ranking` it is of all channels that compete, with another `budget` of that budget.
        auto: each group loses as much as it can bear, see `max_drop`.
    max_drop : float
        With sparsity = auto: how much of the metric may be lost on the samples. First each group is pruned alone to
        see what that costs; then the shares are sought that take most multiply-accumulates away within the drop.
        A drop that is counted in decisions must be small enough with its standard error. With `compensate`, one half of
        the samples is fitted to and the other judges.
    importance : str or float
        What ranks the channels.

        - auto: reconstruction where `compensate` has samples to fit to, else l2;
        - l1, l2, or a number p: the p-norm over all weights that make a channel or read it;
        - lamp: l2 against what is left of the group;
        - fpgm: the distance to the other filters;
        - bn_scale: |scale| of BatchNormalization;
        - activation: mean |a| over samples;
        - apoz: the share of samples where the activation function gives zero;
        - wanda: |W| times the norm of what it multiplies, over samples;
        - reconstruction: the error left on samples after the best fit to the channels that stay;
        - taylor: how much the loss changes without the channel, by its slope on samples;
        - fisher: the same by its curvature;
        - random: a draw by the seed.
    round_to : int or "auto"
        Keep a multiple of this many channels in each group. auto: widths that run well here, or where a `--table` was
        measured: no wider one is faster. With 1 exactly what was asked for goes, though a layer of 57 channels can be
        slower than one of 64.
    reduction : str
        How the scores of a group's weights or activations become one: mean, max or sum.
    ranking : str
        Which channels compete: local (those of one group), global (of all groups), isomorphic (of groups of the same
        kind, such as all inner layers of residual blocks). Groups with a sparsity of their own compete with none.
        auto: local with budget = channels; with any other each group gets the width at which all of them together
        lose least for what they cost, in that budget and in time.
    budget : str
        What `sparsity` is a part of: channels, parameters, macs, bytes of the weights, or the measured latency. For
        the last four the smallest cut is found that takes so much away; what is missed by 2 points is said.
    keep_at_least : int
        Of each group at least so many channels stay.
    compensate : bool
        Fit the weights that read the channels to those that stay, in closed form, on up to 512 samples without
        labels, or on noise; see docs/recovery.md. FoldConstants and FoldBatchNorm before it let it reach more.
    interface : str
        "stays", or "may change": heads may go together with their keys and values in a cache, inputs past_… and outputs
        present_… of the model. The report says which inputs and outputs changed.
    rotate : bool
        With `compensate` and samples: turn residual streams that are only added up and RMS-normalised to their
        principal axes first, so that the channels that go have least in them; nothing is computed in addition.
    steps : int
        Get there in so many equal steps, and score what is left after each; with `compensate` after fitting it.

    Notes
    -----
    A group goes by its own name and by the layers that make its channels, theirs and their weights' names; a layer that
    is excluded keeps the channels that it reads, too. Channels of one group go together: a residual stream, a depthwise
    convolution and what feeds it, the two sides of a Concat. By groups: Fang et al., DepGraph, arXiv:2301.12900;
    isomorphic ranking: arXiv:2407.04616. l1: Li et al., arXiv:1608.08710; bn_scale: Liu et al., arXiv:1708.06519;
    lamp: Lee et al., arXiv:2010.07611; fpgm: He et al., arXiv:1811.00250; activation: Molchanov et al.,
    arXiv:1611.06440; apoz: Hu et al., arXiv:1607.03250; wanda: Sun et al., arXiv:2306.11695; taylor: Molchanov et
    al., arXiv:1611.06440; fisher: Theis et al., arXiv:1801.05787. Widths
    by what they cost: Yang et al., NetAdapt, arXiv:1804.03230; Shen et al., HALP, arXiv:2110.10811.
    """

    writes_zeros = True
    overridable = ("sparsity", "round_to", "keep_at_least")

    sparsity: Sparsity | Literal["auto"] = 0.5
    max_drop: Annotated[float, msgspec.Meta(ge=0)] | None = None
    importance: (
        Literal[
            "auto",
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
        ]
        | Annotated[float, msgspec.Meta(gt=0)]
    ) = "auto"
    round_to: Annotated[int, msgspec.Meta(ge=1, le=256)] | Literal["auto"] = "auto"
    reduction: Literal["mean", "max", "sum"] = "mean"
    ranking: Ranking = "auto"
    budget: Budget = "channels"
    keep_at_least: Annotated[int, msgspec.Meta(ge=1)] = 1
    compensate: bool = False
    rotate: bool = True
    steps: Annotated[int, msgspec.Meta(ge=1, le=100)] = 1
    interface: Interface = "stays"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_auto()
        if self.budget == "latency" and isinstance(self.sparsity, int) and self.sparsity:
            raise OptionError(f"{self.name}: sparsity = {self.sparsity}: of the latency only a share can go")
        # Only some criteria look at samples, so this instance's need hides the class's.
        object.__setattr__(self, "needs", self._needs())

    def replaced(self, options: dict[str, Any]) -> PruneChannels:
        """Return the pass with options of `overrides`; a sparsity there is one of a group's channels."""
        if options.get("sparsity") == "auto":
            raise OptionError(f"{self.name}: overrides: sparsity = 'auto': expected a number; auto is for all groups")
        own = {"max_drop": None, "budget": "channels"} if "sparsity" in options else {}
        return super().replaced({**options, **own})

    def plan(self, model: ir.Model, context: Context) -> ChannelPlan:
        """Rank the channels and choose the lowest."""
        context = context.allowing(self.interface)
        rotations, stay = self._rotations(model, context)
        if rotations:
            turned = model.clone()
            turn(turned, rotations)
            context = context.on(turned)
        plan = self._planned(context)
        kept = rotations if plan.channels else {}
        return dataclasses.replace(plan, rotations=kept, refused=(*plan.refused, *stay))

    def _rotations(self, model: ir.Model, context: Context) -> tuple[Rotations, list[Refusal]]:
        """Return how streams are turned before anything is ranked: where it can be made up for, by real samples."""
        if not (self.compensate and self.rotate and context.has_samples):
            return {}, []
        names = [group.name for group in choose_groups(self, model, context.groups).groups]
        return principal_axes(model, names, context.samples, progress=context.progress, workers=context.workers)

    def _planned(self, context: Context) -> ChannelPlan:
        model = context.model
        ranker, refused = self.ranker(context)
        if self.sparsity == "auto":
            plan, short = self._allocated(ranker, model, context)
        else:
            ranker = self._step_by_step(ranker, self.sparsity, model, context)
            chosen = self._chosen(ranker, self.sparsity, context)
            plan, short = self._completed(chosen.channels, model, context), chosen.refused
            plan = dataclasses.replace(plan, notes=(*chosen.notes, *plan.notes))
        return dataclasses.replace(plan, refused=(*refused, *short, *plan.refused))

    def ranker(self, context: Context) -> tuple[Ranker, list[Refusal]]:
        """Score the channels of every group that can be pruned; says which cannot."""
        asked = (self.importance, self.compensate, self.reduction, self.ranking, self.round_to, self.keep_at_least)
        found: tuple[Ranker, list[Refusal]] = context.keep(
            (*asked, self.include, self.exclude, repr(self.overrides)), lambda: self._ranked(context)
        )
        return found

    def _ranked(self, context: Context) -> tuple[Ranker, list[Refusal]]:
        groups = context.groups
        chosen = choose_groups(self, context.model, groups)
        importance = self._importance(context)
        if importance == "reconstruction":
            scores, lacking = reconstruction_scores(
                groups, chosen.groups, context.samples, progress=context.progress, workers=context.workers
            )
        else:
            scores, lacking = score_groups(criterion_of(importance), self.reduction, chosen.groups, context)
        means: dict[str, str | float] = dict.fromkeys(scores, importance)
        if self.importance == "auto" and lacking:
            others = [group for group in chosen.groups if group.name not in scores]
            more, lacking = score_groups(criterion_of("l2"), self.reduction, others, context)
            scores, means = scores | more, means | dict.fromkeys(more, "l2")
        limits, fixed = {}, {}
        for group in groups.prunable:
            own = chosen.selected.options(group.name)
            limits[group.name] = Limits(
                own.get("round_to", self.round_to), own.get("keep_at_least", self.keep_at_least)
            )
            if "sparsity" in own:
                fixed[group.name] = own["sparsity"]
        ranker = Ranker(groups, scores, self.ranking, limits, fixed, means)
        by_cost = self.ranking == "auto" and self.budget != "channels" and self.sparsity != "auto"
        return (ranker if by_cost else with_good_widths(ranker, self.sparsity, context)), [*chosen.refused, *lacking]

    def _importance(self, context: Context) -> str | float:
        if self.importance != "auto":
            return self.importance
        return "reconstruction" if self.compensate and context.has_samples else "l2"

    def _step_by_step(self, ranker: Ranker, sparsity: int | float, model: ir.Model, context: Context) -> Ranker:
        """Zero a little more in each step but the last and score again; what is gone stays first in the order."""
        for step in range(1, self.steps):
            part = sparsity * step // self.steps if isinstance(sparsity, int) else sparsity * step / self.steps
            channels = self._chosen(ranker, part, context).channels
            copy = model.clone()
            apply_channels(copy, self._completed(channels, model, context))
            scores = {name: score.copy() for name, score in self.ranker(context.on(copy))[0].scores.items()}
            for name, gone in channels.items():
                scores[name][gone] = -np.inf
            ranker = dataclasses.replace(ranker, scores=scores)
        return ranker

    def _chosen(self, ranker: Ranker, sparsity: int | float, context: Context) -> Chosen:
        """Choose what goes within the budget."""
        if self.budget == "channels":
            return Chosen(ranker.choose(sparsity), ranker.too_many(sparsity), said_of_widths(ranker, sparsity))
        if self.ranking == "auto":
            return choose_by_cost(ranker, self.budget, sparsity, context)
        meter = (
            Clock(context.model, context.feed, interface=self.interface)
            if self.budget == "latency"
            else Meter(ranker.groups, self.budget)
        )
        channels, short = reach(ranker, meter, self.budget, sparsity)
        return Chosen(channels, [*ranker.too_many(0.0), *short], meter.notes(channels))

    def _completed(
        self, channels: dict[str, list[int]], model: ir.Model, context: Context, samples: Samples | None = None
    ) -> ChannelPlan:
        """Add what makes up for the channels, fitted to all samples or to some."""
        if not (self.compensate and channels):
            return ChannelPlan(channels=channels, interface=self.interface)
        made_up = () if context.has_samples else (MADE_UP,)
        given = samples or (noise_samples(model, NOISE, context.seed) if made_up else context.samples)
        fitted = compensate(model, context.groups, channels, given, progress=context.progress)
        return ChannelPlan(
            interface=self.interface,
            channels=channels,
            weights=fitted.weights,
            biases=fitted.biases,
            refused=fitted.refused,
            notes=made_up,
        )

    def _allocated(self, ranker: Ranker, model: ir.Model, context: Context) -> tuple[ChannelPlan, list[Refusal]]:
        """Let a measured drop of the metric decide each group's share."""
        max_drop = self.max_drop
        assert max_drop is not None
        fixed = {name: gone for name, gone in ranker.choose(0.0).items() if name in ranker.fixed}
        free = [name for name in ranker.scores if name not in ranker.fixed]
        if not free:
            return self._completed(fixed, model, context), ranker.too_many(0.0)
        cuts = {share: {n: c for n in free if (c := ranker.only(n, share))} for share in SHARES}
        plans = {share: ChannelPlan(channels=cut, interface=self.interface).parts() for share, cut in cuts.items()}
        # What was fitted to must not judge.
        fitted, judges = self._halves(context.samples)
        judge = Judge(model, judges, context.metric, workers=context.workers)
        curves, _ = measure(judge, self, plans, progress=context.progress)
        return allocate(
            cheapest_first(curves, cuts, Meter(ranker.groups, "macs")),
            lambda channels: self._completed(fixed | channels, model, context, fitted),
            lambda plan: judge.compare(self, plan).seems_within(max_drop),
            progress=context.progress,
        )

    def _halves(self, samples: Samples) -> tuple[Samples, Samples]:
        return (samples.fit_and_search() or samples.halves()) if self.compensate else (samples, samples)

    def apply(self, model: ir.Model, plan: ChannelPlan) -> Changes:
        """Zero the chosen channels."""
        return apply_channels(model, plan)

    def _check_auto(self) -> None:
        if (self.sparsity == "auto") != (self.max_drop is not None):
            raise OptionError(f"{self.name}: sparsity = 'auto' and max_drop = NUMBER go together; give both or neither")
        plain = self.ranking in ("auto", "local") and (self.budget, self.steps) == ("channels", 1)
        if self.sparsity == "auto" and not plain:
            raise OptionError(
                f"{self.name}: sparsity = 'auto' finds each group's share; leave ranking, budget and steps out"
            )

    def _needs(self) -> Needs:
        importance = "l2" if self.importance == "auto" else self.importance
        criterion = None if importance == "reconstruction" else criterion_of(importance)
        return Needs(
            samples=self.sparsity == "auto" or criterion is None or criterion.measure is not None,
            training=criterion is not None and criterion.training,
            welcome=self.compensate,
        )
