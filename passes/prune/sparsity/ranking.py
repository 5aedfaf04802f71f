"""Which channels compete with which: those of one group, of all groups, or of groups of the same kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from onnxcompress.channels.groups import Group, Groups, Member
from onnxcompress.graph import edit

from ..masks.masks import lowest, settle

Ranking: TypeAlias = Literal["local", "global", "isomorphic"]


@dataclass(frozen=True)
class Ranker:
    """Chooses channels by their scores.

    Attributes
    ----------
    groups : Groups
    scores : mapping
        Group name → one score for each channel.
    ranking : {"local", "global", "isomorphic"}
    round_to, keep_at_least : int
        Of each group a multiple stays, and at least so many.
    fixed : mapping
        Group name → its own share, whatever is asked of the others.
    """

    groups: Groups
    scores: Mapping[str, npt.NDArray[np.float64]]
    ranking: Ranking = "local"
    round_to: int = 1
    keep_at_least: int = 1
    fixed: Mapping[str, float] = field(default_factory=dict)

    def choose(self, share: float) -> dict[str, list[int]]:
        """Return the channels that go when `share` of all that compete shall go."""
        alone = {n: s for n, s in self.scores.items() if self.ranking == "local" or n in self.fixed}
        shares = {name: self.fixed.get(name, share) for name in alone}
        chosen = lowest(self.groups, alone, shares, self.round_to, self.keep_at_least)
        pools: dict[Hashable, list[Group]] = {}
        for group in self.groups.prunable:
            if group.name in self.scores and group.name not in alone:
                pools.setdefault(kind_of(group) if self.ranking == "isomorphic" else None, []).append(group)
        for pool in pools.values():
            chosen |= self._pooled(pool, share)
        return chosen

    def only(self, name: str, share: float) -> list[int]:
        """Return the channels that go when this group alone loses `share` of its channels."""
        one = {name: self.scores[name]}
        return lowest(self.groups, one, share, self.round_to, self.keep_at_least).get(name, [])

    def _pooled(self, pool: list[Group], share: float) -> dict[str, list[int]]:
        """Take the lowest of all channels of several groups; what each group must keep does not compete."""
        free = [self._free(group) for group in pool]
        owner = np.repeat(np.arange(len(pool)), [len(channels) for channels in free])
        channel = np.concatenate(free)
        score = np.concatenate([self.scores[g.name][channels] for g, channels in zip(pool, free, strict=True)])
        count = int(share * sum(group.size for group in pool))
        order = np.argsort(score, kind="stable")[:count]
        chosen = {}
        for number, group in enumerate(pool):
            gone = channel[order[owner[order] == number]].tolist()
            if settled := settle(group.size, gone, self.round_to, self.keep_at_least):
                chosen[group.name] = settled
        return chosen

    def _free(self, group: Group) -> npt.NDArray[np.int64]:
        """Return the channels that may go: all but the best ones that must stay, and one of each stratum."""
        order = np.argsort(self.scores[group.name], kind="stable")
        keep = np.zeros(group.size, bool)
        keep[order[max(group.size - self.keep_at_least, 0) :]] = True
        for stratum in np.unique(group.strata):
            keep[order[group.strata[order] == stratum][-1]] = True
        return np.flatnonzero(~keep)


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
