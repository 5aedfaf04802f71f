"""Choose the dead channels that stay, so that each group keeps a width at which it runs well."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from onnxcompress.channels.dead import find_dead, uses_of
from onnxcompress.channels.groups import Groups
from onnxcompress.contract import Context
from onnxcompress.layer_times.good_widths import narrowest, tried
from onnxcompress.layer_times.model_time import ModelTime, model_time

Channels = dict[str, list[int]]
Folds = dict[str, npt.NDArray[np.float64]]

ROUNDS = 3
"""How often widths are looked at again when channels that stay keep others."""


def padded(groups: Groups, gone: Channels, folds: Folds, context: Context) -> tuple[Channels, Folds, Channels]:
    """Let some dead channels stay where narrower groups are slower.

    Parameters
    ----------
    groups : Groups
    gone, folds : dict
        All that could go, as in `Dead`.
    context : Context

    Returns
    -------
    gone, folds, spared : dict
        What goes, and which dead channels stay.
    """
    spared: Channels = {}
    if not gone:
        return gone, folds, spared
    parts, uses = model_time(groups, context.layer_times, context.feed), uses_of(groups)
    numbers = {group.name: number for number, group in enumerate(groups.prunable)}
    for _ in range(ROUNDS):
        kept = parts.widths.counts({name: groups.prunable[numbers[name]].size - len(c) for name, c in gone.items()})
        more = _missing(parts, [numbers[name] for name in gone], kept)
        if not any(more.values()):
            break
        for name, channels in gone.items():
            if count := more[numbers[name]]:
                spared[name] = sorted({*spared.get(name, ()), *channels[-count:]})
        labels = [
            label for name, stay in spared.items() for label in groups.prunable[numbers[name]].labels[stay].tolist()
        ]
        dead = find_dead(groups, uses, labels)
        gone, folds = dead.channels, dead.folds
    return gone, folds, spared


def _missing(parts: ModelTime, numbers: list[int], kept: list[int]) -> dict[int, int]:
    """Return how many channels each group lacks to the narrowest width that runs well."""
    parts.prepare_around({number: tried(kept[number], parts.widths.full[number]) for number in numbers}, kept)
    return {number: narrowest(parts, number, kept[number], kept) - kept[number] for number in numbers}
