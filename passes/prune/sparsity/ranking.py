"""Which channels compete with which: those of one group, of all groups, or of groups of the same kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from onnxcompress.channels.groups import Group, Groups, Member
from onnxcompress.contract import Refusal
from onnxcompress.graph import edit

from .amount import how_many, too_many
from .lowest import ANY, Limits, lowest, most

Ranking: TypeAlias = Literal["auto", "local", "global", "isomorphic"]


@dataclass(frozen=True)
class Ranker:
    """Chooses channels by their scores.

    Attributes
    ----------
    groups : Groups
    scores : mapping
        Group name → one score for each channel.
    ranking : {"auto", "local", "global", "isomorphic"}
        With "auto" each group is alone here.
    limits : mapping
        Group name → what must stay of it; of a group without, one channel of each stratum.
    fixed : mapping
        Group name → its own sparsity, whatever is asked of the others.
    importance : mapping
        Group name → what its scores mean.
    """

    groups: Groups
    scores: Mapping[str, npt.NDArray[np.float64]]
    ranking: Ranking = "local"
    limits: Mapping[str, Limits] = field(default_factory=dict)
    fixed: Mapping[str, int | float] = field(default_factory=dict)
    importance: Mapping[str, str | float] = field(default_factory=dict)

    def choose(self, sparsity: int | float) -> dict[str, list[int]]:
        """Return the channels that go when that much of all that compete shall go; where it cannot, none."""
        alone = self._alone()
        sparsities = {group.name: self._amount(group, self.fixed.get(group.name, sparsity)) for group in alone}
        able = [group for group in alone if not too_many(sparsities[group.name], most(group), "")]
        chosen = lowest(able, self.scores, sparsities, self.limits)
        for pool in self._pools():
            if not too_many(sparsity, sum(map(most, pool)), ""):
                chosen |= self._pooled(pool, sparsity)
        return chosen

    def too_many(self, sparsity: int | float) -> list[Refusal]:
        """Say which groups have fewer channels than so many; nothing where `sparsity` is a share."""
        asked = [(g.name, self.fixed.get(g.name, sparsity), most(g)) for g in self._alone()]
        asked += [(_named(pool), sparsity, sum(map(most, pool))) for pool in self._pools()]
        return [Refusal(name, reason) for name, amount, size in asked if (reason := too_many(amount, size, "channels"))]

    def only(self, name: str, sparsity: int | float) -> list[int]:
        """Return the channels that go when this group alone is pruned."""
        one = [group for group in self.groups.prunable if group.name == name]
        sparsities = {group.name: self._amount(group, sparsity) for group in one}
        return lowest(one, self.scores, sparsities, self.limits).get(name, [])

    def _amount(self, group: Group, sparsity: int | float) -> int | float:
        """Return how much of a group goes so that the width that stays is one that may."""
        limits = self.limits.get(group.name, ANY)
        asked = min(how_many(sparsity, group.size), most(group))
        if not limits.widths or group.size - asked in limits.widths or too_many(sparsity, most(group), ""):
            return sparsity
        return min(group.size - limits.nearest(group.size - asked, group.size), most(group))

    def _alone(self) -> list[Group]:
        """Return the groups whose channels compete with no others."""
        scored = [group for group in self.groups.prunable if group.name in self.scores]
        return [group for group in scored if self.ranking in ("auto", "local") or group.name in self.fixed]

    def _pools(self) -> list[list[Group]]:
        """Return the groups whose channels compete."""
        alone = {group.name for group in self._alone()}
        pools: dict[Hashable, list[Group]] = {}
        for group in self.groups.prunable:
            if group.name in self.scores and group.name not in alone:
                pools.setdefault(kind_of(group) if self.ranking == "isomorphic" else None, []).append(group)
        return list(pools.values())

    def _pooled(self, pool: list[Group], sparsity: int | float) -> dict[str, list[int]]:
        """Take the lowest of all channels of several groups; what each group must keep does not compete."""
        free = [self._free(group) for group in pool]
        owner = np.repeat(np.arange(len(pool)), [len(channels) for channels in free])
        channel = np.concatenate(free)
        score = np.concatenate([self.scores[g.name][channels] for g, channels in zip(pool, free, strict=True)])
        count = how_many(sparsity, sum(group.size for group in pool))
        order = np.argsort(score, kind="stable")[:count]
        chosen = {}
        for number, group in enumerate(pool):
            gone = channel[order[owner[order] == number]].tolist()
            if shortened := self.limits.get(group.name, ANY).shorten(gone, group.size):
                chosen[group.name] = shortened
        return chosen

    def _free(self, group: Group) -> npt.NDArray[np.int64]:
        """Return the channels that may go: all but the best ones that must stay, and one of each stratum."""
        order = np.argsort(self.scores[group.name], kind="stable")
        keep = np.zeros(group.size, bool)
        keep[order[max(group.size - self.limits.get(group.name, ANY).keep_at_least, 0) :]] = True
        for stratum in np.unique(group.strata):
            keep[order[group.strata[order] == stratum][-1]] = True
        return np.flatnonzero(~keep)


def _named(pool: list[Group]) -> str:
    return pool[0].name if len(pool) == 1 else f"{pool[0].name} and {len(pool) - 1} more"


def kind_of(group: Group) -> Hashable:
    """Return what groups of the same shape share: how often each operator makes, reads or carries the channels.

    Fang et al., "Isomorphic Pruning", arXiv:2407.04616.
    """
    return frozenset(Counter(_role(member) for member in group.members).items())


def _role(member: Member) -> tuple[str, str]:
    node = member.value.producer()
    if node is None:
        node = next(iter(member.value.uses()))[0] if member.value.uses() else None
    return ("" if node is None else edit.op_of(node)), member.role
