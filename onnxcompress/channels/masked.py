"""Channels that were zeroed and still cannot go: nothing of that kind stays without a word."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..graph import edit
from .constants import Constants
from .dead import Dead, use_of
from .groups import Group, Groups, Member


def masked_but_alive(groups: Groups, dead: Dead) -> dict[str, str]:
    """Say of each group which zeroed channels stay, and what still reads them.

    Parameters
    ----------
    groups : Groups
    dead : Dead
        What `find_dead` found in these groups.

    Returns
    -------
    dict
        Group name → how many channels stay, and why.
    """
    found = {}
    constants = Constants(groups.engine)
    for group in groups.prunable:
        zeroed = _zeroed(group)
        zeroed[dead.channels.get(group.name, [])] = False
        if zeroed.any() and not zeroed.all() and group.name not in dead.kept:
            readers = _readers(groups, constants, group.labels[zeroed])
            if readers:
                found[group.name] = f"{int(zeroed.sum())} zero channels stay: {readers[0]} still reads something there"
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
    tensor = edit.constant(member.value)
    assert tensor is not None
    array = tensor.numpy()
    nonzero: npt.NDArray[np.bool_] = (array != 0).any(axis=tuple(d for d in range(array.ndim) if d != member.axis))
    return ~nonzero


def _readers(groups: Groups, constants: Constants, labels: npt.NDArray[np.int64]) -> list[str]:
    table = groups.table(labels.tolist())
    found = []
    for sink in groups.sinks:
        rows = groups.engine.labels.resolve(sink.rows)
        if (table[rows].any(0) & use_of(groups, constants, sink).alive).any():
            found.append(edit.label(sink.node))
    return found
