"""Channels that were zeroed and still cannot go: nothing of that kind stays without a word."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..graph import edit
from .dead import Dead, Use
from .groups import Group, Groups, Member
from .removal import labels_of


def masked_but_alive(groups: Groups, uses: list[Use], dead: Dead) -> dict[str, str]:
    """Say of each group which zeroed channels stay, and what still reads them.

    Parameters
    ----------
    groups : Groups
    uses : list of Use
        Those of `uses_of`.
    dead : Dead
        What `find_dead` found in these groups.

    Returns
    -------
    dict
        Group name → how many channels stay, and why.
    """
    owner, counts = np.full(groups.engine.labels.count, -1), dict[int, int]()
    for number, group in enumerate(groups.prunable):
        zeroed = _zeroed(group)
        zeroed[dead.channels.get(group.name, [])] = False
        if zeroed.any() and not zeroed.all() and group.name not in dead.kept:
            owner[group.labels[zeroed]], counts[number] = number, int(zeroed.sum())
    readers = _first_readers(owner, uses, groups.table(labels_of(groups, dead.channels))) if counts else {}
    return {
        groups.prunable[number].name: f"{count} zero channels stay: {readers[number]} still reads something there"
        for number, count in counts.items()
        if number in readers
    }


def _first_readers(owner: npt.NDArray[np.int64], uses: list[Use], gone: npt.NDArray[np.bool_]) -> dict[int, str]:
    """Return the first operator that still reads some label of each owner; -1 owns nothing."""
    found: dict[int, str] = {}
    for use in uses:
        if (owner[use.rows] >= 0).any():
            for number in np.unique(owner[use.rows[:, use.alive(gone)]]).tolist():
                found.setdefault(number, edit.label(use.sink.node))
    return found


def _zeroed(group: Group) -> npt.NDArray[np.bool_]:
    """Tell of each channel whether all weights that make it are zero; without such, all that read it."""
    made = [m for m in group.members if m.role == "out"] or [m for m in group.members if m.role == "in"]
    zero = np.full(group.size, bool(made))
    for member in made:
        alive = member.index[~_is_zero(member)]
        zero[alive[alive >= 0]] = False
    return zero


def _is_zero(member: Member) -> npt.NDArray[np.bool_]:
    array = edit.array(member.value)
    nonzero: npt.NDArray[np.bool_] = (array != 0).any(axis=tuple(d for d in range(array.ndim) if d != member.axis))
    return ~nonzero
